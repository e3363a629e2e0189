// See torch_compression.h.
#include "khorus/torch_compression.h"

#include <ATen/ATen.h>

namespace khorus::torch {
namespace {

class CastCompressor : public Compressor {
 public:
  explicit CastCompressor(at::ScalarType narrow) : narrow_(narrow) {}

  Compressed compress(const at::Tensor& tensor) const override {
    const at::ScalarType wide = tensor.scalar_type();
    const bool shrinks = at::isFloatingType(wide) && at::elementSize(wide) > 2;
    return {shrinks ? tensor.to(narrow_) : tensor, wide};
  }
  at::Tensor decompress(const at::Tensor& tensor, const std::any& context) const override {
    return tensor.to(std::any_cast<at::ScalarType>(context));
  }

 private:
  const at::ScalarType narrow_;
};

}  // namespace

const CompressorPtr Compression::none = nullptr;
const CompressorPtr Compression::fp16 = std::make_shared<CastCompressor>(at::kHalf);
const CompressorPtr Compression::bf16 = std::make_shared<CastCompressor>(at::kBFloat16);

}  // namespace khorus::torch

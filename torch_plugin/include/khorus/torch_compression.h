// Compression: gradients travel as 16-bit floats and come back as they were.
//
//   DistributedOptimizer(..., {.compression = Compression::fp16});
//   allreduce(tensor, {.name = "x", .compression = Compression::bf16});
//
// The reduction of 16-bit floats accumulates in float32 and rounds once. float16 keeps 11 bits and
// overflows at 65504 (gradient_predivide_factor helps); bfloat16 keeps 8 bits and never overflows.
// All ranks give the same compressor.
//
// Thread rule: a Compressor has no state that changes; any thread.
#pragma once

#include <torch/types.h>

#include <any>
#include <memory>

namespace khorus::torch {

// What is done to a tensor before it is reduced and after. Write your own for another format.
class Compressor {
 public:
  // What travels (reduced element by element over the ranks), and what decompress() must know.
  struct Compressed {
    ::torch::Tensor tensor;
    std::any context;
  };

  virtual ~Compressor() = default;
  // May return the tensor itself; does not change it.
  virtual Compressed compress(const ::torch::Tensor& tensor) const = 0;
  virtual ::torch::Tensor decompress(const ::torch::Tensor& tensor,
                                     const std::any& context) const = 0;
};

using CompressorPtr = std::shared_ptr<const Compressor>;

struct Compression {
  static const CompressorPtr none;  // null
  // Float tensors wider than 16 bits become float16 or bfloat16; others stay as they are.
  static const CompressorPtr fp16;
  static const CompressorPtr bf16;
};

}  // namespace khorus::torch

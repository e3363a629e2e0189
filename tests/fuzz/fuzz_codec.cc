// libFuzzer: wire::decode takes any bytes, and what it accepts encodes to bytes that decode to the
// same.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "core/wire/codec.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace khorus;
  const Result<wire::Frame> first = wire::decode(std::as_bytes(std::span(data, size)));
  if (!first.ok()) return 0;
  const wire::Bytes bytes = wire::encode(*first);
  const Result<wire::Frame> second = wire::decode(bytes);
  // Compared as bytes: a NaN is not equal to itself.
  if (!second.ok() || wire::encode(*second) != bytes) std::abort();
  return 0;
}

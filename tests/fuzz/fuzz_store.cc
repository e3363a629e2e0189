// libFuzzer: the messages of the rendezvous store take any bytes; what is accepted survives
// encoding.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "core/net/store_protocol.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace khorus::net;
  const auto bytes = std::as_bytes(std::span(data, size));
  if (const auto request = decode_store_request(bytes)) {
    const auto again = encode(*request);
    if (!std::equal(again.begin(), again.end(), bytes.begin(), bytes.end())) std::abort();
  }
  if (const auto answer = decode_store_answer(bytes)) {
    const auto again = encode(*answer);
    if (!std::equal(again.begin(), again.end(), bytes.begin(), bytes.end())) std::abort();
  }
  return 0;
}

// libFuzzer: the handshake and the frame opening of core/net take any bytes and let no one in.
//
// The input is what a stranger without the job key sends: nothing of it may be accepted.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "core/net/authentication.h"
#include "core/net/frame_seal.h"

namespace {

using namespace khorus;
using namespace khorus::net;

template <size_t kSize>
std::array<std::byte, kSize> take(std::span<const std::byte>* input) {
  std::array<std::byte, kSize> out{};
  const size_t size = std::min(kSize, input->size());
  std::copy_n(input->begin(), size, out.begin());
  *input = input->subspan(size);
  return out;
}

JobKey job_key() {
  std::array<std::byte, JobKey::kBytes> bytes{};
  bytes.fill(std::byte{0x5a});
  return JobKey::from_bytes(bytes);
}

Identity identity(int32_t rank) { return {Role::kRank, rank, 1, "job"}; }

void answer_a_stranger(std::span<const std::byte> input) {
  ResponderHandshake responder(job_key(), identity(0), Role::kRank,
                               [](int32_t) { return Status(); });
  const auto answer = responder.receive_hello(take<kHelloBytes>(&input));
  if (!answer.status.ok()) return;
  if (responder.receive_confirm(take<kConfirmBytes>(&input)).ok()) std::abort();
}

void call_a_stranger(std::span<const std::byte> input) {
  InitiatorHandshake initiator(job_key(), identity(1), Role::kRank, 0);
  if (!initiator.hello().ok()) std::abort();
  if (initiator.receive_hello(take<kHelloBytes>(&input)).ok()) std::abort();
}

void open_frames(std::span<const std::byte> input) {
  SecretBytes key;
  std::fill(key.bytes().begin(), key.bytes().end(), std::byte{7});
  constexpr size_t kLimit = 4096;
  FrameOpen open(key, kLimit);
  while (input.size() >= kFrameHeaderBytes) {
    const auto header = take<kFrameHeaderBytes>(&input);
    const Result<size_t> size = open.payload_bytes(header);
    if (!size.ok()) return;
    if (*size > kLimit) std::abort();
    if (*size > input.size()) return;
    if (open.open(header, input.first(*size)).ok()) std::abort();
    input = input.subspan(*size);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const auto input = std::as_bytes(std::span(data, size)).subspan(1);
  switch (data[0] % 3) {
    case 0:
      answer_a_stranger(input);
      break;
    case 1:
      call_a_stranger(input);
      break;
    default:
      open_frames(input);
  }
  return 0;
}

// Alltoall and sendrecv, over letter boxes; see collectives.h.
//
// A rank has a box of two pieces for every other one. It puts a piece in when the piece before the
// last has been taken out. Two counters per pair say how many were put in and taken out, so these
// operations leave the clocks alone, which ranks that take no part could not follow.
#include <algorithm>
#include <cstring>
#include <vector>

#include "backends/shm/collectives.h"
#include "khorus/types.h"

namespace khorus::backends::shm {

// What goes to one peer and comes from it, in bytes.
struct Collectives::Letters {
  int peer;
  const std::byte* input;
  size_t input_bytes;
  std::byte* output;
  size_t output_bytes;
};

void Collectives::post(int peer, const std::byte* data, size_t bytes) {
  uint64_t& posted = posted_[static_cast<size_t>(peer)];
  if (posted >= 2) signals_.wait_taken(peer, posted - 1);
  std::memcpy(own(layout_.box(peer, posted % 2)), data, bytes);
  signals_.count_sent(peer);
  ++posted;
}

void Collectives::take(int peer, std::byte* data, size_t bytes) {
  uint64_t& taken = taken_[static_cast<size_t>(peer)];
  signals_.wait_sent(peer, taken + 1);
  std::memcpy(data, of(peer, layout_.box(rank_, taken % 2)), bytes);
  signals_.count_taken(peer);
  ++taken;
}

// In rounds: everybody puts in its piece k for all, then takes out piece k of all. To put in piece
// k somebody waits at most for what others do before their piece k, so nobody waits in a circle.
void Collectives::exchange(std::span<Letters> letters) {
  const size_t whole = layout_.box_bytes();
  size_t largest = 0;
  for (const Letters& letter : letters) {
    largest = std::max({largest, letter.input_bytes, letter.output_bytes});
  }
  for (size_t done = 0; done < largest; done += whole) {
    for (const Letters& letter : letters) {
      if (done >= letter.input_bytes) continue;
      post(letter.peer, letter.input + done, std::min(whole, letter.input_bytes - done));
    }
    for (const Letters& letter : letters) {
      if (done >= letter.output_bytes) continue;
      take(letter.peer, letter.output + done, std::min(whole, letter.output_bytes - done));
    }
  }
}

void Collectives::alltoall(const khorus_op& op) {
  const size_t width = width_of(op);
  std::vector<Letters> all;
  size_t sent = 0, received = 0;
  for (size_t r = 0; r < ranks(); ++r) {
    all.push_back({.peer = static_cast<int>(r),
                   .input = input_at(op, sent),
                   .input_bytes = op.counts[r] * width,
                   .output = output_at(op, received),
                   .output_bytes = op.recv_counts[r] * width});
    sent += all.back().input_bytes;
    received += all.back().output_bytes;
  }
  const auto self = all.begin() + rank_;
  copy(self->output, self->input, self->output_bytes);
  // Beginning with the next rank, so that not all turn to the same one first.
  std::rotate(all.begin(), self, all.end());
  exchange(std::span(all).subspan(1));
}

void Collectives::sendrecv(const khorus_op& op) {
  const size_t width = width_of(op);
  Letters letters{.peer = op.peer,
                  .input = input_at(op, 0),
                  .input_bytes = op.count * width,
                  .output = output_at(op, 0),
                  .output_bytes = op.recv_count * width};
  exchange(std::span(&letters, 1));
}

}  // namespace khorus::backends::shm

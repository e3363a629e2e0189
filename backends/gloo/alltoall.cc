// Alltoall and send/recv: blocks that go from one rank to another as they are; see collectives.h.
#include <cstring>

#include "backends/gloo/collectives.h"
#include "backends/operation.h"
#include "khorus/types.h"

namespace khorus::backends::gloo {
namespace {

// Largest message: bounds what one can hold up.
constexpr size_t kPieceBytes = 64 * 1024 * 1024;

std::span<const std::byte> input_of(const khorus_op& op) {
  return {static_cast<const std::byte*>(op.input), op.count * width_of(op)};
}

// The blocks that `memory` begins with, by rank.
template <class Byte>
std::vector<std::span<Byte>> blocks_of(Byte* memory, std::span<const uint64_t> counts,
                                       size_t width) {
  std::vector<std::span<Byte>> blocks;
  for (const uint64_t count : counts) {
    blocks.emplace_back(memory, count * width);
    memory += count * width;
  }
  return blocks;
}

}  // namespace

void Collectives::alltoall(const khorus_op& op) {
  const size_t width = width_of(op);
  const size_t size = static_cast<size_t>(mesh_.size());
  const auto sent = blocks_of(static_cast<const std::byte*>(op.input), {op.counts, size}, width);
  const auto received =
      blocks_of(static_cast<std::byte*>(op.output), {op.recv_counts, size}, width);
  const auto to = [&](int rank) { return sent[static_cast<size_t>(rank)]; };
  const auto from = [&](int rank) { return received[static_cast<size_t>(rank)]; };
  for_each_peer([&](int peer) { post_recv(peer, from(peer)); });
  for_each_peer([&](int peer) { post_send(peer, to(peer)); });
  // The own block is copied while the others travel.
  const std::span<const std::byte> own = to(mesh_.rank());
  if (!own.empty()) std::memcpy(from(mesh_.rank()).data(), own.data(), own.size());
  for_each_peer([&](int peer) { wait_both(peer, from(peer).size(), to(peer).size()); });
}

void Collectives::sendrecv(const khorus_op& op) {
  const std::span<const std::byte> sent = input_of(op);
  const std::span<std::byte> received(static_cast<std::byte*>(op.output),
                                      op.recv_count * width_of(op));
  post_recv(op.peer, received);
  post_send(op.peer, sent);
  wait_both(op.peer, received.size(), sent.size());
}

void Collectives::post_recv(int peer, std::span<std::byte> block) {
  for_each_piece(block, kPieceBytes, [&](std::span<std::byte> piece) {
    mesh_.recv(peer, Lane::kGather, piece.data(), piece.size());
  });
}

void Collectives::post_send(int peer, std::span<const std::byte> block) {
  for_each_piece(block, kPieceBytes, [&](std::span<const std::byte> piece) {
    mesh_.send(peer, Lane::kGather, piece.data(), piece.size());
  });
}

void Collectives::wait_both(int peer, size_t received_bytes, size_t sent_bytes) {
  for (size_t done = 0; done < received_bytes; done += kPieceBytes) {
    mesh_.wait_recv(peer, Lane::kGather);
  }
  for (size_t done = 0; done < sent_bytes; done += kPieceBytes) {
    mesh_.wait_send(peer, Lane::kGather);
  }
}

}  // namespace khorus::backends::gloo

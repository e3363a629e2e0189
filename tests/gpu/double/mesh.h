// Mesh: the sockets between the ranks of one communicator of the NCCL double, which are threads of
// one process or processes of one network namespace.
//
// The process that makes the unique id serves a meeting on an abstract Unix socket named after it:
// ranks come when they listen on a socket of their own, and are let go when all have come. Then
// every two ranks connect. A message is a header and its bytes; both sides say what they think they
// do, and a difference ends the process: with the real library it would hang or move garbage.
//
// Thread rule: connect() by one thread, then exchange() by one at a time; stop() by any.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <vector>

namespace khorus::gpu_double {

// Serves the meeting on a thread of its own. Returns its name.
std::string serve_meeting();

// Bytes to and from one peer.
struct Message {
  int peer = 0;
  bool sends = false;
  std::byte* bytes = nullptr;
  size_t size = 0;
};

class Mesh {
 public:
  // kRefused: two ranks use one GPU, and KHORUS_DOUBLE_ONE_RANK_PER_GPU is set.
  enum class Outcome { kDone, kPeerGone, kStopped, kRefused };
  struct Seat {
    int rank;
    int size;
    int device;
  };

  Mesh(std::string meeting, const Seat& seat);
  ~Mesh();
  Mesh(const Mesh&) = delete;
  Mesh& operator=(const Mesh&) = delete;

  Outcome connect();
  // Moves all messages; those of one peer and direction in their order. `what` is compared.
  Outcome exchange(uint64_t what, const std::vector<Message>& messages);
  void stop();
  // Blocks until stop().
  void wait_for_stop();

 private:
  struct Header {
    uint64_t what;
    uint64_t size;
  };
  // What is under way to or from one peer.
  struct Flow {
    std::deque<Message> messages;
    size_t done = 0;  // bytes of the first one, its header first
    Header header{};
  };

  Outcome meet();
  Outcome accept_from(int expected);
  Outcome wait_for(int socket, short events);
  Outcome move_bytes(int socket, bool sends, void* bytes, size_t size);
  // One step of a flow; false: the peer is gone.
  bool step(int peer, Flow& flow, bool sends, uint64_t what);
  void check(int peer, const Flow& flow, uint64_t what) const;

  const std::string meeting_;
  const Seat seat_;
  const int rank_;
  const int size_;
  int listener_ = -1;
  int stopper_ = -1;          // an eventfd, readable from stop() on
  std::vector<int> sockets_;  // by rank
};

}  // namespace khorus::gpu_double

// Mesh: connections to every other rank of the group, as Gloo's TCP transport makes them.
//
// What it adds to Gloo: the addresses meet through the engine's exchange; both ends prove with a
// random token that they took part in it; interrupt() ends every wait, also in the middle of a
// message; a failure names the peer; and messages of a few bytes take one way, without Gloo's
// announce-and-wait. Gloo's algorithms are not used (collectives.h says why).
//
// Two kinds of messages:
//   - small: everybody to everybody, through buffers that are registered once (Gloo "buffers").
//     Two sets of buffers take turns: nobody can be two rounds ahead of a rank whose message of the
//     round between it needs.
//   - large: to and from any memory (Gloo "unbound buffers"), on two lanes. Between two ranks the
//     n-th message sent on a lane is the n-th one received: each pair counts for itself, so that it
//     does not matter what either of them did with other ranks meanwhile.
// Gloo forgets the waiter of a message that is half received when the connection breaks. So each
// lane has a receive posted that never completes: it is what gets the news.
//
// Thread rule: one thread at a time, but interrupt() from any. Everything that blocks throws
// Failure; after that only interrupt() and the destructor may be called. Gloo's own loop thread,
// one per mesh, moves the bytes.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "backends/gloo/peer_socket.h"
#include "backends/gloo/small_slot.h"

namespace gloo::transport {
class Buffer;
class Context;
class Device;
class Pair;
class UnboundBuffer;
}  // namespace gloo::transport

namespace khorus::backends::gloo {

// A peer that does not answer, or whose connection is gone.
class Failure : public std::runtime_error {
 public:
  Failure(int peer, bool timed_out, const std::string& what)
      : std::runtime_error(what), peer_(peer), timed_out_(timed_out) {}
  int peer() const { return peer_; }
  bool timed_out() const { return timed_out_; }

 private:
  int peer_;
  bool timed_out_;
};

enum class Lane : uint8_t { kScatter = 0, kGather = 1 };

class Mesh {
 public:
  struct Options {
    int rank = 0;
    int size = 1;
    std::chrono::milliseconds timeout{0};  // of one wait
    std::string interface;                 // "": loopback
  };
  // Largest small message.
  static constexpr size_t kSmallBytes = SmallSlot::kMostBytes;

  explicit Mesh(const Options& options);
  ~Mesh();
  Mesh(const Mesh&) = delete;
  Mesh& operator=(const Mesh&) = delete;

  // Opens the listening sockets; returns what every other rank must know for connect().
  std::string listen();
  // Connects to everybody. `cards`: what listen() returned on each rank.
  void connect(const std::vector<std::string>& cards);
  // Ends every wait, now and later, with a Failure.
  void interrupt() noexcept;
  bool interrupted() const;

  int rank() const { return options_.rank; }
  int size() const { return options_.size; }

  // Memory for this rank's next small message, of `bytes`; aligned to 16.
  std::span<std::byte> small_message(size_t bytes);
  // Sends it to everybody, and waits for theirs.
  void exchange_small();
  // What `rank` sent in the last round, this rank's own included; constant until the next round.
  std::span<const std::byte> small_from(int rank);

  // Start to send or receive; the memory must stay until the matching wait has returned. The other
  // side must receive, or send, as many bytes.
  void send(int rank, Lane lane, const void* data, size_t bytes);
  void recv(int rank, Lane lane, void* data, size_t bytes);
  // Wait for the oldest one that has not been waited for.
  void wait_send(int peer, Lane lane);
  void wait_recv(int peer, Lane lane);

  // After a Failure: makes sure that nothing touches the caller's memory any more. Quick.
  void give_up() noexcept;

 private:
  using Token = std::array<std::byte, 16>;
  struct Card;
  struct Peer;

  Card read_card(int peer, const std::string& bytes) const;
  void connect_pair(int peer, const SocketName& theirs);
  void prove_tokens(const std::vector<Token>& tokens);
  void prepare(Peer& peer, ::gloo::transport::Pair& pair);
  // Both turn Gloo's exceptions into a Failure of `peer`; wait() is for functions that wait.
  template <class Function>
  void guarded(int peer, Function&& function);
  template <class Function>
  void wait(int peer, Function&& function);
  void wait_small(int rank);
  // The slot of a round in the memory of two of them.
  static SmallSlot slot_in(std::vector<std::byte>& box, uint64_t round);
  Peer& peer(int rank) { return *peers_[static_cast<size_t>(rank)]; }
  ::gloo::transport::UnboundBuffer& lane_of(int rank, Lane lane);

  const Options options_;
  Token token_{};
  std::shared_ptr<::gloo::transport::Device> device_;
  std::shared_ptr<::gloo::transport::Context> context_;
  std::vector<std::unique_ptr<Peer>> peers_;  // by rank; null for this one
  std::vector<std::byte> outbox_;             // two small slots
  uint64_t round_ = 1;                        // of small messages: the next one

  mutable std::mutex mutex_;  // of what interrupt() looks at
  bool interrupted_ = false;
  ::gloo::transport::Pair* connecting_ = nullptr;
  std::vector<PeerSocket> sockets_;
};

}  // namespace khorus::backends::gloo

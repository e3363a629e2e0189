// Acceptor: lets authenticated peers in, and bounds what strangers can cost.
//
// Until it has authenticated, a peer costs one of `max_strangers` slots for at most
// `stranger_timeout`, two fixed-size reads and one fixed-size answer. When all slots are taken no
// further connection is accepted: they queue in the kernel, first come first served, so that a new
// one displaces nobody. A slot whose stranger was turned away is free `slot_rest` after it was
// taken, and not before, so that slots bound the time a crowd costs, however fast it is. TLS begins
// only when the peer has proved the key; it keeps its slot and its deadline until TLS stands.
//
// Thread rule: the thread that runs the io_context. Callbacks run there and may call stop().
#pragma once

#include <chrono>
#include <functional>
#include <memory>

#include "core/net/asio.h"
#include "core/net/authentication.h"
#include "core/net/stream.h"

namespace khorus::net {

struct AcceptorOptions {
  JobKey key;
  Identity self;
  Role peer_role = Role::kRank;
  int max_strangers = 64;
  std::chrono::milliseconds stranger_timeout{5'000};
  std::chrono::milliseconds slot_rest{400};  // 64 slots: at most 160 strangers per second
  // Whether a rank may connect now; asked when it says hello, again when it has proved the key, and
  // again when TLS stands, if self.tls.
  ResponderHandshake::Admission admission;
  std::function<void(int32_t rank, Stream stream, const SessionKeys& keys)> on_member;
  // A peer was turned away. `rank` is what it claims, -1 if that is not verified.
  std::function<void(int32_t rank, const Status& why)> on_refused;
};

class Acceptor {
 public:
  // `listening` from Socket::listen().
  Acceptor(asio::io_context& io, Socket listening, AcceptorOptions options);
  // As stop().
  ~Acceptor();
  Acceptor(const Acceptor&) = delete;
  Acceptor& operator=(const Acceptor&) = delete;

  void start();
  // Closes the listening socket and every stranger. No callback comes after it.
  void stop() noexcept;

 private:
  class State;
  std::shared_ptr<State> state_;
};

}  // namespace khorus::net

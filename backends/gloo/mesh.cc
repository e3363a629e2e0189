// See mesh.h. Gloo's headers are included here and nowhere else.
#include "backends/gloo/mesh.h"

#include <gloo/common/error.h>
#include <gloo/transport/context.h>
#include <gloo/transport/device.h>
#include <gloo/transport/pair.h>
#include <gloo/transport/tcp/address.h>
#include <gloo/transport/tcp/device.h>
#include <net/if.h>
#include <sys/random.h>

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <stop_token>
#include <thread>
#include <utility>

namespace khorus::backends::gloo {
namespace {

namespace transport = ::gloo::transport;
using Clock = std::chrono::steady_clock;

constexpr int kSmallSlot = 0;
// Gloo's name for the n-th message on a lane.
uint64_t tag_of(Lane lane, uint64_t n) { return 2 * n + static_cast<uint64_t>(lane); }
// That of the receive that never completes.
constexpr uint64_t kNewsTag = ~uint64_t{0};
// Of one connection; the kernel gives what net.core.wmem_max allows.
constexpr int kSendBufferBytes = 4 * 1024 * 1024;
// How long the connections may take to notice that they were shut down. It takes microseconds.
constexpr std::chrono::milliseconds kNoticeTime{200};

uint16_t port_of(const SocketName& name) {
  return name.ss_family == AF_INET ? reinterpret_cast<const sockaddr_in&>(name).sin_port
                                   : reinterpret_cast<const sockaddr_in6&>(name).sin6_port;
}

SocketName with_port(SocketName name, uint16_t port) {
  if (name.ss_family == AF_INET) {
    reinterpret_cast<sockaddr_in&>(name).sin_port = port;
  } else {
    reinterpret_cast<sockaddr_in6&>(name).sin6_port = port;
  }
  return name;
}

// Without the "[file:line]" that Gloo's messages begin with.
std::string without_place(const std::string& text) {
  const size_t end = text.find("] ");
  const bool has_place = text.starts_with('[') && text.find(".cc:") < end;
  return has_place && end != std::string::npos ? text.substr(end + 2) : text;
}

// Interrupts the mesh if it is not destroyed in time.
class Watchdog {
 public:
  Watchdog(Mesh& mesh, std::chrono::milliseconds timeout)
      : thread_([this, &mesh, timeout](const std::stop_token& stop) {
          std::unique_lock lock(mutex_);
          stopped_.wait_for(lock, stop, timeout, [] { return false; });
          if (stop.stop_requested()) return;
          expired_ = true;
          mesh.interrupt();
        }) {}
  bool expired() {
    const std::scoped_lock lock(mutex_);
    return expired_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable_any stopped_;
  bool expired_ = false;
  std::jthread thread_;  // last: stopped and joined before the rest goes
};

}  // namespace

// What a rank tells the others: its token, and where its socket for each of them listens. All its
// sockets have the same address, so ports are enough.
struct Mesh::Card {
  Token token{};
  SocketName address{};
  std::vector<uint16_t> ports;  // in network order, by rank

  std::string bytes() const {
    std::string text(sizeof(token) + sizeof(address) + ports.size() * sizeof(uint16_t), '\0');
    char* at = text.data();
    std::memcpy(at, &token, sizeof(token));
    std::memcpy(at + sizeof(token), &address, sizeof(address));
    std::memcpy(at + sizeof(token) + sizeof(address), ports.data(),
                ports.size() * sizeof(uint16_t));
    return text;
  }
};

struct Mesh::Peer {
  transport::Pair* pair = nullptr;  // the context's
  SocketName listening{};           // this rank's socket for that peer
  std::vector<std::byte> inbox;     // two small slots
  // After the memory they refer to: they go first.
  std::unique_ptr<transport::Buffer> small_out;
  std::unique_ptr<transport::Buffer> small_in;
  std::array<std::unique_ptr<transport::UnboundBuffer>, 2> lanes;
  // Messages so far, by lane.
  std::array<uint64_t, 2> sent{};
  std::array<uint64_t, 2> received{};
};

Mesh::Mesh(const Options& options) : options_(options) {}

Mesh::~Mesh() {
  // What was sent still arrives; then the peers see the end, whoever else holds the descriptors.
  for (const PeerSocket& socket : sockets_) {
    interrupted() ? socket.shutdown() : socket.finish();
  }
  // Buffers before pairs (the context's), pairs before the device and its thread.
  for (auto& peer : peers_) {
    if (peer != nullptr) peer->lanes = {};
  }
  peers_.clear();
  sockets_.clear();
  context_.reset();
  device_.reset();
}

std::string Mesh::listen() {
  if (::getrandom(token_.data(), token_.size(), 0) != static_cast<ssize_t>(token_.size())) {
    throw std::runtime_error("the system gives no random bytes");
  }
  transport::tcp::attr attributes;
  if (options_.interface.empty()) {
    attributes.hostname = "127.0.0.1";
  } else if (::if_nametoindex(options_.interface.c_str()) != 0) {
    attributes.iface = options_.interface;
  } else {
    attributes.hostname = options_.interface;  // its address
  }
  device_ = transport::tcp::CreateDevice(attributes);
  context_ = device_->createContext(options_.rank, options_.size);
  context_->setTimeout(options_.timeout);
  outbox_.resize(2 * SmallSlot::kSlotBytes);
  peers_.resize(static_cast<size_t>(options_.size));
  Card card{.token = token_, .address = {}, .ports = {}};
  for (int r = 0; r < options_.size; ++r) {
    card.ports.push_back(0);
    if (r == options_.rank) continue;
    auto& peer = peers_[static_cast<size_t>(r)] = std::make_unique<Peer>();
    prepare(*peer, *context_->createPair(r));
    card.address = peer->listening;
    card.ports.back() = port_of(peer->listening);
  }
  return card.bytes();
}

void Mesh::prepare(Peer& peer, transport::Pair& pair) {
  peer.pair = &pair;
  peer.listening = transport::tcp::Address(pair.address().bytes()).getSockaddr();
  peer.inbox.resize(2 * SmallSlot::kSlotBytes);
  peer.small_out = pair.createSendBuffer(kSmallSlot, outbox_.data(), outbox_.size());
  peer.small_in = pair.createRecvBuffer(kSmallSlot, peer.inbox.data(), peer.inbox.size());
  // From address 0 on: offsets are addresses, so one serves all memory.
  for (auto& lane : peer.lanes) lane = context_->createUnboundBuffer(nullptr, SIZE_MAX);
}

Mesh::Card Mesh::read_card(int peer, const std::string& bytes) const {
  Card card;
  card.ports.resize(static_cast<size_t>(options_.size));
  if (bytes.size() != card.bytes().size()) {
    throw Failure(peer, false,
                  "sent " + std::to_string(bytes.size()) + " bytes to connect by, not " +
                      std::to_string(card.bytes().size()) + "; do all ranks run the same version?");
  }
  std::memcpy(&card.token, bytes.data(), sizeof(card.token));
  std::memcpy(&card.address, bytes.data() + sizeof(card.token), sizeof(card.address));
  std::memcpy(card.ports.data(), bytes.data() + sizeof(card.token) + sizeof(card.address),
              card.ports.size() * sizeof(uint16_t));
  return card;
}

void Mesh::connect(const std::vector<std::string>& cards) {
  // Gloo waits five times the timeout it was given for a connection.
  Watchdog watchdog(*this, options_.timeout);
  std::vector<ListeningNames> names;
  std::vector<Token> tokens;
  for (int r = 0; r < options_.size; ++r) {
    const Card card = read_card(r, cards[static_cast<size_t>(r)]);
    tokens.push_back(card.token);
    if (r == options_.rank) continue;
    const SocketName theirs =
        with_port(card.address, card.ports[static_cast<size_t>(options_.rank)]);
    names.push_back({peer(r).listening, theirs});
    try {
      connect_pair(r, theirs);
    } catch (const Failure& failure) {
      throw Failure(r, watchdog.expired(), failure.what());
    }
  }
  std::vector<PeerSocket> found = PeerSocket::find(names);
  {
    const std::scoped_lock lock(mutex_);
    sockets_ = std::move(found);
    if (interrupted_) throw Failure(-1, watchdog.expired(), "interrupted while connecting");
  }
  for (int r = 0; r < options_.size; ++r) {
    if (r == options_.rank) continue;
    for (const Lane lane : {Lane::kScatter, Lane::kGather}) {
      guarded(r, [&] { lane_of(r, lane).recv(r, kNewsTag - static_cast<uint64_t>(lane), 0, 1); });
    }
  }
  prove_tokens(tokens);
}

void Mesh::connect_pair(int peer_rank, const SocketName& theirs) {
  {
    const std::scoped_lock lock(mutex_);
    if (interrupted_) throw Failure(peer_rank, false, "interrupted");
    connecting_ = peer(peer_rank).pair;
  }
  guarded(peer_rank,
          [&] { peer(peer_rank).pair->connect(transport::tcp::Address(theirs).bytes()); });
  const std::scoped_lock lock(mutex_);
  connecting_ = nullptr;
  if (interrupted_) throw Failure(peer_rank, false, "interrupted");
}

// Whoever reached one of our sockets first was accepted: it must know what only the authenticated
// exchange told the ranks of this group.
void Mesh::prove_tokens(const std::vector<Token>& tokens) {
  if (tokens.size() * sizeof(Token) > kSmallBytes) {
    throw Failure(
        -1, false,
        "a Gloo group has at most " + std::to_string(kSmallBytes / sizeof(Token)) + " ranks");
  }
  // Each peer wants to see its own token; one small message goes to all, so it holds all of them.
  // Gloo fits a connection's send buffer to the largest small message, far too little for large
  // ones. Having seen the largest there can be, it will not do so again.
  std::memcpy(small_message(kSmallBytes).data(), tokens.data(), tokens.size() * sizeof(Token));
  exchange_small();
  for (const PeerSocket& socket : sockets_) socket.set_send_buffer(kSendBufferBytes);
  for (int r = 0; r < options_.size; ++r) {
    const size_t mine = static_cast<size_t>(options_.rank) * sizeof(Token);
    const std::span<const std::byte> message = small_from(r);
    if (message.size() != kSmallBytes ||
        !std::equal(token_.begin(), token_.end(), message.begin() + mine)) {
      throw Failure(r, false,
                    "the connection is not with that rank: it does not know this group's "
                    "token");
    }
  }
}

void Mesh::interrupt() noexcept {
  const std::scoped_lock lock(mutex_);
  interrupted_ = true;
  for (const PeerSocket& socket : sockets_) socket.shutdown();
  if (connecting_ != nullptr) {
    try {
      connecting_->close();
    } catch (const std::exception&) {
      // It was closed already: the waiter knows.
    }
  }
}

bool Mesh::interrupted() const {
  const std::scoped_lock lock(mutex_);
  return interrupted_;
}

// Gloo tells of a broken connection before it tells of a message that had arrived on it. A peer
// that is through with its last operation closes its connections, so what arrived must count: asked
// again, Gloo gives it (on a lane).
template <class Function>
void Mesh::wait(int peer, Function&& function) {
  guarded(peer, [&] {
    try {
      function();
    } catch (const ::gloo::Exception&) {
      function();
    }
  });
}

template <class Function>
void Mesh::guarded(int peer, Function&& function) {
  const Clock::time_point start = Clock::now();
  try {
    function();
  } catch (const std::exception& error) {
    throw Failure(peer, Clock::now() - start >= options_.timeout, without_place(error.what()));
  }
}

SmallSlot Mesh::slot_in(std::vector<std::byte>& box, uint64_t round) {
  return SmallSlot(
      std::span(box).subspan((round % 2) * SmallSlot::kSlotBytes, SmallSlot::kSlotBytes));
}

std::span<std::byte> Mesh::small_message(size_t bytes) {
  return slot_in(outbox_, round_).write(bytes, round_);
}

void Mesh::exchange_small() {
  const size_t begin = slot_in(outbox_, round_).begin();
  const size_t offset = (round_ % 2) * SmallSlot::kSlotBytes + begin;
  const size_t bytes = SmallSlot::kSlotBytes - begin;
  for (int r = 0; r < options_.size; ++r) {
    if (r != options_.rank) guarded(r, [&] { peer(r).small_out->send(offset, bytes, offset); });
  }
  for (int r = 0; r < options_.size; ++r) {
    if (r != options_.rank) wait_small(r);
  }
  for (int r = 0; r < options_.size; ++r) {
    if (r != options_.rank) guarded(r, [&] { peer(r).small_out->waitSend(); });
  }
  ++round_;
}

// Once a connection has ended Gloo says so for ever instead of giving what had arrived before; but
// then it writes to the slot no more.
void Mesh::wait_small(int rank) {
  guarded(rank, [&] {
    try {
      peer(rank).small_in->waitRecv();
    } catch (const ::gloo::Exception&) {
      if (!slot_in(peer(rank).inbox, round_).holds(round_)) throw;
    }
  });
}

std::span<const std::byte> Mesh::small_from(int rank) {
  std::vector<std::byte>& box = rank == options_.rank ? outbox_ : peer(rank).inbox;
  return slot_in(box, round_ - 1).message();
}

transport::UnboundBuffer& Mesh::lane_of(int rank, Lane lane) {
  return *peer(rank).lanes[static_cast<size_t>(lane)];
}

void Mesh::send(int rank, Lane lane, const void* data, size_t bytes) {
  const uint64_t tag = tag_of(lane, peer(rank).sent[static_cast<size_t>(lane)]++);
  guarded(rank,
          [&] { lane_of(rank, lane).send(rank, tag, reinterpret_cast<uintptr_t>(data), bytes); });
}

void Mesh::recv(int rank, Lane lane, void* data, size_t bytes) {
  const uint64_t tag = tag_of(lane, peer(rank).received[static_cast<size_t>(lane)]++);
  guarded(rank,
          [&] { lane_of(rank, lane).recv(rank, tag, reinterpret_cast<uintptr_t>(data), bytes); });
}

void Mesh::wait_send(int peer, Lane lane) {
  wait(peer, [&] { lane_of(peer, lane).waitSend(options_.timeout); });
}

void Mesh::wait_recv(int peer, Lane lane) {
  wait(peer, [&] { lane_of(peer, lane).waitRecv(options_.timeout); });
}

void Mesh::give_up() noexcept {
  interrupt();
  for (auto& peer : peers_) {
    if (peer == nullptr) continue;
    for (auto& lane : peer->lanes) {
      // The connection is shut: what it had received arrives, then the news that it ended. Only
      // then is Gloo's loop thread done with it; a buffer that went earlier would leave the thread
      // with bytes that it can put nowhere, waking up for them for ever.
      try {
        while (lane != nullptr) lane->waitRecv(kNoticeTime);
      } catch (const std::exception&) {
      }
      lane.reset();
    }
  }
}

}  // namespace khorus::backends::gloo

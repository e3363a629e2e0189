// See in_process_channel.h.
#include "core/net/in_process_channel.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <iterator>
#include <mutex>
#include <utility>

#include "core/base/assert.h"
#include "core/net/memory_store.h"

namespace khorus {
namespace {

using net::ChannelEvent;
using Clock = std::chrono::steady_clock;

// One rank in one generation. Guarded by its generation's mutex.
struct Seat {
  std::condition_variable arrived;
  std::deque<ChannelEvent> mailbox;
  std::vector<int> neighbours;
  bool connected = false;
  bool severed = false;  // hears and says nothing more
  bool closed = false;
  bool woken = false;
};

// What the channels of one generation share.
struct Generation {
  explicit Generation(int size) : seats(static_cast<size_t>(size)) {}

  Seat& seat(int rank) { return seats[static_cast<size_t>(rank)]; }

  // REQUIRES for all below: the mutex is held.
  void deliver(int to, ChannelEvent event) {
    Seat& receiver = seat(to);
    if (receiver.severed || receiver.closed) return;
    receiver.mailbox.push_back(std::move(event));
    receiver.arrived.notify_one();
  }
  void say_closed(int rank, const std::string& reason) {
    for (const int neighbour : seat(rank).neighbours) {
      deliver(neighbour, {ChannelEvent::Kind::kClosed, rank, {}, reason});
    }
  }
  bool is_over() const {
    bool used = false;
    for (const Seat& s : seats) {
      if (s.connected && !s.closed) return false;
      used = used || s.connected;
    }
    return used;
  }

  std::mutex mutex;
  std::deque<Seat> seats;  // by rank; a deque because a Seat cannot move
  net::MemoryStore store;  // has its own mutex
};

class InProcessChannel final : public net::ControlChannel {
 public:
  // REQUIRES: the seat has been taken for this channel.
  InProcessChannel(int rank, std::shared_ptr<Generation> generation)
      : rank_(rank), generation_(std::move(generation)), seat_(generation_->seat(rank)) {}
  ~InProcessChannel() override { close(Clock::now()); }

  void send(int peer, std::span<const std::byte> frame) override {
    const std::lock_guard lock(generation_->mutex);
    KHORUS_ASSERT(std::ranges::find(seat_.neighbours, peer) != seat_.neighbours.end(),
                  "a frame for a rank that is no neighbour");
    if (seat_.severed || seat_.closed) return;
    ++stats_.messages_sent;
    stats_.bytes_sent += frame.size();
    generation_->deliver(
        peer, {ChannelEvent::Kind::kFrame, rank_, net::Bytes(frame.begin(), frame.end()), {}});
  }

  void poll(Clock::time_point deadline, std::vector<ChannelEvent>* events) override {
    std::unique_lock lock(generation_->mutex);
    const auto due = [this] { return seat_.woken || !seat_.mailbox.empty(); };
    if (deadline == Clock::time_point::max()) {
      seat_.arrived.wait(lock, due);
    } else {
      seat_.arrived.wait_until(lock, deadline, due);
    }
    seat_.woken = false;
    for (const ChannelEvent& event : seat_.mailbox) {
      if (event.kind != ChannelEvent::Kind::kFrame) continue;
      ++stats_.messages_received;
      stats_.bytes_received += event.frame.size();
    }
    events->insert(events->end(), std::make_move_iterator(seat_.mailbox.begin()),
                   std::make_move_iterator(seat_.mailbox.end()));
    seat_.mailbox.clear();
  }

  void wake() noexcept override {
    const std::lock_guard lock(generation_->mutex);
    if (!std::exchange(seat_.woken, true)) seat_.arrived.notify_one();
  }

  void close(Clock::time_point) override {
    const std::lock_guard lock(generation_->mutex);
    if (std::exchange(seat_.closed, true)) return;
    seat_.mailbox.clear();
    if (!seat_.severed) generation_->say_closed(rank_, "closed the connection");
  }

  net::ChannelStats stats() const override { return stats_; }

 private:
  const int rank_;
  const std::shared_ptr<Generation> generation_;
  Seat& seat_;
  net::ChannelStats stats_;
};

}  // namespace

struct InProcessWorld::Impl {
  explicit Impl(int world_size) : size(world_size) {}

  // The generation that `rank` is in, or that it would join: the oldest one that is not over and
  // that it has not left. REQUIRES: the mutex is held.
  std::shared_ptr<Generation> find(int rank, bool to_join) {
    std::erase_if(generations, [](const std::shared_ptr<Generation>& generation) {
      const std::lock_guard lock(generation->mutex);
      return generation->is_over();
    });
    for (const auto& generation : generations) {
      const std::lock_guard lock(generation->mutex);
      const Seat& seat = generation->seat(rank);
      if (to_join ? !seat.connected : !seat.closed) return generation;
    }
    generations.push_back(std::make_shared<Generation>(size));
    return generations.back();
  }

  const int size;
  std::mutex mutex;
  std::vector<std::shared_ptr<Generation>> generations;
};

InProcessWorld::InProcessWorld(int size) : impl_(std::make_shared<Impl>(size)) {
  KHORUS_ASSERT(size > 0, "a world has at least one rank");
}

InProcessWorld::~InProcessWorld() = default;

int InProcessWorld::size() const noexcept { return impl_->size; }

std::shared_ptr<net::Store> InProcessWorld::store(int rank) {
  const std::lock_guard lock(impl_->mutex);
  const std::shared_ptr<Generation> generation = impl_->find(rank, false);
  return {generation, &generation->store};
}

std::unique_ptr<net::ControlChannel> InProcessWorld::connect(int rank, int parent,
                                                             const std::vector<int>& children) {
  KHORUS_ASSERT(rank >= 0 && rank < impl_->size, "rank is not within the size of the world");
  const std::lock_guard lock(impl_->mutex);
  const std::shared_ptr<Generation> generation = impl_->find(rank, true);
  const std::lock_guard generation_lock(generation->mutex);
  Seat& seat = generation->seat(rank);
  seat.connected = true;
  seat.neighbours = children;
  if (parent >= 0) seat.neighbours.push_back(parent);
  return std::make_unique<InProcessChannel>(rank, generation);
}

void InProcessWorld::sever(int rank, const std::string& reason) {
  const std::lock_guard lock(impl_->mutex);
  for (const auto& generation : impl_->generations) {
    const std::lock_guard generation_lock(generation->mutex);
    Seat& seat = generation->seat(rank);
    if (!seat.connected || seat.closed || seat.severed) continue;
    generation->say_closed(rank, reason);
    for (const int neighbour : seat.neighbours) {
      const Seat& other = generation->seat(neighbour);
      if (other.closed || other.severed) continue;  // has said so already
      generation->deliver(rank, {ChannelEvent::Kind::kClosed, neighbour, {}, reason});
    }
    seat.severed = true;
  }
}

std::shared_ptr<InProcessWorld> make_in_process_world(int size) {
  return std::make_shared<InProcessWorld>(size);
}

}  // namespace khorus

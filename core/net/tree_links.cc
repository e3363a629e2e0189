// See tree_links.h.
#include "core/net/tree_links.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "core/base/assert.h"
#include "core/base/fork_guard.h"
#include "core/wire/message.h"

namespace khorus::net {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kNever = Clock::time_point::max();

// The same on all ranks, whatever their timeout.
constexpr std::chrono::milliseconds kHeartbeatInterval{125};
constexpr int kFewestBeatsUntilLost = 3;

}  // namespace

TreeLinks::State::State(std::unique_ptr<asio::io_context> context)
    : io(std::move(context)), work(io->get_executor()), timer(*io), heartbeat(*io) {}

TreeLinks::State::~State() {
  for (const auto& [peer, link] : links) link->close();
}

TreeLinks::TreeLinks(std::unique_ptr<asio::io_context> io)
    : state_(std::make_unique<State>(std::move(io))),
      fork_generation_(base::fork_generation()),
      armed_until_(kNever) {}

TreeLinks::~TreeLinks() {
  if (is_forked_copy()) static_cast<void>(state_.release());
}

bool TreeLinks::is_forked_copy() const noexcept {
  return base::fork_generation() != fork_generation_;
}

void TreeLinks::add(int peer, Stream stream, const SessionKeys& keys) {
  KHORUS_ASSERT(!has(peer), "a rank is connected twice");
  ConnectionLimits limits;
  limits.max_payload_bytes = wire::Limits::kMaxFrameBytes;
  Link::Events events;
  events.on_frame = [this, peer](std::span<const std::byte> payload) {
    if (const auto silent = silent_beats_.find(peer); silent != silent_beats_.end()) {
      silent->second = 0;
    }
    if (payload.empty()) return;  // a heartbeat
    ++stats_.messages_received;
    stats_.bytes_received += payload.size() + kFrameHeaderBytes;
    pending_.push_back(
        {ChannelEvent::Kind::kFrame, peer, Bytes(payload.begin(), payload.end()), {}});
  };
  events.on_closed = [this, peer](const std::string& reason) {
    pending_.push_back({ChannelEvent::Kind::kClosed, peer, {}, reason});
  };
  auto link = std::make_shared<Link>(*state_->io, Connection(std::move(stream), keys, limits),
                                     std::move(events));
  link->start();
  state_->links.emplace(peer, std::move(link));
}

void TreeLinks::watch_silence(std::chrono::milliseconds timeout) {
  if (timeout.count() <= 0) return;
  // One less: the last frame may have come just before a beat.
  beats_until_lost_ =
      std::max(kFewestBeatsUntilLost, static_cast<int>(timeout / kHeartbeatInterval) - 1);
  for (const auto& [peer, link] : state_->links) {
    if (!link->is_within_host()) silent_beats_.emplace(peer, -1);
  }
  if (!silent_beats_.empty()) arm_heartbeat();
}

void TreeLinks::arm_heartbeat() {
  const Clock::time_point due = Clock::now() + kHeartbeatInterval;
  state_->heartbeat.expires_at(due);
  state_->heartbeat.async_wait([this, due](const ErrorCode& error) {
    if (!error && !closed_) beat(due);
  });
}

void TreeLinks::beat(Clock::time_point due) {
  const bool in_time = Clock::now() - due <= kHeartbeatInterval / 2;
  for (auto& [peer, silent] : silent_beats_) {
    Link& link = *state_->links.at(peer);
    if (!link.is_open()) continue;
    if (silent >= 0) silent = in_time ? silent + 1 : 0;
    if (silent < beats_until_lost_) {
      link.send({});
      continue;
    }
    link.fail("nothing was heard from it for " +
              std::to_string((kHeartbeatInterval * beats_until_lost_).count()) +
              " ms: its process is stopped, or its host or the network is down; "
              "KHORUS_LIVENESS_TIMEOUT says how long that may last");
  }
  arm_heartbeat();
}

void TreeLinks::put_back(std::vector<ChannelEvent> events) {
  pending_.insert(pending_.begin(), std::make_move_iterator(events.begin()),
                  std::make_move_iterator(events.end()));
}

void TreeLinks::send(int peer, std::span<const std::byte> frame) {
  if (closed_ || is_forked_copy()) return;
  const auto found = state_->links.find(peer);
  KHORUS_ASSERT(found != state_->links.end(), "a frame for a rank that is no neighbour");
  KHORUS_ASSERT(!frame.empty(), "a frame without bytes is a heartbeat");
  if (!found->second->is_open()) return;
  ++stats_.messages_sent;
  stats_.bytes_sent += frame.size() + kFrameHeaderBytes;
  found->second->send(frame);
}

void TreeLinks::poll(Clock::time_point deadline, std::vector<ChannelEvent>* events) {
  if (is_forked_copy()) return;
  while (pending_.empty() && !woken_ && (deadline == kNever || Clock::now() < deadline)) {
    wait_until(deadline);
  }
  state_->io->poll();  // the rest of what is there now
  woken_ = false;
  events->insert(events->end(), std::make_move_iterator(pending_.begin()),
                 std::make_move_iterator(pending_.end()));
  pending_.clear();
}

// Sleeps in epoll until one handler has run. The timer is moved only when the deadline comes
// nearer: one that fires early costs a turn of the caller's loop, less than a system call per
// poll().
void TreeLinks::wait_until(Clock::time_point deadline) {
  if (deadline < armed_until_) {
    armed_until_ = deadline;
    state_->timer.expires_at(deadline);
    state_->timer.async_wait([this](const ErrorCode& error) {
      if (!error) armed_until_ = kNever;
    });
  }
  state_->io->run_one();
}

void TreeLinks::wake() noexcept {
  if (is_forked_copy() || wake_posted_.exchange(true, std::memory_order_acq_rel)) return;
  asio::post(*state_->io, [this] {
    wake_posted_.exchange(false, std::memory_order_acq_rel);
    woken_ = true;
  });
}

bool TreeLinks::has_unsent() const {
  for (const auto& [peer, link] : state_->links) {
    if (link->has_unsent()) return true;
  }
  return false;
}

void TreeLinks::close(Clock::time_point deadline) {
  if (is_forked_copy() || std::exchange(closed_, true)) return;
  while (has_unsent() && Clock::now() < deadline) {
    wait_until(deadline);
    pending_.clear();
  }
  for (const auto& [peer, link] : state_->links) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
    if (left.count() > 0) {
      link->close_gracefully(left);
    } else {
      link->close();
    }
  }
  pending_.clear();
}

}  // namespace khorus::net

// TreeLinks: the ControlChannel over a set of links, on an io_context that only poll() and close()
// drive. tcp_channel.cc fills it with links while the tree is being connected.
//
// Thread rule: as control_channel.h.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/net/asio.h"
#include "core/net/control_channel.h"
#include "core/net/link.h"

namespace khorus::net {

class TreeLinks final : public ControlChannel {
 public:
  explicit TreeLinks(std::unique_ptr<asio::io_context> io);
  ~TreeLinks() override;
  TreeLinks(const TreeLinks&) = delete;
  TreeLinks& operator=(const TreeLinks&) = delete;

  void send(int peer, std::span<const std::byte> frame) override;
  void poll(std::chrono::steady_clock::time_point deadline,
            std::vector<ChannelEvent>* events) override;
  void wake() noexcept override;
  void close(std::chrono::steady_clock::time_point deadline) override;
  ChannelStats stats() const override { return stats_; }

  // For who connects the tree.
  asio::io_context& io() noexcept { return *state_->io; }
  bool has(int peer) const { return state_->links.contains(peer); }
  // REQUIRES: !has(peer).
  void add(int peer, Stream stream, const SessionKeys& keys);
  // From now on every neighbour on another host gets a heartbeat (a frame without payload, in
  // HANDSHAKE.md) eight times a second, and one that was heard before and is silent for `timeout`
  // is lost. Time in which this process did not run itself does not count. 0: neither.
  void watch_silence(std::chrono::milliseconds timeout);
  // Events that the next poll() gives first. Does not count in stats().
  void put_back(std::vector<ChannelEvent> events);
  void reset_stats() { stats_ = {}; }

 private:
  // What holds Asio objects, in the order in which they can be destroyed. Left alone in a forked
  // child, where the locks inside may be held by threads that do not exist.
  struct State {
    explicit State(std::unique_ptr<asio::io_context> context);
    ~State();
    std::unique_ptr<asio::io_context> io;
    asio::executor_work_guard<asio::io_context::executor_type> work;
    asio::steady_timer timer;
    asio::steady_timer heartbeat;
    std::map<int, std::shared_ptr<Link>> links;
  };
  bool is_forked_copy() const noexcept;
  void wait_until(std::chrono::steady_clock::time_point deadline);
  bool has_unsent() const;
  void arm_heartbeat();
  void beat(std::chrono::steady_clock::time_point due);

  std::unique_ptr<State> state_;
  const uint64_t fork_generation_;
  std::chrono::steady_clock::time_point armed_until_;  // max(): the timer is not armed
  // Neighbours on other hosts: heartbeats of our own since the last frame of theirs; -1: none came
  // yet.
  std::map<int, int> silent_beats_;
  int beats_until_lost_ = 0;
  std::vector<ChannelEvent> pending_;
  ChannelStats stats_;
  bool closed_ = false;
  bool woken_ = false;
  std::atomic<bool> wake_posted_{false};
};

}  // namespace khorus::net

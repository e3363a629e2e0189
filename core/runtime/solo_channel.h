// SoloChannel: the control channel of a job of one rank: nobody to talk to, but wake-ups.
//
// Thread rule: as control_channel.h says.
#pragma once

#include <condition_variable>
#include <mutex>
#include <vector>

#include "core/net/control_channel.h"

namespace khorus::runtime {

class SoloChannel final : public net::ControlChannel {
 public:
  void send(int, std::span<const std::byte>) override {}
  void poll(std::chrono::steady_clock::time_point deadline,
            std::vector<net::ChannelEvent>*) override {
    std::unique_lock lock(mutex_);
    const auto woken = [this] { return woken_; };
    if (deadline == std::chrono::steady_clock::time_point::max()) {
      changed_.wait(lock, woken);
    } else {
      changed_.wait_until(lock, deadline, woken);
    }
    woken_ = false;
  }
  void wake() noexcept override {
    {
      const std::lock_guard lock(mutex_);
      if (woken_) return;
      woken_ = true;
    }
    changed_.notify_one();
  }
  void close(std::chrono::steady_clock::time_point) override {}
  net::ChannelStats stats() const override { return {}; }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool woken_ = false;
};

}  // namespace khorus::runtime

// What the tests of core/net share: a deadline, a job, trees of ranks as threads.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>

#include <chrono>
#include <cstdlib>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "core/net/address.h"
#include "core/net/control_channel.h"
#include "core/net/job_key.h"
#include "core/net/memory_store.h"
#include "core/net/socket.h"
#include "core/net/tcp_channel.h"
#include "core/net/text_bytes.h"

namespace khorus::net::testing {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;
using std::chrono::seconds;

// A bound that a correct run never comes near, also under sanitizers on a busy machine.
inline Clock::time_point patience() { return Clock::now() + seconds(60); }

inline bool soak() {
  const char* value = std::getenv("KHORUS_TEST_SOAK");
  return value != nullptr && std::string_view(value) == "1";
}

// The same key in every call and every test.
inline JobKey test_key(unsigned char seed = 1) {
  std::array<std::byte, JobKey::kBytes> bytes;
  bytes.fill(static_cast<std::byte>(seed));
  return JobKey::from_bytes(bytes);
}

// Rank `rank` of a k-ary tree over `size` ranks.
inline TreeOptions tree_options(int rank, int size, int fan_in, Store* store) {
  TreeOptions options;
  options.rank = rank;
  options.size = size;
  options.parent = rank == 0 ? -1 : (rank - 1) / fan_in;
  for (int child = rank * fan_in + 1; child <= rank * fan_in + fan_in && child < size; ++child) {
    options.children.push_back(child);
  }
  options.store = store;
  options.key = test_key();
  options.job_id = "test";
  options.timeout = seconds(60);
  return options;
}

// Where a rank that is being started listens, once it has said so.
inline Address address_of(int rank, Store* store) {
  const auto address = store->get(address_key(0, rank), seconds(60));
  EXPECT_TRUE(address.ok());
  return resolve(text_of(*address))->front();
}

[[nodiscard]] inline bool wait_readable(Socket& socket) {
  pollfd entry{socket.fd(), POLLIN, 0};
  return ::poll(&entry, 1, 60'000) == 1;
}

using Channel = std::unique_ptr<ControlChannel>;

// Connects the ranks given by `options`, one thread each; results in the same order.
inline std::vector<Result<Channel>> connect_all(const std::vector<TreeOptions>& options) {
  std::vector<std::optional<Result<Channel>>> results(options.size());
  std::vector<std::jthread> threads;
  for (size_t i = 0; i < options.size(); ++i) {
    threads.emplace_back([&, i] { results[i].emplace(connect_tree(options[i])); });
  }
  threads.clear();
  std::vector<Result<Channel>> out;
  for (auto& result : results) out.push_back(std::move(*result));
  return out;
}

inline std::vector<Result<Channel>> connect_whole_tree(int size, int fan_in, bool tls = false) {
  MemoryStore store;
  std::vector<TreeOptions> options;
  for (int rank = 0; rank < size; ++rank) {
    options.push_back(tree_options(rank, size, fan_in, &store));
    options.back().tls = tls;
  }
  return connect_all(options);
}

// Polls until `count` events have come, or patience is over.
inline std::vector<ChannelEvent> collect(ControlChannel* channel, size_t count) {
  std::vector<ChannelEvent> events;
  const auto deadline = patience();
  while (events.size() < count && Clock::now() < deadline) channel->poll(deadline, &events);
  return events;
}

}  // namespace khorus::net::testing

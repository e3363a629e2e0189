// See ranks.h.
#include "tests/unit/runtime/ranks.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <thread>

namespace khorus::test {
namespace {

constexpr const char* kJob = "runtime_test";

// The key as a rank gets it from its launcher: in a pipe.
int pipe_with(const net::JobKey& key) {
  int ends[2];
  EXPECT_EQ(pipe(ends), 0);
  EXPECT_TRUE(key.write_to_fd(ends[1]).ok());
  close(ends[1]);
  return ends[0];
}

}  // namespace

std::vector<Transport> transports() {
  std::vector<Transport> all;
  for (const std::string& backend : kBackends) {
    all.push_back({backend, false});
    all.push_back({backend, true});
  }
  return all;
}

Ranks::Ranks(int size, Transport transport, Tweak tweak)
    : size_(size), transport_(std::move(transport)), tweak_(std::move(tweak)) {
  net::JobKey key;
  if (transport_.tcp) {
    key = *net::JobKey::generate();
    net::StoreServerOptions store;
    store.key = key;
    store.job_id = kJob;
    store_ = net::StoreServer::start(store).value();
  } else {
    world_ = make_in_process_world(size);
  }
  for (int rank = 0; rank < size; ++rank) {
    EngineOptions options;
    options.place = {rank, size, rank, size, 0, 1};
    options.config.backend = transport_.backend;
    options.config.log_level = LogLevel::kFatal;
    options.config.start_timeout_s = 30;
    options.config.shutdown_timeout_s = 20;
    if (transport_.tcp) {
      options.session = make_job_session();
      options.config.store = store_->address();
      options.config.job_id = kJob;
      options.config.key_fd = pipe_with(key);
    } else {
      options.world = world_;
    }
    if (tweak_) tweak_(&options);
    options_.push_back(std::move(options));
  }
}

EngineOptions Ranks::options(int rank) const { return options_.at(static_cast<size_t>(rank)); }

void Ranks::run_bare(const std::function<void(int)>& body) const {
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size_; ++rank) threads.emplace_back([&body, rank] { body(rank); });
  for (std::thread& thread : threads) thread.join();
}

void Ranks::run(const std::function<void(Engine&)>& body) {
  run_bare([&](int rank) {
    auto engine = Engine::create(options(rank));
    ASSERT_TRUE(engine.ok()) << "rank " << rank << ": " << engine.status().to_string();
    body(**engine);
  });
}

int soak_factor(int many) {
  const char* soak = std::getenv("KHORUS_TEST_SOAK");
  return soak != nullptr && std::strcmp(soak, "1") == 0 ? many : 1;
}

}  // namespace khorus::test

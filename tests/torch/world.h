// Worlds for the tests: N ranks as N threads of this process, each with an engine of its own.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <exception>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include <torch/utils.h>

#include "khorus/torch.h"

namespace khorus::torch::testing {

// What learning about the arena takes in the first step.
inline constexpr uint64_t kLearningOperations = 1;

struct WorldOptions {
  int size = 2;
  int64_t fusion_threshold_bytes = 64 << 20;
  std::string backend = "local";
};

// Runs `body` on every rank and returns what each threw ("" : nothing). A rank that throws shuts
// its engine down, so that the others end with an error instead of waiting for it.
inline std::vector<std::string> run_ranks(const WorldOptions& options,
                                          const std::function<void(Engine&)>& body) {
  const auto world = make_in_process_world(options.size);
  std::vector<std::string> errors(static_cast<size_t>(options.size));
  const auto run_rank = [&](int rank) {
    try {
      ::torch::set_num_threads(1);
      EngineOptions engine_options;
      engine_options.world = world;
      engine_options.place = {rank, options.size, rank, options.size, 0, 1};
      engine_options.config.backend = options.backend;
      engine_options.config.fusion_threshold_bytes = options.fusion_threshold_bytes;
      Result<std::unique_ptr<Engine>> engine = Engine::create(engine_options);
      throw_if_error(engine.status());
      body(**engine);
      (*engine)->shutdown();
    } catch (const std::exception& error) {
      errors[static_cast<size_t>(rank)] = error.what();
    }
  };
  std::vector<std::thread> threads;
  for (int rank = 0; rank < options.size; ++rank) threads.emplace_back(run_rank, rank);
  for (std::thread& thread : threads) thread.join();
  return errors;
}

// The usual case: nothing may throw.
inline void run_world(const WorldOptions& options, const std::function<void(Engine&)>& body) {
  const std::vector<std::string> errors = run_ranks(options, body);
  for (size_t rank = 0; rank < errors.size(); ++rank) {
    EXPECT_EQ(errors[rank], "") << "on rank " << rank;
  }
}

}  // namespace khorus::torch::testing

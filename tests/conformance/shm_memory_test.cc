// The memory that processes share: who maps what, and a peer that writes garbage.
#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <fstream>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "tests/conformance/shm_sums.h"

namespace khorus::conformance {
namespace {

using std::chrono::milliseconds;

// The memory that this process shares with others, its own and theirs.
size_t count_segments() {
  std::ifstream maps("/proc/self/maps");
  size_t count = 0;
  for (std::string line; std::getline(maps, line);) {
    count += line.find("memfd:khorus") != std::string::npos ? 1 : 0;
  }
  return count;
}

// An arena is mapped by everybody, once, and by nobody for long when it is gone.
TEST_F(Shm, ArenasAreMappedWhileTheyAreUsed) {
  constexpr int kSize = 3;
  ShmRanks ranks({.size = kSize}, [](ShmRank& self) {
    Member& member = self.member();
    EXPECT_TRUE(member.connect().ok());
    EXPECT_EQ(count_segments(), size_t{kSize});
    for (int round = 0; round < 8; ++round) {
      const std::shared_ptr<std::byte> arena = member.allocate(kLarge * sizeof(int32_t));
      for (int i = 0; i < 3; ++i) {
        EXPECT_TRUE(sum_at(member, reinterpret_cast<int32_t*>(arena.get())).ok());
      }
      // Ends with a step that all take, so nobody frees early what is counted.
      EXPECT_EQ(count_segments(), 2 * size_t{kSize}) << "round " << round;
      EXPECT_TRUE(member.ping().ok());
    }
    return 0;
  });
  ranks.hand_out(ranks.collect_cards());
  // Nothing fails here that a bound would be for; ThreadSanitizer takes its time.
  for (int r = 0; r < kSize; ++r) EXPECT_EQ(ranks.wait(r, Clock::now() + 6 * kBound), 0);
}

// The memory that this process shares for writing.
std::vector<std::pair<char*, char*>> own_segments() {
  std::vector<std::pair<char*, char*>> found;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    unsigned long begin = 0, end = 0;
    std::array<char, 8> rights{};
    if (line.find("memfd:khorus") == std::string::npos) continue;
    if (std::sscanf(line.c_str(), "%lx-%lx %7s", &begin, &end, rights.data()) != 3) continue;
    if (rights[1] == 'w') {
      found.emplace_back(reinterpret_cast<char*>(begin), reinterpret_cast<char*>(end));
    }
  }
  return found;
}

TEST_F(Shm, APeerThatWritesGarbageReachesNothingElse) {
  for (unsigned seed = 1; seed <= 5; ++seed) {
    ShmRanks ranks({.size = 3, .timeout_ms = kStopTimeoutMs}, [&](ShmRank& self) {
      EXPECT_TRUE(self.member().connect().ok());
      const std::shared_ptr<std::byte> arena = self.member().allocate(kLarge * sizeof(int32_t));
      auto* const shared = reinterpret_cast<int32_t*>(arena.get());
      for (int i = 0; i < 3; ++i) EXPECT_TRUE(sum_at(self.member(), shared).ok());
      self.tell("ready");
      if (self.member().rank() == 1) {
        EXPECT_EQ(own_segments().size(), 2U) << "it can write to the memory of others";
        std::mt19937 random(seed);
        while (true) {
          for (const auto& [begin, end] : own_segments()) {
            for (char* at = begin; at < end; ++at) *at = static_cast<char>(random());
          }
        }
      }
      std::vector<int64_t> input(60000), output(180000);
      const std::vector<uint64_t> counts(3, 20000);
      Status status;
      const Clock::time_point end = Clock::now() + milliseconds(200);
      while (status.ok() && Clock::now() < end) {
        Member& member = self.member();
        status = member.allreduce({DataType::kInt64, ReduceOp::kSum, input.size()}, input.data(),
                                  output.data());
        if (status.ok()) {
          status = member.allgather(DataType::kInt64, counts, input.data(), output.data());
        }
        if (status.ok()) {
          status = member.broadcast(DataType::kInt64, input.size(), 1, input.data(), output.data());
        }
        if (status.ok()) {
          status = member.alltoall(DataType::kInt64, counts, counts, input.data(), output.data());
        }
        if (status.ok()) {
          status = member.allreduce({DataType::kInt32, ReduceOp::kSum, kLarge}, shared, shared);
        }
        if (status.ok()) status = member.ping();
      }
      return code_of(status.code());
    });
    ranks.hand_out(ranks.collect_cards());
    for (int r = 0; r < 3; ++r) ASSERT_EQ(ranks.word_from(r), "ready");
    for (const int r : {0, 2}) {
      const int code = ranks.wait(r, Clock::now() + kBound);
      EXPECT_GE(code, 0) << "rank " << r << " hangs, or was ended by signal " << -code;
    }
  }
}

}  // namespace
}  // namespace khorus::conformance

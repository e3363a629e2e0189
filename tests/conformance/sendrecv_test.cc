// Send/recv of every backend: only the two ranks take part, whatever the others do meanwhile.
#include <gtest/gtest.h>

#include <barrier>
#include <latch>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "tests/conformance/matrix.h"
#include "tests/conformance/plugin.h"
#include "tests/conformance/reference.h"
#include "tests/conformance/world.h"

namespace khorus::conformance {
namespace {

class SendRecv : public ::testing::TestWithParam<std::tuple<const khorus_backend*, int>> {
 protected:
  const khorus_backend& backend() const { return *std::get<0>(GetParam()); }
  int size() const { return std::get<1>(GetParam()); }
};

// What every rank sends in this exchange; both sides can tell.
Bytes values_of(DataType dtype, size_t count, int sender, uint64_t exchange) {
  return make_values(dtype, count, seed_of(dtype, count, sender) + 1000 * exchange);
}

// This rank's side of an exchange with `what.peer`, checked.
void check_exchange(Member& member, const Member::SendRecv& what, uint64_t exchange) {
  const Bytes input = values_of(what.dtype, what.count, member.rank(), exchange);
  const Bytes memory = input;
  Bytes output(what.recv_count * element_size(what.dtype), std::byte{0x5a});
  member.set_sequence(exchange);
  const Status status = member.sendrecv(what, memory.data(), output.data());
  ASSERT_TRUE(status.ok()) << status.to_string();
  EXPECT_EQ(memory, input) << "the input was written to";
  EXPECT_EQ(output, values_of(what.dtype, what.recv_count, what.peer, exchange))
      << member.rank() << " with " << what.peer << ", " << to_string(what.dtype);
}

// Every pair in a total order, and every rank takes part in its own ones only: so pairs that share
// no rank run at the same time. Then a sum of all, to see that nobody has lost count.
TEST_P(SendRecv, EveryPairOfEveryType) {
  World world(backend(), {.size = size()});
  world.connect();
  const std::vector<size_t> counts = counts_for(size());
  world.each([&](Member& member) {
    uint64_t exchange = 0;
    for (const DataType dtype : types_for(size())) {
      for (size_t i = 0; i < counts.size(); ++i) {
        for (int a = 0; a < size(); ++a) {
          for (int b = a + 1; b < size(); ++b) {
            ++exchange;
            // Different counts, one of them 0 in places: one-sided.
            const size_t from_a = counts[i];
            const size_t from_b = counts[(i + exchange) % counts.size()];
            if (member.rank() == a) {
              check_exchange(member, {dtype, b, from_a, from_b}, exchange);
            } else if (member.rank() == b) {
              check_exchange(member, {dtype, a, from_b, from_a}, exchange);
            }
            if (HasFatalFailure()) return;
          }
        }
      }
      member.set_sequence(++exchange);
      const Status status = member.ping();
      ASSERT_TRUE(status.ok()) << status.to_string();
    }
  });
}

// A pair exchanges again and again while every other rank is known to do nothing at all.
TEST_P(SendRecv, OthersNeedNotTakePart) {
  World world(backend(), {.size = size()});
  world.connect();
  for (int a = 0; a < size(); ++a) {
    const int b = (a + 1) % size();
    std::latch done(2);
    world.each([&](Member& member) {
      if (member.rank() != a && member.rank() != b) return done.wait();
      const int peer = member.rank() == a ? b : a;
      for (uint64_t i = 0; i < 20; ++i) {
        check_exchange(member, {DataType::kInt32, peer, 9 * i, 9 * i}, 100 + i);
      }
      done.count_down();
    });
  }
  world.each([](Member& member) {
    member.set_sequence(1000);
    EXPECT_TRUE(member.ping().ok());
  });
}

// A ring, in an order that all agree on: 0 with 1, 1 with 2, ..., the last with 0.
TEST_P(SendRecv, RingInATotalOrder) {
  World world(backend(), {.size = size()});
  world.connect();
  constexpr uint64_t kRounds = 10;
  world.each([&](Member& member) {
    for (uint64_t round = 0; round < kRounds; ++round) {
      for (int a = 0; a < size(); ++a) {
        const int b = (a + 1) % size();
        const uint64_t exchange = round * static_cast<uint64_t>(size()) + static_cast<uint64_t>(a);
        const size_t count = round % 2 == 0 ? 5 : kLargeBlock / 8;
        if (member.rank() == a) check_exchange(member, {DataType::kFloat32, b, count, 3}, exchange);
        if (member.rank() == b) check_exchange(member, {DataType::kFloat32, a, 3, count}, exchange);
      }
    }
  });
}

// The pairs' messages and those of large and small collectives go over the same connections.
TEST_P(SendRecv, BetweenCollectives) {
  World world(backend(), {.size = size()});
  world.connect();
  world.each([&](Member& member) {
    std::vector<int64_t> data(kLargeBlock / 8);
    uint64_t sequence = 0;
    for (int round = 0; round < 12; ++round) {
      const int a = round % size();
      const int b = (round + 1 + round / size()) % size();
      ++sequence;
      if (a != b && member.rank() == a) {
        check_exchange(member, {DataType::kInt64, b, 4000, 4001}, sequence);
      } else if (a != b && member.rank() == b) {
        check_exchange(member, {DataType::kInt64, a, 4001, 4000}, sequence);
      }
      data.assign(data.size(), member.rank() + round);
      const size_t count = round % 2 == 0 ? data.size() : 3;
      member.set_sequence(++sequence);
      const Status status =
          member.allreduce({DataType::kInt64, ReduceOp::kMax, count}, data.data(), data.data());
      ASSERT_TRUE(status.ok()) << status.to_string();
      ASSERT_EQ(data[count - 1], size() - 1 + round);
      member.set_sequence(++sequence);
      ASSERT_TRUE(
          member.broadcast(DataType::kInt64, data.size(), a, data.data(), data.data()).ok());
    }
  });
}

// Ranks that are through leave; the pairs that remain go on.
TEST_P(SendRecv, GoesOnWhenOthersHaveLeft) {
  World world(backend(), {.size = size()});
  world.connect();
  std::barrier together(size());
  world.each([&](Member& member) {
    ASSERT_TRUE(member.ping().ok());
    // The highest rank leaves first, and so on, until two are left.
    for (int left = size(); left >= 2; --left) {
      if (member.rank() == left) member.disconnect();
      together.arrive_and_wait();
      if (member.rank() >= 2) continue;
      const size_t counts[] = {70000, 7};
      const size_t rank = static_cast<size_t>(member.rank());
      check_exchange(member, {DataType::kInt32, 1 - member.rank(), counts[rank], counts[1 - rank]},
                     10 + static_cast<uint64_t>(size() - left));
    }
  });
}

std::string instance_name(const ::testing::TestParamInfo<SendRecv::ParamType>& info) {
  return std::string(std::get<0>(info.param)->name) + "_" + std::to_string(std::get<1>(info.param));
}

INSTANTIATE_TEST_SUITE_P(Backends, SendRecv,
                         ::testing::Combine(::testing::ValuesIn(built_backends()),
                                            ::testing::Range(2, 9)),
                         instance_name);

// More than one message of any transport.
TEST(SendRecvOfManyBytes, HasItsOwnCountOnEachSide) {
  if (kThreadSanitizer) GTEST_SKIP() << "the values do not matter there";
  for (const khorus_backend* backend : built_backends()) {
    World world(*backend, {.size = 2});
    world.connect();
    world.each([](Member& member) {
      const size_t counts[] = {(size_t{65} << 20) + 11, (size_t{3} << 20) + 1};
      const size_t rank = static_cast<size_t>(member.rank());
      check_exchange(member, {DataType::kUint8, 1 - member.rank(), counts[rank], counts[1 - rank]},
                     1);
    });
  }
}

}  // namespace
}  // namespace khorus::conformance

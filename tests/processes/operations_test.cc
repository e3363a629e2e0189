// Every operation, between processes; what it gives is compared with what it is defined to give.
#include <algorithm>
#include <numeric>

#include "tests/adasum.h"
#include "tests/processes/world.h"

namespace khorus::test {
namespace {

using Floats = std::vector<float>;

template <class T>
class Reductions : public testing::Test {};
using Types = testing::Types<uint8_t, int8_t, int16_t, int32_t, int64_t, float, double>;
TYPED_TEST_SUITE(Reductions, Types);

TYPED_TEST(Reductions, OfEveryKind) {
  using T = TypeParam;
  const int ranks = size();
  for (const size_t count : {size_t{0}, size_t{1}, size_t{17}, size_t{70000}}) {
    const auto value = [](int rank, size_t i) { return (rank + static_cast<int>(i) % 3) % 3 + 1; };
    for (const ReduceOp op :
         {ReduceOp::kSum, ReduceOp::kAverage, ReduceOp::kMin, ReduceOp::kMax, ReduceOp::kProduct}) {
      if (op == ReduceOp::kProduct && sizeof(T) == 1) continue;  // it would overflow
      std::vector<T> values(count);
      for (size_t i = 0; i < count; ++i) values[i] = static_cast<T>(value(rank(), i));
      const std::string name = "reduce " + std::string(to_string(op));
      allreduce(name, values.data(), count, op);
      for (size_t i = 0; i < count; ++i) {
        double expected = value(0, i);
        for (int r = 1; r < ranks; ++r) {
          const double x = value(r, i);
          expected = op == ReduceOp::kMin       ? std::min(expected, x)
                     : op == ReduceOp::kMax     ? std::max(expected, x)
                     : op == ReduceOp::kProduct ? expected * x
                                                : expected + x;
        }
        if (op == ReduceOp::kAverage) expected /= ranks;
        if (!std::is_floating_point_v<T>) expected = std::trunc(expected);
        ASSERT_NEAR(static_cast<double>(values[i]), expected, 1e-6) << name << " " << i;
      }
    }
  }
}

TEST(Operations, ScalesBeforeAndAfter) {
  Floats values(5, static_cast<float>(rank() + 1));
  const TensorView view = view_of(values);
  throw_if_error(
      engine().allreduce_async("scaled", view, view, with(ReduceOp::kSum, 2, 0.25))->wait());
  EXPECT_EQ(values, Floats(5, static_cast<float>(size() * (size() + 1)) / 4));
}

TEST(Operations, AllgatherOfRaggedRows) {
  for (int round = 0; round < 3; ++round) {
    const int mine = (rank() + round) % 3;  // some have no rows
    Floats rows(static_cast<size_t>(2 * mine), static_cast<float>(rank()));
    const WorkPtr work = engine().allgather_async("rows", rows_of(rows, 2));
    throw_if_error(work->wait());
    Floats expected;
    std::vector<int64_t> extents;
    for (int r = 0; r < size(); ++r) {
      extents.push_back((r + round) % 3);
      expected.insert(expected.end(), static_cast<size_t>(2 * extents.back()),
                      static_cast<float>(r));
    }
    EXPECT_EQ(result_of<float>(*work), expected);
    EXPECT_EQ(work->first_extents(), extents);
  }
}

TEST(Operations, BroadcastFromEveryRoot) {
  for (int root = 0; root < size(); ++root) {
    for (const size_t count : {size_t{1}, size_t{100000}}) {
      std::vector<int32_t> values(count, rank() * 1000 + root);
      broadcast("from " + std::to_string(root), values.data(), count, root);
      EXPECT_EQ(values, std::vector<int32_t>(count, root * 1001));
    }
  }
}

TEST(Operations, AlltoallWithSplits) {
  std::vector<int64_t> splits;
  Floats input, expected;
  for (int peer = 0; peer < size(); ++peer) {
    splits.push_back((rank() + 2 * peer) % 4);
    input.insert(input.end(), static_cast<size_t>(splits.back()),
                 static_cast<float>(10 * rank() + peer));
    expected.insert(expected.end(), static_cast<size_t>((peer + 2 * rank()) % 4),
                    static_cast<float>(10 * peer + rank()));
  }
  EXPECT_EQ(alltoall("splits", input.data(), input.size(), splits), expected);
  Floats equal(static_cast<size_t>(3 * size()), static_cast<float>(rank()));
  const Floats received = alltoall("equal", equal.data(), equal.size());
  for (size_t i = 0; i < received.size(); ++i) {
    EXPECT_EQ(received[i], static_cast<float>(i / 3));
  }
}

TEST(Operations, ReducescatterOfUnevenRows) {
  for (const int64_t rows : {int64_t{0}, int64_t{1}, int64_t{size()}, int64_t{3 * size() + 2}}) {
    Floats input(static_cast<size_t>(2 * rows));
    std::iota(input.begin(), input.end(), static_cast<float>(rank()));
    const WorkPtr work =
        engine().reducescatter_async("rows", rows_of(input, 2), with(ReduceOp::kSum));
    throw_if_error(work->wait());
    const int64_t base = rows / size(), more = rows % size();
    const int64_t mine = base + (rank() < more ? 1 : 0);
    const int64_t first = rank() * base + std::min<int64_t>(rank(), more);
    Floats expected;
    for (int64_t i = 2 * first; i < 2 * (first + mine); ++i) {
      expected.push_back(static_cast<float>(size() * i + size() * (size() - 1) / 2));
    }
    EXPECT_EQ(result_of<float>(*work), expected) << rows << " rows";
  }
}

TEST(Operations, SendsGoRoundTheRing) {
  if (size() == 1) GTEST_SKIP() << "there is nobody to send to";
  const int next = (rank() + 1) % size(), previous = (rank() + size() - 1) % size();
  for (int i = 0; i < 20 * soak_factor(10); ++i) {
    Floats out(static_cast<size_t>(1 + i * 500), static_cast<float>(rank() + i)), in(out.size());
    Floats tagged{static_cast<float>(-i)}, tagged_in(1);
    const std::vector<WorkPtr> works = {engine().recv_async(view_of(tagged_in), previous, 5),
                                        engine().send_async(view_of(out), next),
                                        engine().recv_async(view_of(in), previous),
                                        engine().send_async(view_of(tagged), next, 5)};
    throw_if_error(wait_all(works));
    EXPECT_EQ(in, Floats(out.size(), static_cast<float>(previous + i)));
    EXPECT_EQ(tagged_in, tagged);
  }
}

TEST(Operations, AdasumFollowsItsDefinition) {
  if ((size() & (size() - 1)) != 0) GTEST_SKIP() << "for powers of two";
  for (const size_t count : {size_t{1}, size_t{7}, size_t{5000}}) {
    const std::vector<std::vector<double>> vectors = adasum_vectors(size(), count);
    const std::vector<double> expected = adasum_of(vectors);
    std::vector<double> values = vectors[static_cast<size_t>(rank())];
    allreduce("adasum", values.data(), count, ReduceOp::kAdasum);
    for (size_t i = 0; i < count; ++i) ASSERT_NEAR(values[i], expected[i], 1e-12);
  }
}

// The members of a group have different shapes; all of them are right.
TEST(Operations, GroupedForms) {
  Engine& e = engine();
  const auto me = static_cast<float>(rank()), all = static_cast<float>(size());
  Floats a(3, me), b(static_cast<size_t>(size()), me);
  const std::vector<NamedTensor> in_place = {{"a", view_of(a), view_of(a)},
                                             {"b", view_of(b), view_of(b)}};
  throw_if_error(wait_all(e.grouped_broadcast_async("broadcasts", in_place, size() - 1)));
  EXPECT_EQ(b, Floats(b.size(), all - 1));
  throw_if_error(wait_all(e.grouped_allreduce_async("sums", in_place, with(ReduceOp::kSum))));
  EXPECT_EQ(a, Floats(3, all * (all - 1)));
  EXPECT_EQ(b, Floats(b.size(), all * (all - 1)));
  const std::vector<NamedTensor> inputs = {{"a", view_of(a), {}}, {"b", view_of(b), {}}};
  const auto gathered = e.grouped_allgather_async("gathers", inputs);
  throw_if_error(wait_all(gathered));
  EXPECT_EQ(result_of<float>(*gathered[1]), Floats(b.size() * b.size(), all * (all - 1)));
  std::fill(b.begin(), b.end(), me);
  const std::vector<int64_t> to_self = [] {
    std::vector<int64_t> splits(static_cast<size_t>(size()), 0);
    splits[static_cast<size_t>(rank())] = 3;
    return splits;
  }();
  const std::vector<int64_t> one_each(static_cast<size_t>(size()), 1);
  const auto exchanged = e.grouped_alltoall_async("exchanges", inputs, {to_self, one_each});
  throw_if_error(wait_all(exchanged));
  EXPECT_EQ(result_of<float>(*exchanged[0]), a);
  for (int r = 0; r < size(); ++r) {
    EXPECT_EQ(result_of<float>(*exchanged[1])[static_cast<size_t>(r)], static_cast<float>(r));
  }
  const auto parts = e.grouped_reducescatter_async("parts", inputs, with(ReduceOp::kAverage));
  throw_if_error(wait_all(parts));
  EXPECT_FLOAT_EQ(result_of<float>(*parts[1]).at(0), (all - 1) / 2);
}

// Every rank submits in an order of its own; hundreds are under way at once.
TEST(Operations, OfManyNamesInAnyOrder) {
  constexpr int kNames = 200;
  for (int round = 0; round < 3 * soak_factor(20); ++round) {
    std::vector<Floats> values(kNames);
    std::vector<WorkPtr> works;
    for (int i = 0; i < kNames; ++i) {
      const int name = (i * (2 * rank() + 1) + round) % kNames;  // odd or 1: not all visited twice
      Floats& mine = values[static_cast<size_t>(name)];
      if (!mine.empty()) continue;
      mine.assign(static_cast<size_t>(1 + name * 7), static_cast<float>(name + rank()));
      works.push_back(engine().allreduce_async("n" + std::to_string(name), view_of(mine),
                                               view_of(mine), with(ReduceOp::kSum)));
    }
    for (int name = 0; name < kNames; ++name) {
      Floats& mine = values[static_cast<size_t>(name)];
      if (!mine.empty()) continue;
      mine.assign(static_cast<size_t>(1 + name * 7), static_cast<float>(name + rank()));
      works.push_back(engine().allreduce_async("n" + std::to_string(name), view_of(mine),
                                               view_of(mine), with(ReduceOp::kSum)));
    }
    throw_if_error(wait_all(works));
    for (int name = 0; name < kNames; ++name) {
      const Floats& mine = values[static_cast<size_t>(name)];
      ASSERT_EQ(mine,
                Floats(mine.size(), static_cast<float>(size() * name + size() * (size() - 1) / 2)));
    }
  }
}

}  // namespace
}  // namespace khorus::test

// Mistakes of the caller, between processes: a mistake that ranks make together, or against each
// other, gives the same text on every rank that is concerned, and the engine stays usable.
#include <functional>

#include "tests/processes/world.h"

namespace khorus::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;

std::string on_odd() { return "rank " + std::to_string(size() - 1); }
// The last rank does something else than the others.
bool odd() { return rank() == size() - 1; }

// The engine works: every rank takes part.
void expect_usable() {
  std::vector<float> values(3, 1);
  allreduce("still", values.data(), values.size(), ReduceOp::kSum);
  EXPECT_EQ(values[2], static_cast<float>(size()));
}

// What each rank says, on every rank.
std::vector<std::string> texts_of_all(const std::string& mine) {
  const std::vector<uint8_t> bytes(mine.begin(), mine.end());
  TensorView view = internal::flat_view(bytes.data(), bytes.size());
  const WorkPtr work = engine().allgather_async("texts", view);
  throw_if_error(work->wait());
  const std::vector<uint8_t> all = result_of<uint8_t>(*work);
  std::vector<std::string> texts;
  size_t at = 0;
  for (const int64_t length : work->first_extents()) {
    texts.emplace_back(all.begin() + static_cast<std::ptrdiff_t>(at),
                       all.begin() + static_cast<std::ptrdiff_t>(at + static_cast<size_t>(length)));
    at += static_cast<size_t>(length);
  }
  return texts;
}

// All ranks get this status and the same text with these pieces in it.
void expect_everywhere(const Status& status, StatusCode code,
                       const std::vector<std::string>& pieces) {
  EXPECT_EQ(status.code(), code) << status.to_string();
  for (const std::string& piece : pieces) EXPECT_THAT(status.message(), HasSubstr(piece));
  const std::vector<std::string> texts = texts_of_all(status.to_string());
  for (const std::string& text : texts) EXPECT_EQ(text, texts.front());
  expect_usable();
}

class Mismatch : public testing::Test {
 protected:
  void SetUp() override {
    if (size() == 1) GTEST_SKIP() << "one rank agrees with itself";
  }
  void expect(const WorkPtr& work, std::vector<std::string> pieces) {
    pieces.push_back("\"w\"");
    pieces.push_back(on_odd());
    expect_everywhere(work->wait(), StatusCode::kMismatch, pieces);
  }

  std::vector<float> floats = std::vector<float>(static_cast<size_t>(12 * size()), 1.0F);
  std::vector<double> doubles = std::vector<double>(static_cast<size_t>(12 * size()), 1.0);
  const std::string all = "[" + std::to_string(12 * size()) + "]";
  const std::string by_four = "[" + std::to_string(3 * size()) + ",4]";
  // The last rank's differs in dtype, or in shape.
  TensorView other_type() { return odd() ? view_of(doubles) : view_of(floats); }
  TensorView other_shape() { return odd() ? rows_of(floats, 4) : view_of(floats); }
  TensorView same() { return view_of(floats); }
};

TEST_F(Mismatch, Allreduce) {
  Engine& e = engine();
  const TensorView type = other_type(), shape = other_shape(), x = same();
  expect(e.allreduce_async("w", type, type, {}), {"float32", "float64", "dtype"});
  expect(e.allreduce_async("w", shape, shape, {}), {all, by_four, "shape"});
  const ReduceOp op = odd() ? ReduceOp::kMax : ReduceOp::kSum;
  expect(e.allreduce_async("w", x, x, with(op)), {"sum", "max", "reduction"});
  const double factor = odd() ? 0.5 : 1;
  expect(e.allreduce_async("w", x, x, with(ReduceOp::kSum, factor)), {"prescale", "0.5"});
  expect(e.allreduce_async("w", x, x, with(ReduceOp::kSum, 1, factor)), {"postscale", "0.5"});
}

TEST_F(Mismatch, Allgather) {
  Engine& e = engine();
  expect(e.allgather_async("w", other_type()), {"float32", "float64"});
  expect(e.allgather_async("w", other_shape()), {"[*]", "[*,4]"});
  TensorView twos = rows_of(floats, odd() ? 2 : 3);
  expect(e.allgather_async("w", twos), {"[*,2]", "[*,3]"});
}

TEST_F(Mismatch, Broadcast) {
  Engine& e = engine();
  const TensorView type = other_type(), shape = other_shape(), x = same();
  expect(e.broadcast_async("w", type, type, 0), {"float32", "float64"});
  expect(e.broadcast_async("w", shape, shape, 0), {all, by_four});
  expect(e.broadcast_async("w", x, x, odd() ? 1 : 0), {"root rank", "0 on", "1 on"});
}

TEST_F(Mismatch, Alltoall) {
  Engine& e = engine();
  expect(e.alltoall_async("w", other_type()), {"float32", "float64"});
  expect(e.alltoall_async("w", rows_of(floats, odd() ? 4 : 3)), {"[*,4]", "[*,3]"});
}

TEST_F(Mismatch, Reducescatter) {
  Engine& e = engine();
  expect(e.reducescatter_async("w", other_type(), {}), {"float32", "float64"});
  expect(e.reducescatter_async("w", other_shape(), {}), {all, by_four});
  const ReduceOp op = odd() ? ReduceOp::kMin : ReduceOp::kSum;
  expect(e.reducescatter_async("w", same(), with(op)), {"sum", "min"});
}

TEST_F(Mismatch, OfOperationsThemselves) {
  Engine& e = engine();
  const TensorView x = same();
  expect(odd() ? e.barrier_async("w") : e.allreduce_async("w", x, x, {}),
         {"allreduce", "barrier", "operation"});
  expect(odd() ? e.allgather_async("w", x) : e.broadcast_async("w", x, x, 0),
         {"allgather", "broadcast"});
  expect(odd() ? e.alltoall_async("w", x) : e.reducescatter_async("w", x, {}),
         {"alltoall", "reducescatter"});
}

TEST_F(Mismatch, OfAGroupOrItsMembers) {
  Engine& e = engine();
  std::vector<float> more(4, 1);
  const TensorView shape = other_shape(), y = view_of(more);
  const auto works = e.grouped_allreduce_async("g", {{"w", shape, shape}, {"y", y, y}}, {});
  expect(works[0], {all, by_four});
  // The other member ends as well, with a reason that names the first.
  expect_everywhere(works[1]->wait(), StatusCode::kMismatch, {"\"w\""});
  const TensorView x = same();
  const std::vector<NamedTensor> members = {{"w", x, x}};
  const WorkPtr alone_or_not = odd() ? e.allreduce_async("w", x, x, {})
                                     : e.grouped_allreduce_async("g", members, {}).front();
  expect(alone_or_not, {"group", "none", "\"g\" of 1"});
}

TEST_F(Mismatch, OfAMessage) {
  Engine& e = engine();
  if (rank() > 1) {  // no party to it
    expect_usable();
    expect_usable();
    return;
  }
  for (const bool types : {true, false}) {
    TensorView view = rank() == 1 && !types ? rows_of(floats, 4) : view_of(floats);
    if (rank() == 1 && types) view = view_of(doubles);
    const WorkPtr work = rank() == 0 ? e.send_async(view, 1, 3) : e.recv_async(view, 0, 3);
    const Status status = work->wait();
    EXPECT_EQ(status.code(), StatusCode::kMismatch);
    EXPECT_THAT(status.message(), AllOf(HasSubstr("tag 3"), HasSubstr(types ? "float64" : by_four),
                                        HasSubstr("rank 0"), HasSubstr("rank 1")));
    expect_usable();
  }
}

TEST_F(Mismatch, OfProcessSets) {
  const auto refused = [](const std::vector<int>& ranks, const std::string& what) {
    const auto set = engine().add_process_set(ranks);
    ASSERT_FALSE(set.ok());
    expect_everywhere(set.status(), StatusCode::kInvalidArgument, {what});
  };
  refused({}, "at least one");
  refused({size()}, "rank " + std::to_string(size()));
  refused({-1}, "-1");
  refused({1, 0}, "ascend");
  refused({0, 0}, "0");
  const auto differing = engine().add_process_set({odd() ? 1 : 0});
  expect_everywhere(differing.status(), StatusCode::kMismatch, {on_odd()});
  expect_everywhere(engine().remove_process_set(0), StatusCode::kInvalidArgument, {"0"});
  expect_everywhere(engine().remove_process_set(12345), StatusCode::kInvalidArgument, {"12345"});
  expect_everywhere(engine().process_set_ranks(12345).status(), StatusCode::kInvalidArgument,
                    {"12345"});
  const ProcessSetId one = add_process_set({0}), two = add_process_set({1});
  expect_everywhere(engine().remove_process_set(odd() ? one : two), StatusCode::kMismatch,
                    {on_odd()});
  const Status status = engine().barrier_async("", rank() == 0 ? two : one)->wait();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("is not in process set"));
  expect_usable();
  remove_process_set(one);
  remove_process_set(two);
}

// Rank 0 has joined; what the others may not do then they learn, with its name.
TEST_F(Mismatch, WithARankThatHasJoined) {
  Engine& e = engine();
  const TensorView x = same();
  WorkPtr joined;
  if (rank() == 0) {
    joined = e.join_async();
  } else {
    const auto refused = [](const WorkPtr& work, const std::string& what) {
      const Status status = work->wait();
      EXPECT_EQ(status.code(), StatusCode::kMismatch) << status.to_string();
      EXPECT_THAT(status.message(), AllOf(HasSubstr(what), HasSubstr("rank 0")));
    };
    refused(e.allreduce_async("w", x, x, with(ReduceOp::kMin)), "min");
    refused(e.broadcast_async("w", x, x, 0), "root");
    refused(e.send_async(x, 0), "joined");
    refused(e.recv_async(x, 0), "joined");
    EXPECT_EQ(e.add_process_set({1}).status().code(), StatusCode::kMismatch);
    joined = e.join_async();
  }
  throw_if_error(joined->wait());
  EXPECT_NE(joined->last_joined(), 0);
  expect_usable();
}

// What no other rank need hear of.
TEST(Misuse, IsRefusedAtOnceWithTheSameWords) {
  Engine& e = engine();
  std::vector<float> floats(8, 1);
  std::vector<int32_t> integers(8, 1);
  const TensorView x = view_of(floats), whole = view_of(integers);
  TensorView null = x, scalar = x, unknown = x;
  null.data = nullptr;
  scalar.shape = {};
  unknown.dtype = static_cast<DataType>(77);
  const std::vector<int64_t> splits_of_nobody(static_cast<size_t>(size()) + 1, 0);
  std::vector<int64_t> negative(static_cast<size_t>(size()), 0), short_of(negative);
  negative[0] = -1;
  short_of[0] = 7;
  const AllreduceOptions nowhere = with(ReduceOp::kSum, 1, 1, 99);
  const auto adasum = with(ReduceOp::kAdasum);
  const std::vector<NamedTensor> twins = {{"a", x, x}, {"a", x, x}};
  struct Case {
    std::function<WorkPtr()> call;
    std::string what;
    StatusCode code = StatusCode::kInvalidArgument;
  };
  const std::vector<Case> cases = {
      {[&] { return e.allreduce_async("w", null, null, {}); }, "null data"},
      {[&] { return e.allreduce_async("w", unknown, unknown, {}); }, "data type 77"},
      {[&] { return e.allreduce_async("w", x, whole, {}); }, "float32"},
      {[&] { return e.allreduce_async("w", x, x, nowhere); }, "process set 99"},
      {[&] { return e.allreduce_async("w", whole, whole, adasum); }, "int32"},
      {[&] { return e.allgather_async("w", null); }, "null data"},
      {[&] { return e.allgather_async("w", unknown); }, "data type 77"},
      {[&] { return e.allgather_async("w", x, 99); }, "process set 99"},
      {[&] { return e.broadcast_async("w", null, null, 0); }, "null data"},
      {[&] { return e.broadcast_async("w", x, x, size()); }, "root rank"},
      {[&] { return e.broadcast_async("w", x, x, 0, 99); }, "process set 99"},
      {[&] { return e.alltoall_async("w", null); }, "null data"},
      {[&] { return e.alltoall_async("w", scalar); }, "scalar"},
      {[&] { return e.alltoall_async("w", x, splits_of_nobody); }, "numbers for"},
      {[&] { return e.alltoall_async("w", x, negative); }, "0 or more"},
      {[&] { return e.alltoall_async("w", x, short_of); }, "add up to 7"},
      {[&] { return e.alltoall_async("w", x, {}, 99); }, "process set 99"},
      {[&] { return e.reducescatter_async("w", null, {}); }, "null data"},
      {[&] { return e.reducescatter_async("w", scalar, {}); }, "scalar"},
      {[&] { return e.reducescatter_async("w", x, adasum); }, "adasum"},
      {[&] { return e.reducescatter_async("w", x, nowhere); }, "process set 99"},
      {[&] { return e.send_async(x, size()); }, "not in process set"},
      {[&] { return e.send_async(x, rank()); }, "itself"},
      {[&] { return e.send_async(null, (rank() + 1) % size()); }, ""},
      {[&] { return e.recv_async(x, -1); }, "receiving from any"},
      {[&] { return e.recv_async(x, 0, -2); }, ""},
      {[&] { return e.barrier_async(std::string(2000, 'x')); }, "2000 bytes"},
      {[&] { return e.barrier_async("", 99); }, "process set 99"},
      {[&] { return e.grouped_allreduce_async("g", twins, {})[1]; }, "\"a\"",
       StatusCode::kDuplicateName},
      {[&] {
         return e.grouped_allgather_async("g", {{"a", null, {}}})[0];
       },
       "null data"},
      {[&] {
         return e.grouped_broadcast_async("g", {{"a", x, x}}, -1)[0];
       },
       "root rank -1"},
      {[&] {
         return e.grouped_alltoall_async("g", {{"a", x, {}}}, {{1}, {1}})[0];
       },
       "lists"},
      {[&] {
         return e.grouped_reducescatter_async("g", {{"a", scalar, {}}}, {})[0];
       },
       "scalar"},
  };
  for (const Case& c : cases) {
    const WorkPtr work = c.call();
    EXPECT_TRUE(work->poll()) << c.what;
    EXPECT_EQ(work->wait().code(), c.code) << work->wait().to_string();
    EXPECT_THAT(work->wait().message(), HasSubstr(c.what));
  }
  expect_usable();
}

TEST(Misuse, OfFiles) {
  const std::string nowhere = "/nonexistent/folder/file";
  EXPECT_THAT(engine().start_timeline(nowhere).message(), HasSubstr(nowhere));
  EXPECT_FALSE(engine().stop_timeline().ok());
  EXPECT_THAT(engine().dump_flight_recorder(nowhere).message(), HasSubstr(nowhere));
  expect_usable();
}

// The free functions throw what the engine returns.
TEST(Misuse, OfFreeFunctionsThrows) {
  float value = 1;
  const auto message = [](const std::function<void()>& call) -> std::string {
    try {
      call();
    } catch (const Error& error) {
      return error.what();
    }
    return "nothing was thrown";
  };
  EXPECT_THAT(message([&] { allreduce("w", &value, 1, ReduceOp::kSum, 99); }),
              HasSubstr("process set 99"));
  EXPECT_THAT(message([&] { broadcast("w", &value, 1, -3); }), HasSubstr("root rank -3"));
  EXPECT_THAT(message([&] { allgather("w", &value, 1, 99); }), HasSubstr("process set 99"));
  EXPECT_THAT(message([&] { alltoall("w", &value, 1, {5}); }), HasSubstr("\"w\""));
  EXPECT_THAT(message([&] { reducescatter("w", &value, 1, ReduceOp::kAdasum); }),
              HasSubstr("adasum"));
  EXPECT_THAT(message([&] { send(&value, 1, rank()); }), HasSubstr("itself"));
  EXPECT_THAT(message([&] { recv(&value, 1, -1); }), HasSubstr("receiving from any"));
  EXPECT_THAT(message([&] { barrier(99); }), HasSubstr("process set 99"));
  EXPECT_THAT(message([&] { add_process_set({}); }), HasSubstr("process set"));
  EXPECT_THAT(message([&] { remove_process_set(0); }), HasSubstr("process set"));
  expect_usable();
}

// Last, for it ends and starts the engine.
TEST(MisuseOfLife, EveryFunctionSaysThatThereIsNoEngine) {
  float value = 1;
  init();  // the second one does nothing
  expect_usable();
  const WorkPtr late = [] {
    Engine& old = engine();
    old.shutdown();
    std::vector<float> values(1, 1);
    return old.allreduce_async("w", view_of(values), view_of(values), {});
  }();
  EXPECT_EQ(late->wait().code(), StatusCode::kShutdown) << late->wait().to_string();
  shutdown();
  shutdown();
  const std::vector<std::function<void()>> calls = {
      [] { engine(); },
      [] { rank(); },
      [] { size(); },
      [] { local_rank(); },
      [] { cross_size(); },
      [&] { allreduce("w", &value, 1); },
      [] { barrier(); },
      [] { join(); },
      [] { add_process_set({0}); },
      [] { remove_process_set(1); },
  };
  EXPECT_FALSE(is_initialized());
  for (const auto& call : calls) {
    try {
      call();
      ADD_FAILURE() << "nothing was thrown";
    } catch (const Error& error) {
      EXPECT_EQ(error.status().code(), StatusCode::kUnavailable);
      EXPECT_THAT(error.what(), HasSubstr("init()"));
    }
  }
  init();
  expect_usable();
}

}  // namespace
}  // namespace khorus::test

// The coordinator and its flush policy: what is ready goes out at the right time, groups whole.
#include "core/protocol/coordinator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace khorus::protocol {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using wire::RankSet;

NodeOptions two_ranks() {
  NodeOptions options;
  options.size = 2;
  options.fusion_threshold_bytes = 1000;
  options.flush_window_us = 100;
  options.max_in_flight = 2;
  return options;
}

TEST(FlushPolicy, NothingReadyIsNotFlushed) {
  EXPECT_FALSE(decide_flush({}, two_ranks(), 0).flush);
  EXPECT_EQ(decide_flush({}, two_ranks(), 0).deadline, kNever);
}

TEST(FlushPolicy, NothingElseOnItsWayIsFlushedAtOnce) {
  FlushState state;
  state.ready_bytes = 4;
  state.oldest_ready = 50;
  EXPECT_TRUE(decide_flush(state, two_ranks(), 50).flush);
}

TEST(FlushPolicy, OthersOnTheirWayAreAwaitedForTheWindow) {
  FlushState state;
  state.ready_bytes = 4;
  state.oldest_ready = 50;
  state.last_arrival = 60;
  state.others_on_their_way = true;
  const FlushVerdict verdict = decide_flush(state, two_ranks(), 70);
  EXPECT_FALSE(verdict.flush);
  EXPECT_EQ(verdict.deadline, 150);
  EXPECT_TRUE(decide_flush(state, two_ranks(), 150).flush);
  // What was submitted long ago is late, not on its way.
  EXPECT_TRUE(decide_flush(state, two_ranks(), 160).flush);
  state.ready_bytes = 1000;
  EXPECT_TRUE(decide_flush(state, two_ranks(), 70).flush) << "a full bucket does not wait";
  state.ready_bytes = 4;
  state.urgent = true;
  EXPECT_TRUE(decide_flush(state, two_ranks(), 70).flush);
}

TEST(FlushPolicy, ABusyDataPlaneIsAwaited) {
  FlushState state;
  state.ready_bytes = 4;
  state.oldest_ready = 50;
  state.in_flight = 2;
  EXPECT_FALSE(decide_flush(state, two_ranks(), 500).flush);
  state.in_flight = 1;
  EXPECT_TRUE(decide_flush(state, two_ranks(), 500).flush);
}

class CoordinatorTest : public testing::Test {
 protected:
  wire::Request request(const std::string& name, const std::string& group = "", uint32_t size = 0) {
    wire::Request request;
    request.name = name;
    request.shape = {1};
    request.group = group;
    request.group_size = size;
    return request;
  }
  void complete(const wire::Request& request) {
    TableEntry entry;
    entry.key = key_of(request);
    entry.order = order_++;
    entry.variants.push_back({request, RankSet::all(2), {}, {}});
    coordinator_.completed(std::move(entry), {peers_, sets_}, now_);
  }
  std::optional<wire::Decision> decide() {
    coordinator_.check_groups(table_, {peers_, sets_}, now_);
    TimeUs deadline = kNever;
    return coordinator_.decide(table_, cache_, 0, now_, &deadline);
  }
  static std::vector<std::string> names(const wire::Decision& decision) {
    std::vector<std::string> names;
    for (const wire::Response& response : decision.responses) {
      for (const wire::ResponseTensor& tensor : response.tensors) {
        names.push_back(tensor.request.name);
      }
    }
    return names;
  }

  Coordinator coordinator_{two_ranks()};
  std::vector<PeerInfo> peers_;
  ProcessSets sets_{2};
  RequestTable table_;
  ResponseCache cache_{16};
  uint64_t order_ = 0;
  TimeUs now_ = 1000;
};

TEST_F(CoordinatorTest, FusesWhatIsReadyInOrderOfArrival) {
  complete(request("a"));
  complete(request("b"));
  const auto decision = decide();
  ASSERT_TRUE(decision.has_value());
  EXPECT_EQ(decision->responses.size(), 1U);
  EXPECT_THAT(names(*decision), ElementsAre("a", "b"));
  EXPECT_FALSE(decide().has_value());
}

TEST_F(CoordinatorTest, SendsIdsForWhatIsCached) {
  cache_.put({request("a"), {}, {}}, 1);
  complete(request("a"));
  const auto decision = decide();
  EXPECT_EQ(decision->responses[0].cache_ids,
            std::vector<uint64_t>{cache_.find(TensorKey{0, "a"})->id});
}

TEST_F(CoordinatorTest, OneUncachedTensorMakesTheResponseFull) {
  cache_.put({request("a"), {}, {}}, 1);
  complete(request("a"));
  complete(request("b"));
  EXPECT_TRUE(decide()->responses[0].cache_ids.empty());
}

TEST_F(CoordinatorTest, GroupsAreReleasedWhole) {
  complete(request("x", "g", 2));
  complete(request("single"));
  complete(request("y", "g", 2));
  EXPECT_THAT(names(*decide()), ElementsAre("x", "y", "single"));
}

TEST_F(CoordinatorTest, AGroupWhoseMembersDifferFails) {
  wire::Contribution other;
  other.request = request("z", "g", 2);
  other.ranks = RankSet::single(1);
  table_.add(other, RankSet::all(2), 0);
  complete(request("x", "g", 2));
  const auto decision = decide();
  ASSERT_TRUE(decision.has_value());
  const wire::Response& error = decision->responses.at(0);
  EXPECT_EQ(error.code, StatusCode::kMismatch);
  EXPECT_THAT(error.failed_groups, ElementsAre("g"));
  EXPECT_THAT(error.error, HasSubstr("group \"g\": all ranks submitted allreduce \"x\", but the "
                                     "other members differ between ranks: only allreduce \"z\" "
                                     "on rank 1"));
}

// Fused with "a" the first of the group would run before the removal, and the other not at all.
TEST_F(CoordinatorTest, NothingOfASetComesAfterItsRemoval) {
  const auto in_set = [this](const std::string& name, const std::string& group = "") {
    wire::Request member = request(name, group, group.empty() ? 0 : 2);
    member.process_set = 1;
    return member;
  };
  wire::Request remove;
  remove.kind = OpKind::kRemoveProcessSet;
  remove.name = "remove";
  remove.shape = {1};
  wire::Request other_type = in_set("g.1", "g");
  other_type.dtype = DataType::kInt64;
  complete(in_set("a"));
  complete(remove);
  complete(in_set("g.0", "g"));
  complete(other_type);
  complete(request("of all"));
  EXPECT_EQ(names(*decide()), (std::vector<std::string>{"a", "remove", "of all"}));
}

TEST_F(CoordinatorTest, AMismatchFailsTheGroupsOfAllVariants) {
  TableEntry entry;
  entry.key = {0, "x"};
  entry.variants.push_back({request("x", "g", 2), RankSet::single(0), {}, {}});
  entry.variants.push_back({request("x", "h", 2), RankSet::single(1), {}, {}});
  coordinator_.completed(entry, {peers_, sets_}, now_);
  const auto decision = decide();
  EXPECT_THAT(decision->responses.at(0).failed_groups, ElementsAre("g", "h"));
  EXPECT_THAT(names(*decision), ElementsAre("x"));
}

TEST_F(CoordinatorTest, LeavingIsTheLastDecisionAndTakesWhatIsReady) {
  complete(request("a"));
  coordinator_.leave("rank 1 called shutdown()");
  coordinator_.leave("too late");
  const auto decision = decide();
  EXPECT_THAT(names(*decision), ElementsAre("a"));
  EXPECT_TRUE(decision->shutdown);
  EXPECT_EQ(decision->shutdown_reason, "rank 1 called shutdown()");
  complete(request("b"));
  EXPECT_FALSE(decide().has_value());
}

}  // namespace
}  // namespace khorus::protocol

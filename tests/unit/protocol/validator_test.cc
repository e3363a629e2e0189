// What a person reads when ranks do not agree, word for word.
#include "core/protocol/validator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace khorus::protocol {
namespace {

using testing::HasSubstr;
using testing::Not;
using wire::RankSet;

// Eight ranks, and of them the process sets 1 (ranks 1,3,5) and 2 (rank 4).
const ProcessSets& sets() {
  static const ProcessSets kSets = [] {
    ProcessSets sets(8);
    sets.add(RankSet::of({1, 3, 5}));
    sets.add(RankSet::single(4));
    return sets;
  }();
  return kSets;
}

std::vector<PeerInfo> eight_peers() {
  std::vector<PeerInfo> peers;
  for (int rank = 0; rank < 8; ++rank) {
    peers.push_back({"gpu-0" + std::to_string(rank / 2 + 1), 4711 + rank});
  }
  return peers;
}

// All ranks of 8 ask for `base`, but `ranks` for what `change` makes of it.
template <class Change>
std::string message(const wire::Request& base, RankSet ranks, Change change) {
  wire::Request other = base;
  change(other);
  TableEntry entry;
  entry.key = key_of(base);
  entry.variants.push_back({base, RankSet::all(8).minus(ranks), {}, {}});
  entry.variants.push_back({other, ranks, {}, {}});
  return mismatch(entry, {eight_peers(), sets()}).value_or("");
}

wire::Request weight() {
  wire::Request request;
  request.name = "layers.3.up.weight";
  request.shape = {4096, 1024};
  return request;
}

TEST(Validator, SaysItAsTheDesignDoes) {
  const std::string text = message(weight(), RankSet::single(3), [](auto& r) {
    r.shape = {4096, 512};
  });
  EXPECT_THAT(Status(StatusCode::kMismatch, text).to_string(),
              testing::StartsWith("mismatch: allreduce \"layers.3.up.weight\" has shape "
                                  "[4096,1024] on ranks 0-2,4-7 and [4096,512] on rank 3 "
                                  "(gpu-02)"));
}

TEST(Validator, AgreementIsNoMismatch) {
  TableEntry entry;
  entry.key = key_of(weight());
  entry.variants.push_back({weight(), RankSet::all(8), {}, {}});
  EXPECT_EQ(mismatch(entry, {eight_peers(), sets()}), std::nullopt);
}

TEST(Validator, NamesEveryAttributeThatDiffersAndNoOther) {
  const std::string text = message(weight(), RankSet::of({6, 7}), [](auto& r) {
    r.dtype = DataType::kFloat16;
    r.op = ReduceOp::kMax;
  });
  EXPECT_THAT(text, HasSubstr("dtype float32 on ranks 0-5 and float16 on ranks 6,7"));
  EXPECT_THAT(text, HasSubstr("reduction sum on ranks 0-5 and max on ranks 6,7"));
  EXPECT_THAT(text, Not(HasSubstr("shape")));
  EXPECT_THAT(text, Not(HasSubstr("root")));
}

TEST(Validator, EveryAttributeHasItsWords) {
  const auto of = [](auto change) { return message(weight(), RankSet::single(1), change); };
  EXPECT_THAT(of([](auto& r) { r.root_rank = 2; }),
              HasSubstr("root rank 0 on ranks 0,2-7 and 2 on"));
  EXPECT_THAT(of([](auto& r) { r.peer = 2; }), HasSubstr("peer rank -1 on ranks 0,2-7 and 2 on"));
  EXPECT_THAT(of([](auto& r) { r.device = DeviceKind::kCuda; }), HasSubstr("device cpu on"));
  EXPECT_THAT(of([](auto& r) { r.prescale = 0.25; }), HasSubstr("prescale factor 1 on"));
  EXPECT_THAT(of([](auto& r) { r.postscale = 0.125; }), HasSubstr("and 0.125 on rank 1 (gpu-01)"));
  EXPECT_THAT(of([](auto& r) {
                r.group = "g";
                r.group_size = 3;
              }),
              HasSubstr("group none on ranks 0,2-7 and \"g\" of 3 on rank 1 (gpu-01)"));
}

TEST(Validator, DifferentOperationsAreNotComparedFurther) {
  const std::string text = message(weight(), RankSet::single(0), [](auto& r) {
    r.kind = OpKind::kBroadcast;
    r.root_rank = 1;
  });
  EXPECT_THAT(text, testing::StartsWith("operation \"layers.3.up.weight\" has operation"));
  EXPECT_THAT(text, HasSubstr("allreduce on ranks 1-7 and broadcast on rank 0 (gpu-01)"));
  EXPECT_THAT(text, Not(HasSubstr("root")));
}

TEST(Validator, GathersRanksOfTheSameValue) {
  TableEntry entry;
  entry.key = key_of(weight());
  wire::Request half = weight();
  half.dtype = DataType::kFloat16;
  wire::Request half_and_short = half;
  half_and_short.shape = {1};
  entry.variants.push_back({weight(), RankSet::of({0, 1}), {}, {}});
  entry.variants.push_back({half, RankSet::of({2, 3, 4}), {}, {}});
  entry.variants.push_back({half_and_short, RankSet::of({5, 6, 7}), {}, {}});
  const std::string text = *mismatch(entry, {eight_peers(), sets()});
  EXPECT_THAT(text, HasSubstr("dtype float32 on ranks 0,1 and float16 on ranks 2-7"));
  EXPECT_THAT(text, HasSubstr("shape [4096,1024] on ranks 0-4 and [1] on ranks 5-7"));
}

TEST(Validator, ThreeValuesReadAsAList) {
  TableEntry entry;
  entry.key = key_of(weight());
  for (int i = 0; i < 3; ++i) {
    wire::Request request = weight();
    request.shape = {i};
    entry.variants.push_back({request, RankSet::single(i), {}, {}});
  }
  EXPECT_THAT(*mismatch(entry, {{}, sets()}),
              HasSubstr("has shape [0] on rank 0, [1] on rank 1 and [2] on rank 2;"));
}

TEST(Validator, AnAllgathersFirstExtentMayDiffer) {
  wire::Request rows = weight();
  rows.kind = OpKind::kAllgather;
  rows.shape = {0, 16};
  EXPECT_THAT(message(rows, RankSet::single(7),
                      [](auto& r) {
                        r.shape = {0, 8};
                      }),
              HasSubstr("shape [*,16] on ranks 0-6 and [*,8] on rank 7 (gpu-04)"));
}

TEST(Validator, NamesTheProcessSet) {
  wire::Request request = weight();
  request.process_set = 1;
  TableEntry entry;
  entry.key = key_of(request);
  entry.needed = RankSet::of({1, 3, 5});
  entry.ranks = RankSet::of({1, 3});
  wire::Request other = request;
  other.shape = {1};
  entry.variants.push_back({request, RankSet::single(1), {}, {}});
  entry.variants.push_back({other, RankSet::single(3), {}, {}});
  EXPECT_THAT(*mismatch(entry, {eight_peers(), sets()}),
              testing::StartsWith("allreduce \"layers.3.up.weight\" in process set 1 (ranks "
                                  "1,3,5) has shape [4096,1024] on rank 1 "));
  entry.variants.back().request.kind = OpKind::kBarrier;
  EXPECT_THAT(*mismatch(entry, {eight_peers(), sets()}),
              testing::StartsWith("operation \"layers.3.up.weight\" in process set 1 (ranks "
                                  "1,3,5) has operation allreduce on rank 1 "));
  entry.variants.pop_back();
  entry.variants.front().request.op = ReduceOp::kMax;
  EXPECT_THAT(*objection_to_absence(entry, {eight_peers(), sets()}),
              HasSubstr("\"layers.3.up.weight\" in process set 1 (ranks 1,3,5): zeros of rank 5"));
}

TEST(Validator, NamesAProcessSetAsFarAsThatIsShort) {
  EXPECT_EQ(describe_set(kGlobalProcessSet, sets()), "");
  EXPECT_EQ(describe_set(2, sets()), " in process set 2 (rank 4)");
  EXPECT_EQ(describe_set(7, sets()), " in process set 7");
  ProcessSets many(4096);
  RankSet odd;
  for (int rank = 1; rank < 4096; rank += 2) odd.add(rank);
  many.add(odd);
  EXPECT_EQ(describe_set(1, many), " in process set 1 (2048 ranks)");
}

TEST(Validator, NamesPeersAsFarAsTheyAreKnown) {
  EXPECT_EQ(describe_peer(3, eight_peers()), "rank 3 (gpu-02, pid 4714)");
  EXPECT_EQ(describe_peer(3, {}), "rank 3");
  EXPECT_EQ(describe_ranks(RankSet::single(3), eight_peers()), "rank 3 (gpu-02)");
  EXPECT_EQ(describe_ranks(RankSet::single(3), {}), "rank 3");
  EXPECT_EQ(describe_ranks(RankSet::of({0, 1, 2, 4}), eight_peers()), "ranks 0-2,4");
}

}  // namespace
}  // namespace khorus::protocol

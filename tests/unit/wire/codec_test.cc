// The codec: what is encoded is decoded, what is broken is refused, nothing is trusted.
#include "core/wire/codec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <random>
#include <string>

#include "core/wire/byte_stream.h"
#include "khorus/version.h"
#include "tests/unit/wire/sample_frames.h"

namespace khorus::wire {
namespace {

using testing::HasSubstr;

int rounds(int by_default) {
  const char* soak = std::getenv("KHORUS_TEST_SOAK");
  return soak != nullptr && std::string(soak) == "1" ? 100 * by_default : by_default;
}

TEST(Codec, EveryMessageSurvives) {
  for (const auto& [name, frame] : sample_frames()) {
    const Result<Frame> decoded = decode(encode(frame));
    ASSERT_TRUE(decoded.ok()) << name << ": " << decoded.status().to_string();
    EXPECT_TRUE(*decoded == frame) << name;
  }
}

TEST(Codec, TensorsOfACachedResponseStayAtHome) {
  Frame frame{1, sample_decision()};
  auto& decision = std::get<Decision>(frame.message);
  decision.responses[1].tensors.push_back({full_request(), {}, {}});
  const Result<Frame> decoded = decode(encode(frame));
  ASSERT_TRUE(decoded.ok());
  EXPECT_TRUE(std::get<Decision>(decoded->message).responses[1].tensors.empty());
  EXPECT_EQ(std::get<Decision>(decoded->message).responses[1].cache_ids,
            decision.responses[1].cache_ids);
}

TEST(Codec, EveryTruncationIsRefused) {
  for (const auto& [name, frame] : sample_frames()) {
    const Bytes bytes = encode(frame);
    for (size_t size = 0; size < bytes.size(); ++size) {
      const Result<Frame> decoded = decode(std::span(bytes).first(size));
      ASSERT_FALSE(decoded.ok()) << name << " cut to " << size;
      EXPECT_EQ(decoded.status().code(), StatusCode::kInvalidArgument);
      EXPECT_THAT(decoded.status().message(), HasSubstr("byte ")) << name;
    }
  }
}

TEST(Codec, TrailingBytesAreRefused) {
  for (const auto& [name, frame] : sample_frames()) {
    Bytes bytes = encode(frame);
    bytes.push_back(std::byte{0});
    EXPECT_FALSE(decode(bytes).ok()) << name;
  }
}

// Whatever decodes encodes to bytes that decode to the same, and to the same bytes again.
void expect_stable(const Bytes& bytes) {
  const Result<Frame> first = decode(bytes);
  if (!first.ok()) return;
  const Bytes again = encode(*first);
  const Result<Frame> second = decode(again);
  ASSERT_TRUE(second.ok()) << second.status().to_string();
  EXPECT_EQ(encode(*second), again);
}

TEST(Codec, EveryChangedByteIsRefusedOrStable) {
  for (const auto& [name, frame] : sample_frames()) {
    const Bytes bytes = encode(frame);
    for (size_t i = 0; i < bytes.size(); ++i) {
      for (unsigned flip : {1U, 0x80U, 0xffU, 0x7fU}) {
        Bytes changed = bytes;
        changed[i] ^= static_cast<std::byte>(flip);
        expect_stable(changed);
      }
    }
  }
}

TEST(Codec, GarbageIsRefusedOrStable) {
  std::mt19937_64 random(4711);
  for (int i = 0; i < rounds(20'000); ++i) {
    Bytes bytes(random() % 200);
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
    if (bytes.size() > 2 && i % 2 == 0) {  // past the first two checks
      bytes[0] = static_cast<std::byte>(kWireVersion);
      bytes[1] = static_cast<std::byte>(random() % 6);
    }
    expect_stable(bytes);
  }
}

TEST(Codec, AnotherVersionIsRefusedByName) {
  Bytes bytes = encode({1, Report()});
  bytes[0] = static_cast<std::byte>(kWireVersion + 1);
  const Result<Frame> decoded = decode(bytes);
  ASSERT_FALSE(decoded.ok());
  EXPECT_THAT(decoded.status().message(), HasSubstr("wire version"));
}

TEST(Codec, UnknownMessageTypeIsRefused) {
  Bytes bytes = encode({1, Report()});
  bytes[1] = std::byte{6};
  EXPECT_THAT(decode(bytes).status().message(), HasSubstr("unknown message type 6"));
}

Status refusal(const Frame& frame) { return decode(encode(frame)).status(); }

TEST(Codec, LimitsHold) {
  Report report;
  report.contributions.push_back({full_request(), RankSet::single(0), {}, {}});
  Request& request = report.contributions[0].request;

  request.name.assign(Limits::kMaxNameBytes, 'n');
  EXPECT_TRUE(refusal({1, report}).ok());
  request.name.push_back('n');
  EXPECT_THAT(refusal({1, report}).message(), HasSubstr("name"));
  request.name = "n";

  request.shape.assign(Limits::kMaxDimensions, 1);
  EXPECT_TRUE(refusal({1, report}).ok());
  request.shape.push_back(1);
  EXPECT_THAT(refusal({1, report}).message(), HasSubstr("dimensions"));
  request.shape.clear();

  report.contributions[0].payloads = {Bytes(Limits::kMaxPayloadBytes)};
  EXPECT_TRUE(refusal({1, report}).ok());
  report.contributions[0].payloads = {Bytes(Limits::kMaxPayloadBytes + 1)};
  EXPECT_THAT(refusal({1, report}).message(), HasSubstr("payload"));
  report.contributions[0].payloads.clear();

  report.contributions[0].ranks = RankSet::single(Limits::kMaxRanks - 1);
  EXPECT_TRUE(refusal({1, report}).ok());
  report.contributions[0].ranks = RankSet::single(Limits::kMaxRanks);
  EXPECT_FALSE(refusal({1, report}).ok());

  EXPECT_FALSE(refusal({1, StallReport{std::string(Limits::kMaxTextBytes + 1, 't')}}).ok());
  EXPECT_FALSE(refusal({1, Fault{StatusCode::kOk, 0, "none"}}).ok());
}

// A count that promises more than the frame holds must cost nothing.
TEST(Codec, PromisesAreNotBelieved) {
  for (uint64_t promised :
       {uint64_t{1} << 20, (uint64_t{1} << 20) + 1, uint64_t{1} << 40, UINT64_MAX}) {
    ByteWriter out;
    out.u8(static_cast<uint8_t>(kWireVersion));
    out.u8(0);      // a report
    out.varint(1);  // epoch
    out.u8(0);      // flags
    out.varint(0);  // applied
    out.varint(promised);
    EXPECT_FALSE(decode(std::move(out).take()).ok()) << promised;
  }
}

TEST(Codec, OversizedFramesAreRefusedUnread) {
  const Bytes bytes(Limits::kMaxFrameBytes + 1);
  EXPECT_FALSE(decode(bytes).ok());
}

TEST(Codec, CachedReportsAreSmall) {
  Report report;
  for (uint64_t id = 5000; id < 5160; ++id) report.cached_all.push_back(id);
  EXPECT_LE(encode({1, report}).size(), 160U + 12U);
}

TEST(ByteStream, VarintsHaveOneEncoding) {
  const Bytes padded = {std::byte{0x81}, std::byte{0x00}};
  ByteReader in(padded);
  in.varint();
  EXPECT_FALSE(in.ok());
  const Bytes too_long(11, std::byte{0xff});
  ByteReader over(too_long);
  over.varint();
  EXPECT_FALSE(over.ok());
}

TEST(ByteStream, IntegersAndDoublesSurvive) {
  ByteWriter out;
  const std::vector<uint64_t> unsigned_values = {0, 1, 127, 128, 1ULL << 32, UINT64_MAX};
  const std::vector<int64_t> signed_values = {0, -1, 1, INT64_MAX, INT64_MIN, -4711};
  for (uint64_t value : unsigned_values) out.varint(value);
  for (int64_t value : signed_values) out.zigzag(value);
  out.f64(-0.1);
  const Bytes bytes = std::move(out).take();
  ByteReader in(bytes);
  for (uint64_t value : unsigned_values) EXPECT_EQ(in.varint(), value);
  for (int64_t value : signed_values) EXPECT_EQ(in.zigzag(), value);
  EXPECT_EQ(in.f64(), -0.1);
  EXPECT_TRUE(in.ok());
  EXPECT_EQ(in.left(), 0U);
}

}  // namespace
}  // namespace khorus::wire

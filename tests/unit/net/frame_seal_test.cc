// Frames: what was sealed opens once, in order, unchanged, under its own key; nothing else does.
#include "core/net/frame_seal.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "tests/unit/net/support.h"

namespace khorus::net {
namespace {

constexpr size_t kBound = 1000;

SecretBytes session_key(unsigned char seed) {
  SecretBytes key;
  std::ranges::fill(key.bytes(), static_cast<std::byte>(seed));
  return key;
}

Status open(FrameOpen* opener, const FrameHeader& header, std::span<const std::byte> payload) {
  const Result<size_t> size = opener->payload_bytes(header);
  if (!size.ok()) return size.status();
  if (*size != payload.size()) return Status(StatusCode::kPermissionDenied, "cut");
  return opener->open(header, payload);
}

class FrameSealTest : public ::testing::Test {
 protected:
  FrameSeal seal_{session_key(1)};
  FrameOpen open_{session_key(1), kBound};
};

TEST_F(FrameSealTest, FramesOpenInOrder) {
  for (const std::string text : {"", "a", "some more bytes", ""}) {
    const FrameHeader header = seal_.seal(bytes_of(text));
    EXPECT_TRUE(open(&open_, header, bytes_of(text)).ok());
  }
}

TEST_F(FrameSealTest, AReplayIsRefused) {
  const FrameHeader header = seal_.seal(bytes_of("once"));
  EXPECT_TRUE(open(&open_, header, bytes_of("once")).ok());
  const Status status = open(&open_, header, bytes_of("once"));
  EXPECT_EQ(status.code(), StatusCode::kPermissionDenied);
  EXPECT_NE(status.message().find("number is 0, the next one is 1"), std::string::npos)
      << status.message();
}

TEST_F(FrameSealTest, AReorderedOrLostFrameIsRefused) {
  static_cast<void>(seal_.seal(bytes_of("first")));
  const FrameHeader second = seal_.seal(bytes_of("second"));
  EXPECT_FALSE(open(&open_, second, bytes_of("second")).ok());
}

TEST_F(FrameSealTest, ARenumberedFrameIsRefused) {
  static_cast<void>(seal_.seal(bytes_of("first")));
  FrameHeader second = seal_.seal(bytes_of("second"));
  second[4] = std::byte{0};
  EXPECT_FALSE(open(&open_, second, bytes_of("second")).ok());
}

TEST_F(FrameSealTest, EveryChangedByteIsRefused) {
  const std::string text = "payload";
  const FrameHeader good = seal_.seal(bytes_of(text));
  for (size_t i = 0; i < good.size(); ++i) {
    FrameHeader bad = good;
    bad[i] ^= std::byte{1};
    EXPECT_FALSE(open(&open_, bad, bytes_of(text)).ok()) << "header, byte " << i;
  }
  for (size_t i = 0; i < text.size(); ++i) {
    std::string bad = text;
    bad[i] = static_cast<char>(bad[i] ^ 1);
    EXPECT_FALSE(open(&open_, good, bytes_of(bad)).ok()) << "payload, byte " << i;
  }
  EXPECT_TRUE(open(&open_, good, bytes_of(text)).ok()) << "a refused frame changes nothing";
}

TEST_F(FrameSealTest, ACutOrExtendedFrameIsRefused) {
  FrameHeader header = seal_.seal(bytes_of("payload"));
  header[0] = std::byte{6};
  EXPECT_FALSE(open(&open_, header, bytes_of("payloa")).ok());
  header[0] = std::byte{8};
  EXPECT_FALSE(open(&open_, header, bytes_of("payload+")).ok());
}

TEST_F(FrameSealTest, AnOversizedFrameIsRefusedByItsHeader) {
  const std::vector<std::byte> fits(kBound);
  EXPECT_TRUE(open_.payload_bytes(seal_.seal(fits)).ok());
  FrameSeal other(session_key(1));
  const std::vector<std::byte> large(kBound + 1);
  const Status status = open_.payload_bytes(other.seal(large)).status();
  EXPECT_NE(status.message().find("1001"), std::string::npos) << status.message();
}

TEST_F(FrameSealTest, TheOtherDirectionsFramesAreRefused) {
  FrameSeal other(session_key(2));
  const FrameHeader header = other.seal(bytes_of("reflected"));
  EXPECT_FALSE(open(&open_, header, bytes_of("reflected")).ok());
}

}  // namespace
}  // namespace khorus::net

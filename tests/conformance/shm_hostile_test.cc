// A peer of the shm backend that sends hostile descriptors, packets and places: what it says of its
// memory is refused unless it is true, and nothing outside of that memory is reached.
//
// The backend's own parts, with the test at the other end of the connection. The packets are
// written by hand (arenas.cc).
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <limits>
#include <stdexcept>
#include <utility>
#include <vector>

#include "backends/shm/arenas.h"
#include "backends/shm/failure.h"
#include "backends/shm/packet.h"

namespace khorus::backends::shm {
namespace {

constexpr size_t kPage = 4096;
constexpr int kGood = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE;
constexpr uint64_t kMost = std::numeric_limits<uint64_t>::max();

struct Memory {
  size_t bytes = kPage;
  int seals = kGood;
  bool allocated = true;
};

Descriptor make(const Memory& memory) {
  return Descriptor::make([&] {
    const int fd = ::memfd_create("hostile", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    const auto size = static_cast<off_t>(memory.bytes);
    EXPECT_EQ(memory.allocated && size > 0 ? ::fallocate(fd, 0, 0, size) : ::ftruncate(fd, size),
              0);
    EXPECT_EQ(::fcntl(fd, F_ADD_SEALS, memory.seals), 0);
    return fd;
  });
}

bool adopts(Descriptor descriptor, size_t bytes) {
  try {
    return Segment::adopt(std::move(descriptor), bytes)->bytes() == bytes;
  } catch (const std::runtime_error&) {
    return false;
  }
}

TEST(ShmHostile, OnlySealedMemoryOfTheRightSizeIsMapped) {
  EXPECT_TRUE(adopts(make({}), kPage));
  EXPECT_FALSE(adopts(make({.seals = F_SEAL_SHRINK | F_SEAL_GROW}), kPage)) << "may still change";
  EXPECT_FALSE(adopts(make({.seals = F_SEAL_GROW | F_SEAL_FUTURE_WRITE}), kPage)) << "may shrink";
  EXPECT_FALSE(adopts(make({.seals = F_SEAL_SHRINK | F_SEAL_FUTURE_WRITE}), kPage)) << "may grow";
  EXPECT_FALSE(adopts(make({.bytes = 0}), kPage)) << "SIGBUS for who reads it";
  EXPECT_FALSE(adopts(make({.bytes = kPage}), 2 * kPage));
  EXPECT_FALSE(adopts(make({.bytes = 2 * kPage}), kPage));
  EXPECT_FALSE(adopts(make({.bytes = 16 * kPage, .allocated = false}), 16 * kPage)) << "sparse";
  for (const uint64_t bytes : {kMost, kMost - kPage, uint64_t{1} << 63}) {
    EXPECT_FALSE(adopts(make({}), bytes));
    EXPECT_FALSE(adopts(make({.bytes = 0}), bytes)) << "a sum that overflows";
  }
  for (const char* path : {"/dev/zero", "/proc/self/exe", "/"}) {
    EXPECT_FALSE(adopts(Descriptor::make([&] { return ::open(path, O_RDONLY); }), kPage)) << path;
  }
}

struct Words {
  uint64_t magic = 0x316e7261682d6863;
  uint64_t what = 1;  // an offer; mapped, refused, freed
  uint64_t number = 7;
  uint64_t bytes = kPage;
};

// Rank 0 of two; the test is rank 1.
class ShmHostilePeer : public testing::Test {
 protected:
  ShmHostilePeer() {
    int ends[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    neighbours_[1].connection = Descriptor::make([&] { return ends[0]; });
    peer_ = Descriptor::make([&] { return ends[1]; });
  }

  void send(const Words& words, const Descriptor& passed) {
    ASSERT_TRUE(send_packet(peer_.get(), &words, sizeof(words), passed.get()));
  }
  // Makes rank 0 read what has been sent.
  void hear() { arenas_.hear_of(1, {.offered = ++offered_}); }
  bool refuses(const Place& place, size_t bytes, size_t width = 4) {
    try {
      static_cast<void>(arenas_.memory_of(1, place, bytes, width));
      return false;
    } catch (const Failure& failure) {
      EXPECT_EQ(failure.cause(), Failure::Cause::kMismatch);
      EXPECT_EQ(failure.peer(), 1);
      return true;
    }
  }

  std::vector<Neighbour> neighbours_ = std::vector<Neighbour>(2);
  Descriptor peer_;
  Arenas arenas_{0, neighbours_};
  uint64_t offered_ = 0;
};

size_t open_files() {
  size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    ++count;
  }
  return count;
}

TEST_F(ShmHostilePeer, PlacesAreWithinItsMemory) {
  send({}, make({}));
  hear();
  const std::byte* const memory = arenas_.memory_of(1, {.arena = 7}, kPage, 4);
  for (size_t i = 0; i < kPage; ++i) EXPECT_EQ(memory[i], std::byte{0});
  EXPECT_FALSE(refuses({.arena = 7, .offset = kPage - 8}, 8));
  EXPECT_TRUE(refuses({.arena = 7, .offset = kPage - 4}, 8));
  EXPECT_TRUE(refuses({.arena = 7, .offset = 4}, kPage));
  EXPECT_TRUE(refuses({.arena = 7, .offset = kPage}, 4));
  EXPECT_TRUE(refuses({.arena = 7}, kPage + 4));
  EXPECT_TRUE(refuses({.arena = 7}, kMost)) << "the size of the operation is checked, too";
  EXPECT_TRUE(refuses({.arena = 7, .offset = 2}, 4)) << "misaligned";
  for (const uint64_t offset : {kMost - 3, kMost - 7, kMost - kPage + 1, uint64_t{1} << 63}) {
    EXPECT_TRUE(refuses({.arena = 7, .offset = offset}, 8)) << "a sum that overflows";
  }
  for (const uint64_t arena : {uint64_t{0}, uint64_t{6}, uint64_t{8}, kMost}) {
    EXPECT_TRUE(refuses({.arena = arena}, 4)) << "memory that it never offered";
  }
}

TEST_F(ShmHostilePeer, LiesAboutMemoryAreRefused) {
  const size_t before = open_files();
  send({.number = 1, .bytes = 2 * kPage}, make({}));
  send({.number = 2, .bytes = kMost}, make({}));
  send({.number = 3, .bytes = 0}, make({.bytes = 0}));
  send({.number = 4}, make({.seals = 0}));
  send({.number = 5}, Descriptor());
  hear();
  for (uint64_t arena = 1; arena <= 5; ++arena) EXPECT_TRUE(refuses({.arena = arena}, 4)) << arena;
  // What is offered again keeps what it was, and may not be swapped.
  send({}, make({}));
  send({.bytes = 2 * kPage}, make({.bytes = 2 * kPage}));
  hear();
  EXPECT_FALSE(refuses({.arena = 7}, kPage));
  EXPECT_TRUE(refuses({.arena = 7}, 2 * kPage));
  EXPECT_EQ(open_files(), before) << "descriptors were kept";
}

TEST_F(ShmHostilePeer, NonsenseAndFloodsAreBounded) {
  const size_t before = open_files();
  send({.magic = 1, .number = 1}, make({}));
  hear();
  EXPECT_TRUE(refuses({.arena = 1}, 4));
  for (const uint64_t what : {uint64_t{0}, uint64_t{2}, uint64_t{3}, uint64_t{4}, kMost}) {
    send({.what = what, .number = kMost}, make({}));  // of arenas that nobody has
    hear();
  }
  const char cut[] = "cut";
  ASSERT_EQ(::send(peer_.get(), cut, 3, 0), 3);
  hear();
  const std::vector<char> large(1000, 'x');
  ASSERT_EQ(::send(peer_.get(), large.data(), large.size(), 0), 1000);
  hear();
  size_t kept = 0;
  for (uint64_t number = 100; number < 400; ++number) {
    send({.number = number}, make({}));
    hear();
    kept += refuses({.arena = number}, 4) ? 0 : 1;
    Words answer;
    ASSERT_EQ(::recv(peer_.get(), &answer, sizeof(answer), MSG_DONTWAIT),
              static_cast<ssize_t>(sizeof(answer)));
  }
  EXPECT_EQ(kept, 256U);
  EXPECT_EQ(open_files(), before) << "descriptors were kept";
}

}  // namespace
}  // namespace khorus::backends::shm

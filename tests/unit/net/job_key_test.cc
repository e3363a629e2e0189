// The job key: where it may come from, and that a careless file is refused.
#include "core/net/job_key.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <string>
#include <string_view>

namespace khorus::net {
namespace {

using ::testing::HasSubstr;

const std::string kHex = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1F";

class KeyFile {
 public:
  explicit KeyFile(const std::string& text, mode_t mode = 0600) {
    const int fd = ::mkstemp(path_.data());
    EXPECT_GE(fd, 0);
    EXPECT_EQ(::write(fd, text.data(), text.size()), static_cast<ssize_t>(text.size()));
    ::fchmod(fd, mode);
    ::close(fd);
  }
  ~KeyFile() { std::remove(path_.c_str()); }
  const std::string& path() const { return path_; }

 private:
  std::string path_ = "/tmp/khorus-key-XXXXXX";
};

JobKey counting_key() {
  std::array<std::byte, JobKey::kBytes> bytes;
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i);
  return JobKey::from_bytes(bytes);
}

TEST(JobKey, GeneratedKeysDiffer) {
  const auto a = JobKey::generate();
  const auto b = JobKey::generate();
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_TRUE(a->is_set());
  EXPECT_FALSE(*a == *b);
  EXPECT_FALSE(JobKey().is_set());
}

TEST(JobKey, FileWithHexDigits) {
  for (const std::string& text : {kHex, kHex + "\n"}) {
    const KeyFile file(text);
    const auto key = JobKey::from_file(file.path());
    ASSERT_TRUE(key.ok()) << key.status().to_string();
    EXPECT_TRUE(*key == counting_key());
  }
}

TEST(JobKey, FileOpenToOthersIsRefusedWithTheRemedy) {
  for (const mode_t mode : {0640, 0604, 0660, 0601}) {
    const KeyFile file(kHex, mode);
    const auto key = JobKey::from_file(file.path());
    EXPECT_EQ(key.status().code(), StatusCode::kPermissionDenied);
    EXPECT_THAT(key.status().message(), HasSubstr("chmod 600"));
  }
}

TEST(JobKey, FileOfAnotherFormIsRefusedWithoutShowingIt) {
  std::string wrong_digit = kHex;
  wrong_digit[5] = 'g';
  for (const std::string& text : {std::string(), kHex.substr(1), kHex + "0", kHex + "\n\n",
                                  wrong_digit, std::string(64, '0')}) {
    const KeyFile file(text);
    const auto key = JobKey::from_file(file.path());
    EXPECT_EQ(key.status().code(), StatusCode::kInvalidArgument) << text;
    EXPECT_EQ(key.status().message().find("0102030405"), std::string::npos);
  }
}

TEST(JobKey, MissingFileAndFolderAreNamed) {
  EXPECT_THAT(JobKey::from_file("/nonexistent/key").status().message(),
              HasSubstr("/nonexistent/key"));
  EXPECT_EQ(JobKey::from_file("/tmp").status().code(), StatusCode::kInvalidArgument);
}

TEST(JobKey, DescriptorIsReadAndClosed) {
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  ASSERT_TRUE(counting_key().write_to_fd(ends[1]).ok());
  const auto key = JobKey::from_fd(ends[0]);
  ASSERT_TRUE(key.ok()) << key.status().to_string();
  EXPECT_TRUE(*key == counting_key());
  EXPECT_EQ(::fcntl(ends[0], F_GETFD), -1);
  EXPECT_EQ(errno, EBADF);
  ::close(ends[1]);
}

TEST(JobKey, DescriptorThatEndsEarlyIsRefused) {
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  ASSERT_EQ(::write(ends[1], "short", 5), 5);
  ::close(ends[1]);
  EXPECT_THAT(JobKey::from_fd(ends[0]).status().message(), HasSubstr("5 of 32"));
  EXPECT_FALSE(JobKey::from_fd(-1).ok());
}

// What smaps(5) says of the mapping that this lies in: "rd wr mr mw me lo dd wf ".
std::string flags_of_mapping(const void* at) {
  const auto address = reinterpret_cast<uintptr_t>(at);
  std::ifstream maps("/proc/self/smaps");
  bool here = false;
  for (std::string line; std::getline(maps, line);) {
    unsigned long begin = 0, end = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx ", &begin, &end) == 2) {
      here = begin <= address && address < end;
    }
    constexpr std::string_view kFlags = "VmFlags:";
    if (here && line.starts_with(kFlags)) return line.substr(kFlags.size()) + " ";
  }
  return "";
}

// A core dump of the process would be read by more people than the process.
TEST(JobKey, LiesOutsideOfCoreDumpsAndSwap) {
  const auto key = JobKey::generate();
  ASSERT_TRUE(key.ok());
  const JobKey copy = *key;
  const std::string flags = flags_of_mapping(copy.bytes().data());
  EXPECT_THAT(flags, HasSubstr(" dd "));
  EXPECT_THAT(flags, HasSubstr(" wf "));
  // Neither a low limit nor a sanitizer's run-time lets anybody lock memory.
  void* const probe = ::mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(probe, MAP_FAILED);
  const bool may_lock =
      ::mlock(probe, 4096) == 0 && flags_of_mapping(probe).find(" lo ") != std::string::npos;
  ::munmap(probe, 4096);
  if (may_lock) {
    EXPECT_THAT(flags, HasSubstr(" lo "));
  }
}

TEST(JobKey, IsUnknownToAForkedChild) {
  const auto key = JobKey::generate();
  ASSERT_TRUE(key.ok() && key->is_set());
  const pid_t child = ::fork();
  if (child == 0) ::_exit(key->is_set() ? 1 : 0);
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_TRUE(key->is_set());
}

}  // namespace
}  // namespace khorus::net

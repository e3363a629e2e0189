// See job_key.h.
#include "core/net/job_key.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "core/net/mac.h"

namespace khorus::net {
namespace {

constexpr size_t kHexDigits = 2 * JobKey::kBytes;
constexpr std::array<std::byte, JobKey::kBytes> kZeros{};

// Closes on scope exit.
struct Descriptor {
  explicit Descriptor(int number) : fd(number) {}
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  const int fd;
};

// Wiped on scope exit.
template <size_t kSize>
struct Scratch {
  Scratch() = default;
  ~Scratch() { wipe(bytes); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  std::array<std::byte, kSize> bytes{};
};

Status check_owner_only(int fd, const std::string& path) {
  struct stat info {};
  if (::fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    return Status(StatusCode::kInvalidArgument, "key file " + path + " is not a regular file");
  }
  if ((info.st_mode & (S_IRWXG | S_IRWXO)) != 0) {
    return Status(StatusCode::kPermissionDenied,
                  "key file " + path + " is open to others than its owner; run: chmod 600 " + path);
  }
  if (info.st_uid != ::geteuid() && info.st_uid != 0) {
    return Status(StatusCode::kPermissionDenied,
                  "key file " + path + " belongs to uid " + std::to_string(info.st_uid) +
                      ", and this process runs as uid " + std::to_string(::geteuid()));
  }
  return {};
}

int hex_value(std::byte digit) {
  const char c = static_cast<char>(digit);
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// Reads until `bytes` is full or the end; the number read, or -1 with errno.
ssize_t read_all(int fd, std::span<std::byte> bytes) {
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t n = ::read(fd, bytes.data() + done, bytes.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return -1;
    if (n == 0) break;
    done += static_cast<size_t>(n);
  }
  return static_cast<ssize_t>(done);
}

bool wait_readable(int fd, std::chrono::steady_clock::time_point deadline) {
  for (;;) {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    pollfd entry{fd, POLLIN, 0};
    const int ready = ::poll(&entry, 1, static_cast<int>(std::max<int64_t>(left.count(), 0)));
    if (ready > 0) return true;
    if (ready == 0 || errno != EINTR) return false;
  }
}

}  // namespace

std::span<const std::byte, JobKey::kBytes> JobKey::bytes() const noexcept {
  return page_ ? page_->bytes() : std::span<const std::byte, kBytes>(kZeros);
}

bool JobKey::is_set() const noexcept { return !equal_in_constant_time(bytes(), kZeros); }

bool JobKey::operator==(const JobKey& other) const noexcept {
  return equal_in_constant_time(bytes(), other.bytes());
}

Result<JobKey> JobKey::generate() {
  const auto page = std::make_shared<KeyPage>();
  if (Status status = fill_random(page->bytes()); !status.ok()) return status;
  return JobKey(page);
}

JobKey JobKey::from_bytes(std::span<const std::byte, kBytes> bytes) {
  const auto page = std::make_shared<KeyPage>();
  std::ranges::copy(bytes, page->bytes().begin());
  return JobKey(page);
}

Result<JobKey> JobKey::from_file(const std::string& path) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.fd < 0) {
    return Status(StatusCode::kUnavailable,
                  "key file " + path + " cannot be opened: " + std::strerror(errno));
  }
  if (Status status = check_owner_only(file.fd, path); !status.ok()) return status;
  Scratch<kHexDigits + 2> text;
  const ssize_t size = read_all(file.fd, text.bytes);
  const bool newline = size == static_cast<ssize_t>(kHexDigits) + 1 &&
                       text.bytes[kHexDigits] == static_cast<std::byte>('\n');
  const auto page = std::make_shared<KeyPage>();
  bool valid = newline || size == static_cast<ssize_t>(kHexDigits);
  for (size_t i = 0; valid && i < kBytes; ++i) {
    const int high = hex_value(text.bytes[2 * i]);
    const int low = hex_value(text.bytes[2 * i + 1]);
    valid = high >= 0 && low >= 0;
    page->bytes()[i] = static_cast<std::byte>((high << 4 | low) & 0xff);
  }
  JobKey key(page);
  if (!valid || !key.is_set()) {
    return Status(
        StatusCode::kInvalidArgument,
        "key file " + path + " does not hold 64 hex digits; make one with: openssl rand -hex 32");
  }
  return key;
}

Result<JobKey> JobKey::from_fd(int fd) {
  const Descriptor pipe(fd);
  const std::string name = "descriptor " + std::to_string(fd);
  if (fd < 0) return Status(StatusCode::kInvalidArgument, name + " holds no job key");
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  const auto page = std::make_shared<KeyPage>();
  size_t done = 0;
  while (done < kBytes) {
    if (!wait_readable(fd, deadline)) {
      return Status(StatusCode::kTimeout, "the job key did not arrive on " + name + " within 10 s");
    }
    const ssize_t n = ::read(fd, page->bytes().data() + done, kBytes - done);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (n <= 0) {
      return Status(StatusCode::kInvalidArgument,
                    "the job key on " + name + " ends after " + std::to_string(done) +
                        " of 32 bytes" + (n < 0 ? std::string(": ") + std::strerror(errno) : ""));
    }
    done += static_cast<size_t>(n);
  }
  JobKey key(page);
  if (!key.is_set()) {
    return Status(StatusCode::kInvalidArgument, "the job key on " + name + " is all zero");
  }
  return key;
}

Status JobKey::write_to_fd(int fd) const {
  size_t done = 0;
  while (done < kBytes) {
    const ssize_t n = ::write(fd, bytes().data() + done, kBytes - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      return Status(StatusCode::kUnavailable, "the job key cannot be written to descriptor " +
                                                  std::to_string(fd) + ": " + std::strerror(errno));
    }
    done += static_cast<size_t>(n);
  }
  return {};
}

}  // namespace khorus::net

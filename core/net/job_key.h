// JobKey: the 256-bit secret that every member of a job knows and nobody else.
//
// A value that is wiped when it is destroyed and has no printing operator; it never appears in
// argv, environment or logs. The launcher generates it and passes it by inherited descriptor.
//
// Thread rule: a value; each copy to one thread at a time.
#pragma once

#include <array>
#include <cstddef>
#include <iosfwd>
#include <span>
#include <string>

#include "khorus/status.h"

namespace khorus::net {

class JobKey {
 public:
  static constexpr size_t kBytes = 32;

  // All zero, which no handshake accepts: see is_set().
  JobKey() = default;
  ~JobKey();
  JobKey(const JobKey&) = default;
  JobKey& operator=(const JobKey&) = default;

  // Fresh from the system's generator.
  static Result<JobKey> generate();
  // A file with 64 hex digits and at most a newline. PermissionDenied if anybody but its owner may
  // read or write it, or if it belongs to another user.
  static Result<JobKey> from_file(const std::string& path);
  // Reads 32 raw bytes and closes `fd` in every case. Waits at most 10 seconds for them.
  static Result<JobKey> from_fd(int fd);
  static JobKey from_bytes(std::span<const std::byte, kBytes> bytes);

  // Writes the 32 raw bytes, for from_fd() of another process. Does not close `fd`.
  Status write_to_fd(int fd) const;

  std::span<const std::byte, kBytes> bytes() const noexcept { return bytes_; }
  bool is_set() const noexcept;
  // In constant time.
  bool operator==(const JobKey& other) const noexcept;

 private:
  std::array<std::byte, kBytes> bytes_{};
};

// A key does not reach a stream.
std::ostream& operator<<(std::ostream& stream, const JobKey& key) = delete;

}  // namespace khorus::net

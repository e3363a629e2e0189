// JobKey: the 256-bit secret that every member of a job knows and nobody else.
//
// A value that has no printing operator; it never appears in argv, environment or logs. The
// launcher generates it and passes it by inherited descriptor. All copies share one page
// (key_page.h), which is in no core dump and wiped with the last of them.
//
// Thread rule: a value; each copy to one thread at a time.
#pragma once

#include <cstddef>
#include <iosfwd>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "core/net/key_page.h"
#include "khorus/status.h"

namespace khorus::net {

class JobKey {
 public:
  static constexpr size_t kBytes = KeyPage::kBytes;

  // All zero, which no handshake accepts: see is_set().
  JobKey() = default;

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

  std::span<const std::byte, kBytes> bytes() const noexcept;
  bool is_set() const noexcept;
  // In constant time.
  bool operator==(const JobKey& other) const noexcept;

 private:
  explicit JobKey(std::shared_ptr<const KeyPage> page) : page_(std::move(page)) {}

  std::shared_ptr<const KeyPage> page_;  // nullptr: all zero
};

// A key does not reach a stream.
std::ostream& operator<<(std::ostream& stream, const JobKey& key) = delete;

}  // namespace khorus::net

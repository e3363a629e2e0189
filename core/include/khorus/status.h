// Status and Result: how every operation of Khorus says whether it worked.
//
// A Status is a value: copy it, move it, keep it. It is immutable once made, so any thread may read
// one. Operating errors (a lost peer, a mismatch between ranks, a bad argument) are Status values
// in core; they become exceptions only at the edges (khorus.h, torch.h, Python).
#pragma once

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "khorus/export.h"

namespace khorus {

// What kind of failure it was. The numeric values travel on the wire and through the C contract of
// the backends (backend.h): append, never renumber.
enum class StatusCode : uint8_t {
  kOk = 0,
  kInvalidArgument = 1,   // the caller's own argument is wrong; nothing was sent
  kMismatch = 2,          // ranks submitted the same name with different attributes
  kDuplicateName = 3,     // the name is already in flight on this rank
  kPeerLost = 4,          // a rank died; lost_rank() names it
  kAborted = 5,           // the job's data plane failed without a rank having died
  kShutdown = 6,          // shutdown() was called here or on another rank
  kUnavailable = 7,       // something needed is not there (backend, interface, key, store)
  kTimeout = 8,           // a bounded wait ended
  kPermissionDenied = 9,  // a handshake or a MAC did not verify
  kInternal = 10,         // a bug in Khorus
};

// "mismatch", "peer lost", ...: the words that begin an error message.
KHORUS_API std::string_view status_code_name(StatusCode code) noexcept;

class [[nodiscard]] KHORUS_API Status {
 public:
  Status() = default;  // ok
  Status(StatusCode code, std::string message, int lost_rank = -1)
      : code_(code), lost_rank_(lost_rank), message_(std::move(message)) {}

  bool ok() const noexcept { return code_ == StatusCode::kOk; }
  StatusCode code() const noexcept { return code_; }
  // A sentence for a person: tensor, operation, each rank's value, and what to do. Empty when ok.
  const std::string& message() const noexcept { return message_; }
  // The rank whose death caused this, or -1. Set only with kPeerLost.
  int lost_rank() const noexcept { return lost_rank_; }
  // "mismatch: allreduce \"w\" has ..." or "ok".
  std::string to_string() const;

  bool operator==(const Status&) const = default;

 private:
  StatusCode code_ = StatusCode::kOk;
  int lost_rank_ = -1;
  std::string message_;
};

// A value or the Status that says why there is none. value() REQUIRES ok().
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}         // NOLINT: implicit by design
  Result(Status status) : status_(std::move(status)) {  // NOLINT: implicit by design
    if (status_.ok())
      status_ = Status(StatusCode::kInternal, "a Result was made from an ok Status");
  }

  bool ok() const noexcept { return value_.has_value(); }
  explicit operator bool() const noexcept { return ok(); }
  const Status& status() const noexcept { return status_; }

  T& value() & { return *value_; }
  const T& value() const& { return *value_; }
  T&& value() && { return std::move(*value_); }
  T& operator*() & { return *value_; }
  const T& operator*() const& { return *value_; }
  T* operator->() { return &*value_; }
  const T* operator->() const { return &*value_; }

 private:
  std::optional<T> value_;
  Status status_;
};

// What the exception-throwing edges throw. what() is status().to_string().
class KHORUS_API Error : public std::runtime_error {
 public:
  explicit Error(Status status)
      : std::runtime_error(status.to_string()), status_(std::move(status)) {}
  const Status& status() const noexcept { return status_; }

 private:
  Status status_;
};

// Throws Error when `status` is not ok.
inline void throw_if_error(const Status& status) {
  if (!status.ok()) throw Error(status);
}

}  // namespace khorus

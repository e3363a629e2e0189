// FlightRecorder: the last operations of this rank in a fixed ring, for who asks after a failure
// what the job was doing.
//
// A dump is JSON with the key names of torch's flight recorder, format 2.10 (FlightRecorder.hpp of
// torch 2.15), so that whoever knows those files, or has tools for them, can read ours; what torch
// has no word for has the prefix "khorus_". docs/observability.md lists the keys.
//
// All memory is taken at the start: an entry is a slot that is overwritten when the ring has gone
// round, and names are cut to fit. Each slot has its own lock, which two threads only ever want at
// once when an operation is still under way as its slot is taken by a new one, or during a dump.
//
// Thread rule: any thread. The notes of one operation come one after the other.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "core/wire/message.h"
#include "khorus/status.h"
#include "khorus/types.h"

namespace khorus::runtime {

class FlightRecorder {
 public:
  // 0 entries: nothing is recorded.
  explicit FlightRecorder(size_t entries);

  bool enabled() const noexcept { return capacity_ > 0; }

  // An operation was submitted. Returns its number, from 1; 0 when nothing is recorded. Times are
  // nanoseconds of steady_clock.
  uint64_t submitted(const wire::Request& request, const Shape& input, const Shape& output,
                     int64_t now_ns);
  // Agreed: `position` in the order of all operations of the job, and in which fused operation.
  void agreed(uint64_t record, uint64_t position, uint64_t fused_id, uint32_t fused_tensors,
              int64_t now_ns);
  void started(uint64_t record, int64_t now_ns);
  // `output`: null if it is as it was submitted.
  void completed(uint64_t record, const Shape* output, int64_t now_ns);
  // Over, without having run or run to its end.
  void failed(uint64_t record, StatusCode code);

  // The members of a process set, for the dump; the newest kGroups are kept.
  void set_group(ProcessSetId id, const std::vector<int>& ranks);

  // What a dump says besides the operations.
  struct Header {
    int rank = 0;
    int size = 1;
    std::string host;
    uint64_t epoch = 0;
    std::string backend;
    std::string reason;  // why there is a dump
    int64_t timeout_ms = 0;
  };
  std::string to_json(const Header& header) const;

 private:
  static constexpr size_t kNameBytes = 96;
  static constexpr size_t kDimensions = 8;
  static constexpr size_t kGroups = 1024;

  struct SlotShape {
    uint8_t dimensions = 0;
    std::array<int64_t, kDimensions> extents{};
    void set(const Shape& shape) noexcept;
    std::string to_json() const;
  };
  enum class State : uint8_t { kScheduled, kStarted, kCompleted };
  struct Entry {
    uint64_t record = 0;  // 0: empty
    uint64_t position = 0;
    uint64_t fused_id = 0;
    int64_t created_ns = 0, agreed_ns = 0, started_ns = 0, completed_ns = 0;
    uint32_t fused_tensors = 0;
    ProcessSetId process_set = kGlobalProcessSet;
    int32_t root_rank = 0;  // send/recv: who sends
    int32_t peer = -1;      // and who receives
    OpKind kind = OpKind::kAllreduce;
    DataType dtype = DataType::kFloat32;
    State state = State::kScheduled;
    StatusCode code = StatusCode::kOk;
    bool retired = false;
    uint8_t name_bytes = 0;
    SlotShape input, output;
    std::array<char, kNameBytes> name{};
  };
  struct Slot {
    mutable std::mutex mutex;
    Entry entry;
  };

  // Calls `change(entry)` if the slot still holds `record`.
  template <class Change>
  void update(uint64_t record, Change&& change);
  std::vector<Entry> entries() const;
  std::string groups_json() const;
  static std::string status_json(const std::vector<Entry>& entries);
  std::string profiling_name(const Entry& entry, const Header& header) const;
  std::string entry_json(const Entry& entry, uint64_t place, const Header& header,
                         int64_t wall_minus_steady_ns) const;

  const size_t capacity_;
  const std::unique_ptr<Slot[]> slots_;
  std::atomic<uint64_t> next_{1};
  mutable std::mutex groups_mutex_;
  std::map<ProcessSetId, std::vector<int>> groups_;
};

}  // namespace khorus::runtime

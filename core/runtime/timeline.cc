// See timeline.h.
#include "core/runtime/timeline.h"

#include <pthread.h>

#include <algorithm>
#include <utility>

#include "core/base/json.h"
#include "core/runtime/host_identity.h"

namespace khorus::runtime {
namespace {

constexpr size_t kMaxQueuedRecords = 1U << 18;

using base::json_quoted;

int64_t microseconds_between(std::chrono::steady_clock::time_point from,
                             std::chrono::steady_clock::time_point to) {
  return std::chrono::duration_cast<std::chrono::microseconds>(to - from).count();
}

}  // namespace

Timeline::~Timeline() {
  if (enabled()) static_cast<void>(stop());
}

Status Timeline::start(const std::string& path, bool mark_cycles) {
  const std::lock_guard control(control_mutex_);
  if (enabled()) {
    return Status(StatusCode::kUnavailable,
                  "a timeline is being recorded to \"" + path_ + "\"; call stop_timeline() first");
  }
  path_ = rank_ == 0 ? path : path + "." + std::to_string(rank_);
  if (Status opened = file_.open(path_); !opened.ok()) return opened;
  rows_.clear();
  {
    const std::lock_guard lock(mutex_);
    queue_.clear();
    dropped_ = 0;
    stopping_ = false;
    origin_ = Clock::now();
  }
  file_.add("{\"name\":\"process_name\",\"ph\":\"M\",\"pid\":0,\"args\":{\"name\":\"rank " +
            std::to_string(rank_) + "\"}}");
  file_.add(about_the_clock());
  writer_ = std::thread([this] { writer_loop(); });
  pthread_setname_np(writer_.native_handle(), "khorus-trace");
  mark_cycles_.store(mark_cycles);
  enabled_.store(true);
  return Status();
}

Status Timeline::stop() {
  const std::lock_guard control(control_mutex_);
  if (!enabled()) {
    return Status(StatusCode::kUnavailable, "no timeline is being recorded");
  }
  enabled_.store(false);
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wakeup_.notify_one();
  writer_.join();
  finish_file();
  return file_.close();
}

void Timeline::begin(const std::string& tensor, std::string_view event,
                     std::string_view arguments) {
  if (enabled()) add({Phase::kBegin, 0, tensor, std::string(event), std::string(arguments)});
}

void Timeline::end(const std::string& tensor, std::string_view arguments) {
  if (enabled()) add({Phase::kEnd, 0, tensor, {}, std::string(arguments)});
}

void Timeline::tick(const std::string& tensor, std::string_view event) {
  if (enabled()) add({Phase::kTick, 0, tensor, std::string(event), {}});
}

void Timeline::span(const std::string& tensor, std::string_view event, Clock::time_point begin,
                    Clock::time_point end) {
  if (enabled()) add({Phase::kSpan, 0, tensor, std::string(event), {}, begin, end});
}

void Timeline::mark(std::string_view event) {
  if (enabled()) add({Phase::kMark, 0, {}, std::string(event), {}});
}

// The same clock is that of one boot of a machine, in one time namespace.
std::string Timeline::about_the_clock() const {
  const auto microseconds = [](auto time) {
    return std::to_string(
        std::chrono::duration_cast<std::chrono::microseconds>(time.time_since_epoch()).count());
  };
  const auto since = Clock::now() - origin_;
  return "{\"name\":\"khorus_clock\",\"ph\":\"M\",\"pid\":0,\"args\":{\"rank\":" +
         std::to_string(rank_) + ",\"host\":" + json_quoted(host_) +
         ",\"clock\":" + json_quoted(own_host_identity().boot + " " + own_namespace("time")) +
         ",\"origin_us\":" + microseconds(origin_) +
         ",\"unix_us\":" + microseconds(std::chrono::system_clock::now() - since) + "}}";
}

void Timeline::add(Record record) {
  bool was_empty = false;
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) return;
    if (queue_.size() >= kMaxQueuedRecords) {
      ++dropped_;
      return;
    }
    // Taken under the lock, so that the times in the file never run backwards.
    record.time_us = microseconds_between(origin_, Clock::now());
    was_empty = queue_.empty();
    queue_.push_back(std::move(record));
  }
  if (was_empty) wakeup_.notify_one();
}

void Timeline::writer_loop() {
  std::vector<Record> batch;
  std::unique_lock lock(mutex_);
  while (true) {
    wakeup_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
    if (queue_.empty()) return;
    batch.clear();
    std::swap(batch, queue_);
    lock.unlock();
    for (const Record& record : batch) write(record);
    file_.flush();
    lock.lock();
  }
}

void Timeline::write(const Record& record) {
  last_time_us_ = record.time_us;
  const std::string time = ",\"ts\":" + std::to_string(record.time_us);
  if (record.phase == Phase::kMark) {
    file_.add("{\"name\":" + json_quoted(record.event) +
              ",\"ph\":\"i\",\"s\":\"g\",\"pid\":0,\"tid\":0" + time + "}");
    return;
  }
  Row& row = row_of(record.tensor);
  const std::string place = ",\"pid\":" + std::to_string(row.id) + ",\"tid\":0";
  if (record.phase == Phase::kTick) {
    file_.add("{\"name\":" + json_quoted(record.event) + ",\"ph\":\"X\"" + place + time +
              ",\"dur\":0}");
  } else if (record.phase == Phase::kSpan) {
    const int64_t begin = std::max<int64_t>(0, microseconds_between(origin_, record.span_begin));
    const int64_t end = std::max(begin, microseconds_between(origin_, record.span_end));
    file_.add("{\"name\":" + json_quoted(record.event) + ",\"ph\":\"X\"" + place +
              ",\"ts\":" + std::to_string(begin) + ",\"dur\":" + std::to_string(end - begin) + "}");
  } else if (record.phase == Phase::kBegin) {
    ++row.depth;
    file_.add("{\"name\":" + json_quoted(record.event) + ",\"ph\":\"B\"" + place + time +
              (record.arguments.empty() ? "}" : ",\"args\":{" + record.arguments + "}}"));
  } else if (row.depth > 0) {  // else it began before the recording
    --row.depth;
    file_.add("{\"ph\":\"E\"" + place + time +
              (record.arguments.empty() ? "}" : ",\"args\":{" + record.arguments + "}}"));
  }
}

Timeline::Row& Timeline::row_of(const std::string& tensor) {
  Row& row = rows_[tensor];
  if (row.id == 0) {
    row.id = static_cast<int>(rows_.size());
    const std::string id = std::to_string(row.id);
    file_.add("{\"name\":\"process_name\",\"ph\":\"M\",\"pid\":" + id +
              ",\"args\":{\"name\":" + json_quoted(tensor) + "}}");
    file_.add("{\"name\":\"process_sort_index\",\"ph\":\"M\",\"pid\":" + id +
              ",\"args\":{\"sort_index\":" + id + "}}");
  }
  return row;
}

void Timeline::finish_file() {
  const std::string time = ",\"ts\":" + std::to_string(last_time_us_) + "}";
  for (const auto& [tensor, row] : rows_) {
    for (int open = 0; open < row.depth; ++open) {
      file_.add("{\"ph\":\"E\",\"pid\":" + std::to_string(row.id) + ",\"tid\":0" + time);
    }
  }
  if (dropped_ > 0) {
    file_.add(
        "{\"name\":\"EVENTS_DROPPED\",\"ph\":\"i\",\"s\":\"g\",\"pid\":0,\"tid\":0,\"args\":{"
        "\"count\":" +
        std::to_string(dropped_) + "}" + time);
  }
}

}  // namespace khorus::runtime

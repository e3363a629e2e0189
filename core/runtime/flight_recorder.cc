// See flight_recorder.h.
#include "core/runtime/flight_recorder.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iterator>

#include "core/base/json.h"

namespace khorus::runtime {
namespace {

using base::json_quoted;

// The names under which torch's analyzer knows the operations.
std::string_view torch_name(OpKind kind) {
  switch (kind) {
    case OpKind::kAllreduce:
      return "all_reduce";
    case OpKind::kAllgather:
      return "all_gather";
    case OpKind::kAlltoall:
      return "all_to_all";
    case OpKind::kReducescatter:
      return "reduce_scatter";
    case OpKind::kJoin:
      return "barrier";
    case OpKind::kAddProcessSet:
    case OpKind::kRemoveProcessSet:
      return "split";
    default:
      return to_string(kind);
  }
}

std::string_view torch_name(DataType dtype) {
  switch (dtype) {
    case DataType::kUint8:
      return "Byte";
    case DataType::kInt8:
      return "Char";
    case DataType::kInt16:
      return "Short";
    case DataType::kInt32:
      return "Int";
    case DataType::kInt64:
      return "Long";
    case DataType::kFloat16:
      return "Half";
    case DataType::kBfloat16:
      return "BFloat16";
    case DataType::kFloat32:
      return "Float";
    case DataType::kFloat64:
      return "Double";
    case DataType::kBool:
      return "Bool";
  }
  return "";
}

std::string_view state_name(bool started, bool completed) {
  if (completed) return "completed";
  return started ? "started" : "scheduled";
}

bool has_data(OpKind kind) {
  return kind != OpKind::kBarrier && kind != OpKind::kJoin && kind != OpKind::kAddProcessSet &&
         kind != OpKind::kRemoveProcessSet;
}

std::string number_or_null(int64_t value) { return value == 0 ? "null" : std::to_string(value); }

int64_t wall_minus_steady() {
  const auto wall = std::chrono::system_clock::now().time_since_epoch();
  const auto steady = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(wall - steady).count();
}

}  // namespace

FlightRecorder::FlightRecorder(size_t entries)
    : capacity_(entries), slots_(entries > 0 ? std::make_unique<Slot[]>(entries) : nullptr) {}

void FlightRecorder::SlotShape::set(const Shape& shape) noexcept {
  dimensions = static_cast<uint8_t>(std::min(shape.size(), kDimensions));
  std::copy_n(shape.begin(), dimensions, extents.begin());
}

std::string FlightRecorder::SlotShape::to_json() const {
  std::string text = "[";
  for (size_t i = 0; i < dimensions; ++i) {
    text += (i > 0 ? "," : "") + std::to_string(extents.at(i));
  }
  return text + "]";
}

// ---- notes ----

uint64_t FlightRecorder::submitted(const wire::Request& request, const Shape& input,
                                   const Shape& output, int64_t now_ns) {
  if (!enabled()) return 0;
  const uint64_t record = next_.fetch_add(1, std::memory_order_relaxed);
  Slot& slot = slots_[record % capacity_];
  const std::lock_guard lock(slot.mutex);
  Entry& entry = slot.entry;
  if (entry.record > record) return 0;  // overtaken by a whole round
  entry = Entry();
  entry.record = record;
  entry.created_ns = now_ns;
  entry.process_set = request.process_set;
  entry.root_rank = request.root_rank;
  entry.peer = request.peer;
  entry.kind = request.kind;
  entry.dtype = request.dtype;
  entry.input.set(input);
  entry.output.set(output);
  entry.name_bytes = static_cast<uint8_t>(std::min(request.name.size(), kNameBytes));
  std::copy_n(request.name.begin(), entry.name_bytes, entry.name.begin());
  return record;
}

template <class Change>
void FlightRecorder::update(uint64_t record, Change&& change) {
  if (record == 0) return;
  Slot& slot = slots_[record % capacity_];
  const std::lock_guard lock(slot.mutex);
  if (slot.entry.record == record) change(slot.entry);
}

void FlightRecorder::agreed(uint64_t record, uint64_t position, uint64_t fused_id,
                            uint32_t fused_tensors, int64_t now_ns) {
  update(record, [&](Entry& entry) {
    entry.agreed_ns = now_ns;
    entry.position = position;
    entry.fused_id = fused_id;
    entry.fused_tensors = fused_tensors;
  });
}

void FlightRecorder::started(uint64_t record, int64_t now_ns) {
  update(record, [&](Entry& entry) {
    entry.state = State::kStarted;
    entry.started_ns = now_ns;
  });
}

void FlightRecorder::completed(uint64_t record, const Shape* output, int64_t now_ns) {
  update(record, [&](Entry& entry) {
    entry.state = State::kCompleted;
    entry.completed_ns = now_ns;
    entry.retired = true;
    if (output != nullptr) entry.output.set(*output);
  });
}

void FlightRecorder::failed(uint64_t record, StatusCode code) {
  update(record, [&](Entry& entry) {
    entry.code = code;
    entry.retired = true;
  });
}

void FlightRecorder::set_group(ProcessSetId id, const std::vector<int>& ranks) {
  const std::lock_guard lock(groups_mutex_);
  groups_[id] = ranks;
  if (groups_.size() > kGroups) groups_.erase(std::next(groups_.begin()));  // not the world
}

// ---- the dump ----

// Agreed operations in the order of the job, then the others in the order of submission.
std::vector<FlightRecorder::Entry> FlightRecorder::entries() const {
  std::vector<Entry> found;
  found.reserve(capacity_);
  for (size_t i = 0; i < capacity_; ++i) {
    const std::lock_guard lock(slots_[i].mutex);
    if (slots_[i].entry.record != 0) found.push_back(slots_[i].entry);
  }
  std::sort(found.begin(), found.end(), [](const Entry& a, const Entry& b) {
    if ((a.position == 0) != (b.position == 0)) return b.position == 0;
    return a.position != b.position ? a.position < b.position : a.record < b.record;
  });
  return found;
}

std::string FlightRecorder::groups_json() const {
  const std::lock_guard lock(groups_mutex_);
  std::string text = "{";
  for (const auto& [id, ranks] : groups_) {
    std::string members;
    for (const int rank : ranks) members += (members.empty() ? "" : ", ") + std::to_string(rank);
    const std::string name = std::to_string(id);
    text += (text.size() > 1 ? ",\"" : "\"") + name + R"(":{"name":")" + name + R"(","desc":")" +
            (id == kGlobalProcessSet ? "default_pg" : "process_set") + R"(","ranks":"[)" + members +
            "]\"}";
  }
  return text + "}";
}

std::string FlightRecorder::status_json(const std::vector<Entry>& entries) {
  struct Last {
    uint64_t enqueued = 0, started = 0, completed = 0;
  };
  std::map<ProcessSetId, Last> last;
  for (const Entry& entry : entries) {
    Last& of_set = last[entry.process_set];
    of_set.enqueued = std::max(of_set.enqueued, entry.position);
    if (entry.started_ns != 0) of_set.started = std::max(of_set.started, entry.position);
    if (entry.state == State::kCompleted) {
      of_set.completed = std::max(of_set.completed, entry.position);
    }
  }
  std::string text = "{";
  for (const auto& [id, of_set] : last) {
    text += (text.size() > 1 ? ",\"" : "\"") + std::to_string(id) +
            R"(":{"last_enqueued_collective":)" + std::to_string(of_set.enqueued) +
            R"(,"last_started_collective":)" + std::to_string(of_set.started) +
            R"(,"last_completed_collective":)" + std::to_string(of_set.completed) + "}";
  }
  return text + "}";
}

// "gloo:all_reduce"; of messages "gloo:send 0->1" and "gloo:recv 1<-0", with ranks in the set.
std::string FlightRecorder::profiling_name(const Entry& entry, const Header& header) const {
  if (entry.kind != OpKind::kSendRecv) {
    return header.backend + ":" + std::string(torch_name(entry.kind));
  }
  const auto in_set = [&](int rank) {
    const std::lock_guard lock(groups_mutex_);
    const auto group = groups_.find(entry.process_set);
    if (group == groups_.end()) return std::to_string(rank);
    const std::vector<int>& ranks = group->second;
    const auto found = std::find(ranks.begin(), ranks.end(), rank);
    return std::to_string(found == ranks.end() ? rank : found - ranks.begin());
  };
  const std::string sender = in_set(entry.root_rank), receiver = in_set(entry.peer);
  if (entry.root_rank == header.rank) return header.backend + ":send " + sender + "->" + receiver;
  return header.backend + ":recv " + receiver + "<-" + sender;
}

std::string FlightRecorder::entry_json(const Entry& entry, uint64_t place, const Header& header,
                                       int64_t wall_minus_steady_ns) const {
  const auto wall = [&](int64_t steady_ns) {
    return number_or_null(steady_ns == 0 ? 0 : steady_ns + wall_minus_steady_ns);
  };
  const std::string name(entry.name.data(), entry.name_bytes);
  const std::string dtypes = "[\"" + std::string(torch_name(entry.dtype)) + "\"]";
  const std::string set = std::to_string(entry.process_set);
  const auto sizes = [&](const SlotShape& shape) {
    return has_data(entry.kind) ? "[" + shape.to_json() + "]" : "[]";
  };
  char duration[32] = "null";
  if (entry.started_ns != 0 && entry.completed_ns != 0) {
    std::snprintf(duration, sizeof duration, "%.6f",
                  static_cast<double>(entry.completed_ns - entry.started_ns) * 1e-6);
  }
  std::string text = "{\"record_id\":" + std::to_string(place);
  text += ",\"pg_id\":" + set;
  text += ",\"process_group\":[\"" + set + "\",\"" +
          (entry.process_set == kGlobalProcessSet ? "default_pg" : "process_set") + "\"]";
  text += ",\"collective_seq_id\":" + std::to_string(entry.position);
  text += ",\"p2p_seq_id\":" + std::to_string(entry.kind == OpKind::kSendRecv ? entry.position : 0);
  text += ",\"op_id\":" + std::to_string(entry.record);
  text += ",\"profiling_name\":" + json_quoted(profiling_name(entry, header));
  text += ",\"time_created_ns\":" + wall(entry.created_ns);
  text += ",\"time_discovered_started_ns\":" + wall(entry.started_ns);
  text += ",\"time_discovered_completed_ns\":" + wall(entry.completed_ns);
  text += ",\"duration_ms\":" + std::string(duration);
  text += ",\"input_sizes\":" + sizes(entry.input);
  text += ",\"input_dtypes\":" + (has_data(entry.kind) ? dtypes : "[]");
  text += ",\"output_sizes\":" + sizes(entry.output);
  text += ",\"output_dtypes\":" + (has_data(entry.kind) ? dtypes : "[]");
  text += ",\"state\":\"" +
          std::string(state_name(entry.started_ns != 0, entry.state == State::kCompleted)) + "\"";
  text += std::string(",\"is_p2p\":") + (entry.kind == OpKind::kSendRecv ? "true" : "false");
  text += std::string(",\"retired\":") + (entry.retired ? "true" : "false");
  text += ",\"timeout_ms\":" + std::to_string(header.timeout_ms);
  text += ",\"khorus_name\":" + json_quoted(name);
  text += ",\"khorus_kind\":" + json_quoted(to_string(entry.kind));
  text += ",\"khorus_time_agreed_ns\":" + wall(entry.agreed_ns);
  text += ",\"khorus_fused_id\":" + std::to_string(entry.fused_id);
  text += ",\"khorus_fused_tensors\":" + std::to_string(entry.fused_tensors);
  text += ",\"khorus_error\":" + (entry.code == StatusCode::kOk
                                      ? std::string("null")
                                      : json_quoted(status_code_name(entry.code)));
  return text + "}";
}

std::string FlightRecorder::to_json(const Header& header) const {
  const std::vector<Entry> found = entries();
  const int64_t to_wall = wall_minus_steady();
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  const int64_t now_ns =
      std::chrono::duration_cast<std::chrono::nanoseconds>(now).count() + to_wall;
  std::string text = "{\"version\":\"2.10\",\"comm_lib_version\":" + json_quoted(header.backend);
  text += ",\"pg_config\":" + groups_json() + ",\"pg_status\":" + status_json(found);
  text += ",\"rank\":" + std::to_string(header.rank) + ",\"host_name\":" + json_quoted(header.host);
  text += ",\"khorus_size\":" + std::to_string(header.size);
  text += ",\"khorus_pid\":" + std::to_string(getpid());
  text += ",\"khorus_epoch\":" + std::to_string(header.epoch);
  text += ",\"khorus_time_ns\":" + std::to_string(now_ns);
  text += ",\"khorus_reason\":" + json_quoted(header.reason);
  text += ",\"entries\":[";
  // Agreed operations carry the number that they have on every rank; the others follow after it.
  uint64_t place = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    place = found[i].position != 0 ? found[i].position : place + 1;
    text += (i > 0 ? ",\n" : "\n") + entry_json(found[i], place, header, to_wall);
  }
  return text + "\n]}\n";
}

}  // namespace khorus::runtime

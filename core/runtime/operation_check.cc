// See operation_check.h.
#include "core/runtime/operation_check.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <unordered_set>
#include <utility>
#include <vector>

#include "core/wire/message.h"

namespace khorus::runtime {
namespace {

std::string label(const CheckedCall& call) {
  return std::string(to_string(call.kind)) + " \"" + call.name.substr(0, 128) + "\"";
}

Status invalid(const CheckedCall& call, const std::string& what) {
  return Status(StatusCode::kInvalidArgument, label(call) + ": " + what);
}

std::string list(const std::vector<int>& ranks) {
  std::string text = "[";
  for (const int rank : ranks) text += (text.size() > 1 ? "," : "") + std::to_string(rank);
  return text + "]";
}

bool contains(const std::vector<int>& ranks, int rank) {  // ascending
  return std::binary_search(ranks.begin(), ranks.end(), rank);
}

struct Range {
  uintptr_t first;
  uintptr_t last;  // exclusive
  bool overlaps(const Range& other) const { return first < other.last && other.first < last; }
};

Range range_of(const TensorView& view) {
  const auto first = reinterpret_cast<uintptr_t>(view.data);
  return {first, first + view.bytes()};
}

}  // namespace

Status check_call(const CheckedCall& call) {
  if (call.name.size() > wire::Limits::kMaxNameBytes) {
    return invalid(call, "the name has " + std::to_string(call.name.size()) + " bytes; at most " +
                             std::to_string(wire::Limits::kMaxNameBytes) +
                             " are possible, use a shorter one");
  }
  if (call.name.starts_with(kInternalPrefix)) {
    return invalid(call, std::string("names that begin with ") + kInternalPrefix +
                             " belong to Khorus; use another one");
  }
  if (call.ranks == nullptr) {
    return invalid(call, "process set " + std::to_string(call.process_set) +
                             " does not exist; the set of all ranks is " +
                             std::to_string(kGlobalProcessSet) +
                             ", add_process_set() makes others");
  }
  if (!contains(*call.ranks, call.rank)) {
    return invalid(call, "rank " + std::to_string(call.rank) + " is not in process set " +
                             std::to_string(call.process_set) + " " + list(*call.ranks));
  }
  return Status();
}

Status check_tensor(const CheckedCall& call, const char* role, const TensorView& view) {
  const auto dtype = static_cast<int>(view.dtype);
  if (dtype >= kDataTypeCount) {
    return invalid(call, std::string(role) + " has the unknown data type " + std::to_string(dtype));
  }
  if (view.shape.size() > wire::Limits::kMaxDimensions) {
    return invalid(call, std::string(role) + " has " + std::to_string(view.shape.size()) +
                             " dimensions; at most " +
                             std::to_string(wire::Limits::kMaxDimensions) +
                             " are possible, flatten it");
  }
  uint64_t bytes = element_size(view.dtype);
  bool empty = false;
  for (const int64_t extent : view.shape) {
    if (extent < 0) {
      return invalid(call, std::string(role) + " has the shape " + khorus::to_string(view.shape) +
                               ", with a negative extent; extents are 0 or more");
    }
    empty |= extent == 0;
  }
  for (const int64_t extent : view.shape) {
    const auto factor = static_cast<uint64_t>(extent);
    if (!empty && bytes > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()) / factor) {
      return invalid(call, std::string(role) + " has the shape " + khorus::to_string(view.shape) +
                               ", more bytes than memory can have");
    }
    bytes *= factor;
  }
  if (!empty && view.data == nullptr) {
    return invalid(call, std::string(role) + " has " + std::to_string(element_count(view.shape)) +
                             " elements and a null data pointer; give it its memory");
  }
  return Status();
}

Status check_device(const CheckedCall& call, const char* role, const TensorView& view,
                    DeviceChoice& choice) {
  if (view.device.kind == DeviceKind::kCpu) return Status();
  const Status admitted = choice.admit(view.device);
  if (admitted.ok()) return admitted;
  return invalid(call, std::string(role) + " is on " + khorus::to_string(view.device) + "; " +
                           admitted.message());
}

Status check_input_and_output(const CheckedCall& call, const TensorView& input,
                              const TensorView& output) {
  if (input.dtype != output.dtype) {
    return invalid(call, "input is " + std::string(to_string(input.dtype)) + " and output is " +
                             std::string(to_string(output.dtype)) + "; both must be of one type");
  }
  if (input.device.kind != output.device.kind) {  // the index: see check_device
    return invalid(call, "input is on " + khorus::to_string(input.device) + " and output is on " +
                             khorus::to_string(output.device) + "; both must be on one device");
  }
  if (input.shape != output.shape) {
    return invalid(call, "input has the shape " + khorus::to_string(input.shape) +
                             " and output has " + khorus::to_string(output.shape) +
                             "; both must be of one shape");
  }
  if (input.data != output.data && range_of(input).overlaps(range_of(output))) {
    return invalid(call,
                   "input and output overlap in memory without being the same; use one memory for "
                   "both (in place) or two that do not touch");
  }
  return Status();
}

Status check_reduction(const CheckedCall& call, DataType dtype, const AllreduceOptions& options) {
  if (static_cast<int>(options.op) >= kReduceOpCount) {
    return invalid(call, "unknown reduction " + std::to_string(static_cast<int>(options.op)));
  }
  if (dtype == DataType::kBool && options.op == ReduceOp::kAverage) {
    return invalid(call, "bool has no average; use sum or max (or), product or min (and)");
  }
  if (options.op == ReduceOp::kAdasum) {
    const size_t size = call.ranks->size();
    const bool is_float = dtype == DataType::kFloat16 || dtype == DataType::kBfloat16 ||
                          dtype == DataType::kFloat32 || dtype == DataType::kFloat64;
    if (call.kind != OpKind::kAllreduce) return invalid(call, "adasum is for allreduce alone");
    if (!is_float) {
      return invalid(call, "adasum works on floats, not on " + std::string(to_string(dtype)));
    }
    if ((size & (size - 1)) != 0) {
      return invalid(call, "adasum needs a power of two ranks, not " + std::to_string(size) +
                               "; use average, or a process set of 2, 4, 8, ... ranks");
    }
  }
  for (const double factor : {options.prescale, options.postscale}) {
    if (!std::isfinite(factor)) {
      return invalid(call, "a scale factor is " + std::to_string(factor) + "; it must be finite");
    }
  }
  return Status();
}

Status check_root(const CheckedCall& call, int root_rank) {
  if (contains(*call.ranks, root_rank)) return Status();
  if (call.process_set == kGlobalProcessSet) {
    return invalid(call, "root rank " + std::to_string(root_rank) +
                             " does not exist; ranks are 0 to " +
                             std::to_string(call.ranks->back()));
  }
  return invalid(call, "root rank " + std::to_string(root_rank) + " is not in process set " +
                           std::to_string(call.process_set) + " " + list(*call.ranks));
}

Status check_splits(const CheckedCall& call, const Shape& shape,
                    const std::vector<int64_t>& splits) {
  if (shape.empty()) return invalid(call, "a scalar has no rows to send; give it the shape [1]");
  const auto size = static_cast<int64_t>(call.ranks->size());
  if (splits.empty()) {
    if (shape.front() % size == 0) return Status();
    return invalid(call, "the first extent " + std::to_string(shape.front()) +
                             " cannot be divided by the " + std::to_string(size) +
                             " ranks; give splits");
  }
  if (static_cast<int64_t>(splits.size()) != size) {
    return invalid(call, "splits has " + std::to_string(splits.size()) + " numbers for " +
                             std::to_string(size) + " ranks; give one for each");
  }
  int64_t left = shape.front();
  for (const int64_t rows : splits) {
    if (rows < 0 || rows > left) {
      return invalid(call, "splits " + khorus::to_string(splits) +
                               " must be 0 or more and add up to the first extent " +
                               std::to_string(shape.front()));
    }
    left -= rows;
  }
  if (left == 0) return Status();
  return invalid(call, "splits " + khorus::to_string(splits) + " add up to " +
                           std::to_string(shape.front() - left) + ", not to the first extent " +
                           std::to_string(shape.front()));
}

Status check_peer(const CheckedCall& call, int peer, int tag) {
  if (tag < 0) {
    return invalid(call, "the tag " + std::to_string(tag) + " is negative; use 0 or more");
  }
  if (peer == call.rank) {
    return invalid(call, "rank " + std::to_string(peer) + " cannot send to itself");
  }
  if (contains(*call.ranks, peer)) return Status();
  return invalid(call, "the peer, rank " + std::to_string(peer) + ", is not in process set " +
                           std::to_string(call.process_set) + " " + list(*call.ranks) +
                           "; name one of its ranks (receiving from any is not possible)");
}

Status check_set_ranks(const std::vector<int>& ranks, int size) {
  const auto refuse = [&](const std::string& why) {
    return Status(StatusCode::kInvalidArgument, "add_process_set " + list(ranks) + ": " + why);
  };
  if (ranks.empty()) return refuse("a process set has at least one rank");
  for (size_t i = 0; i < ranks.size(); ++i) {
    if (ranks[i] < 0 || ranks[i] >= size) {
      return refuse("rank " + std::to_string(ranks[i]) + " does not exist; ranks are 0 to " +
                    std::to_string(size - 1));
    }
    if (i > 0 && ranks[i] <= ranks[i - 1]) return refuse("ranks must ascend, without doubles");
  }
  return Status();
}

Status check_members(OpKind kind, std::span<const NamedTensor> members, bool with_output) {
  std::unordered_set<std::string_view> names;
  std::vector<std::pair<Range, const NamedTensor*>> outputs;
  for (const NamedTensor& member : members) {
    if (!member.name.empty() && !names.insert(member.name).second) {
      return Status(StatusCode::kDuplicateName, "grouped " + std::string(to_string(kind)) +
                                                    ": two members are called \"" + member.name +
                                                    "\"; give every member its own name");
    }
    if (with_output && member.output.bytes() > 0) {
      outputs.emplace_back(range_of(member.output), &member);
    }
  }
  std::sort(outputs.begin(), outputs.end(),
            [](const auto& a, const auto& b) { return a.first.first < b.first.first; });
  for (size_t i = 1; i < outputs.size(); ++i) {
    if (!outputs[i - 1].first.overlaps(outputs[i].first)) continue;
    return Status(StatusCode::kInvalidArgument,
                  "grouped " + std::string(to_string(kind)) + ": the outputs of \"" +
                      outputs[i - 1].second->name + "\" and \"" + outputs[i].second->name +
                      "\" overlap in memory; give each its own");
  }
  return Status();
}

}  // namespace khorus::runtime

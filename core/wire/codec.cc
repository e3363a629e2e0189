// Codec; see codec.h, and FORMAT.md for the bytes. encode_X and decode_X stand beside each other,
// field for field.
#include "core/wire/codec.h"

#include <utility>

#include "core/base/assert.h"
#include "core/wire/byte_stream.h"
#include "khorus/version.h"

namespace khorus::wire {
namespace {

enum Flag : uint8_t {
  kLeaving = 1,
  kDrained = 2,
  kJoined = 4,
  kShutdown = 1,
  kGoodbye = 2,
};

template <class Enum>
Enum decode_enum(ByteReader& in, int count, std::string_view what) {
  return static_cast<Enum>(in.bounded(static_cast<uint64_t>(count - 1), what));
}

StatusCode decode_code(ByteReader& in) {
  return decode_enum<StatusCode>(in, static_cast<int>(StatusCode::kInternal) + 1, "status code");
}

int32_t decode_rank(ByteReader& in) {  // -1 or a rank, sent as rank + 1
  return static_cast<int32_t>(in.bounded(Limits::kMaxRanks, "rank")) - 1;
}
void encode_rank(ByteWriter& out, int32_t rank) { out.varint(static_cast<uint64_t>(rank + 1)); }

void encode_ranks(ByteWriter& out, const RankSet& ranks) {
  out.varint(ranks.intervals().size());
  int32_t previous = 0;
  for (const RankSet::Interval& i : ranks.intervals()) {
    out.varint(static_cast<uint64_t>(i.first - previous));
    out.varint(static_cast<uint64_t>(i.last - i.first));
    previous = i.last;
  }
}
RankSet decode_ranks(ByteReader& in) {
  const size_t count = in.count(Limits::kMaxItems, 2, "rank intervals");
  std::vector<RankSet::Interval> intervals;
  intervals.reserve(count);
  uint64_t previous = 0;
  for (size_t i = 0; i < count && in.ok(); ++i) {
    const uint64_t first = previous + in.bounded(Limits::kMaxRanks, "rank");
    const uint64_t last = first + in.bounded(Limits::kMaxRanks, "rank");
    if (last >= static_cast<uint64_t>(Limits::kMaxRanks)) in.fail("rank over the limit");
    intervals.push_back({static_cast<int32_t>(first), static_cast<int32_t>(last)});
    previous = last;
  }
  RankSet ranks;
  if (in.ok() && !RankSet::from_intervals(std::move(intervals), &ranks)) {
    in.fail("rank intervals are not in order");
  }
  return ranks;
}

void encode_request(ByteWriter& out, const Request& request) {
  out.u8(static_cast<uint8_t>(request.kind));
  out.u8(static_cast<uint8_t>(request.dtype));
  out.u8(static_cast<uint8_t>(request.op));
  out.u8(static_cast<uint8_t>(request.device));
  out.varint(static_cast<uint64_t>(request.process_set));
  encode_rank(out, request.root_rank);
  out.f64(request.prescale);
  out.f64(request.postscale);
  out.text(request.name);
  out.varint(request.shape.size());
  for (int64_t extent : request.shape) out.varint(static_cast<uint64_t>(extent));
  out.text(request.group);
  if (!request.group.empty()) out.varint(request.group_size);
  if (request.kind == OpKind::kSendRecv) encode_rank(out, request.peer);
  if (request.kind == OpKind::kAddProcessSet) encode_ranks(out, request.members);
}
Request decode_request(ByteReader& in) {
  Request request;
  request.kind = decode_enum<OpKind>(in, kOpKindCount, "operation");
  request.dtype = decode_enum<DataType>(in, kDataTypeCount, "dtype");
  request.op = decode_enum<ReduceOp>(in, kReduceOpCount, "reduction");
  request.device = decode_enum<DeviceKind>(in, 2, "device");
  request.process_set = static_cast<ProcessSetId>(in.bounded(INT32_MAX, "process set"));
  request.root_rank = decode_rank(in);
  request.prescale = in.f64();
  request.postscale = in.f64();
  request.name = in.text(Limits::kMaxNameBytes, "name");
  const size_t dimensions = in.count(Limits::kMaxDimensions, 1, "dimensions");
  for (size_t i = 0; i < dimensions; ++i) {
    request.shape.push_back(static_cast<int64_t>(in.bounded(INT64_MAX, "extent")));
  }
  request.group = in.text(Limits::kMaxNameBytes, "group");
  if (!request.group.empty()) {
    request.group_size = static_cast<uint32_t>(in.bounded(Limits::kMaxItems, "group size"));
  }
  if (request.kind == OpKind::kSendRecv) request.peer = decode_rank(in);
  if (request.kind == OpKind::kAddProcessSet) request.members = decode_ranks(in);
  return request;
}

void encode_extents(ByteWriter& out, const std::vector<int64_t>& extents) {
  out.varint(extents.size());
  for (int64_t extent : extents) out.varint(static_cast<uint64_t>(extent));
}
std::vector<int64_t> decode_extents(ByteReader& in) {
  const size_t count = in.count(Limits::kMaxItems, 1, "extents");
  std::vector<int64_t> extents;
  extents.reserve(count);
  for (size_t i = 0; i < count && in.ok(); ++i) {
    extents.push_back(static_cast<int64_t>(in.bounded(INT64_MAX, "extent")));
  }
  return extents;
}

void encode_payloads(ByteWriter& out, const std::vector<Bytes>& payloads) {
  out.varint(payloads.size());
  for (const Bytes& payload : payloads) out.raw(payload);
}
std::vector<Bytes> decode_payloads(ByteReader& in) {
  const size_t count = in.count(Limits::kMaxItems, 1, "payloads");
  std::vector<Bytes> payloads;
  for (size_t i = 0; i < count && in.ok(); ++i) {
    const auto bytes = in.raw(Limits::kMaxPayloadBytes, "payload");
    payloads.emplace_back(bytes.begin(), bytes.end());
  }
  return payloads;
}

// Ids come mostly in a row: differences are one byte each.
void encode_ids(ByteWriter& out, const std::vector<uint64_t>& ids) {
  out.varint(ids.size());
  uint64_t previous = 0;
  for (uint64_t id : ids) {
    out.zigzag(static_cast<int64_t>(id - previous));
    previous = id;
  }
}
std::vector<uint64_t> decode_ids(ByteReader& in) {
  const size_t count = in.count(Limits::kMaxItems, 1, "cache ids");
  std::vector<uint64_t> ids;
  ids.reserve(count);
  uint64_t previous = 0;
  for (size_t i = 0; i < count && in.ok(); ++i) {
    previous += static_cast<uint64_t>(in.zigzag());
    ids.push_back(previous);
  }
  return ids;
}

void encode_body(ByteWriter& out, const Report& report) {
  const bool leaving = !report.leaving_reason.empty();
  out.u8(static_cast<uint8_t>((leaving ? kLeaving : 0) | (report.drained ? kDrained : 0) |
                              (report.joined.empty() ? 0 : kJoined)));
  out.varint(report.applied_sequence);
  encode_ids(out, report.cached_all);
  out.varint(report.cached_some.size());
  for (const CachedContribution& c : report.cached_some) {
    out.varint(c.cache_id);
    encode_ranks(out, c.ranks);
  }
  out.varint(report.contributions.size());
  for (const Contribution& c : report.contributions) {
    encode_request(out, c.request);
    encode_ranks(out, c.ranks);
    encode_extents(out, c.extents);
    encode_payloads(out, c.payloads);
  }
  if (!report.joined.empty()) encode_ranks(out, report.joined);
  if (leaving) {
    encode_rank(out, report.leaving_rank);
    out.text(report.leaving_reason);
  }
}
Report decode_report(ByteReader& in) {
  Report report;
  const auto flags =
      static_cast<uint8_t>(in.bounded(kLeaving | kDrained | kJoined, "report flags"));
  report.drained = (flags & kDrained) != 0;
  report.applied_sequence = in.varint();
  report.cached_all = decode_ids(in);
  const size_t some = in.count(Limits::kMaxItems, 2, "cached contributions");
  for (size_t i = 0; i < some && in.ok(); ++i) {
    CachedContribution c;
    c.cache_id = in.varint();
    c.ranks = decode_ranks(in);
    report.cached_some.push_back(std::move(c));
  }
  const size_t contributions = in.count(Limits::kMaxItems, 26, "contributions");
  for (size_t i = 0; i < contributions && in.ok(); ++i) {
    Contribution c;
    c.request = decode_request(in);
    c.ranks = decode_ranks(in);
    c.extents = decode_extents(in);
    c.payloads = decode_payloads(in);
    report.contributions.push_back(std::move(c));
  }
  if ((flags & kJoined) != 0) {
    report.joined = decode_ranks(in);
    if (report.joined.empty()) in.fail("no ranks that have joined");
  }
  if ((flags & kLeaving) != 0) {
    report.leaving_rank = decode_rank(in);
    report.leaving_reason = in.text(Limits::kMaxTextBytes, "reason");
    if (report.leaving_reason.empty()) in.fail("a leaving rank without a reason");
  }
  return report;
}

void encode_response(ByteWriter& out, const Response& response) {
  out.u8(static_cast<uint8_t>(response.code));
  out.varint(static_cast<uint64_t>(response.process_set));
  if (response.code != StatusCode::kOk) {
    out.text(response.error);
    out.varint(response.failed_groups.size());
    for (const std::string& group : response.failed_groups) out.text(group);
  }
  encode_ids(out, response.cache_ids);
  if (!response.cache_ids.empty()) return;  // the receiver's cache has the tensors
  out.varint(response.tensors.size());
  for (const ResponseTensor& tensor : response.tensors) {
    encode_request(out, tensor.request);
    encode_extents(out, tensor.extents);
    encode_payloads(out, tensor.payloads);
  }
}
Response decode_response(ByteReader& in) {
  Response response;
  response.code = decode_code(in);
  response.process_set = static_cast<ProcessSetId>(in.bounded(INT32_MAX, "process set"));
  if (response.code != StatusCode::kOk) {
    response.error = in.text(Limits::kMaxTextBytes, "error");
    const size_t groups = in.count(Limits::kMaxItems, 1, "failed groups");
    for (size_t i = 0; i < groups && in.ok(); ++i) {
      response.failed_groups.push_back(in.text(Limits::kMaxNameBytes, "group"));
    }
  }
  response.cache_ids = decode_ids(in);
  if (!response.cache_ids.empty()) return response;
  const size_t tensors = in.count(Limits::kMaxItems, 25, "tensors");
  for (size_t i = 0; i < tensors && in.ok(); ++i) {
    ResponseTensor tensor;
    tensor.request = decode_request(in);
    tensor.extents = decode_extents(in);
    tensor.payloads = decode_payloads(in);
    response.tensors.push_back(std::move(tensor));
  }
  return response;
}

void encode_body(ByteWriter& out, const Decision& decision) {
  out.u8(static_cast<uint8_t>((decision.shutdown ? kShutdown : 0) |
                              (decision.goodbye ? kGoodbye : 0)));
  out.varint(decision.sequence);
  out.varint(decision.responses.size());
  for (const Response& response : decision.responses) encode_response(out, response);
  if (decision.shutdown) out.text(decision.shutdown_reason);
}
Decision decode_decision(ByteReader& in) {
  Decision decision;
  const auto flags = static_cast<uint8_t>(in.bounded(kShutdown | kGoodbye, "decision flags"));
  decision.shutdown = (flags & kShutdown) != 0;
  decision.goodbye = (flags & kGoodbye) != 0;
  decision.sequence = in.varint();
  const size_t responses = in.count(Limits::kMaxItems, 4, "responses");
  for (size_t i = 0; i < responses && in.ok(); ++i) {
    decision.responses.push_back(decode_response(in));
  }
  if (decision.shutdown) decision.shutdown_reason = in.text(Limits::kMaxTextBytes, "reason");
  return decision;
}

void encode_body(ByteWriter& out, const Fault& fault) {
  out.u8(static_cast<uint8_t>(fault.code));
  encode_rank(out, fault.rank);
  out.text(fault.reason);
}
Fault decode_fault(ByteReader& in) {
  Fault fault;
  fault.code = decode_code(in);
  if (fault.code == StatusCode::kOk) in.fail("a fault that is ok");
  fault.rank = decode_rank(in);
  fault.reason = in.text(Limits::kMaxTextBytes, "reason");
  return fault;
}

void encode_body(ByteWriter& out, const StallQuery& query) {
  out.varint(query.number);
  encode_ranks(out, query.ranks);
}
StallQuery decode_stall_query(ByteReader& in) {
  StallQuery query;
  query.number = in.varint();
  query.ranks = decode_ranks(in);
  return query;
}

void encode_body(ByteWriter& out, const StallAnswer& answer) {
  out.varint(answer.number);
  encode_rank(out, answer.rank);
  out.text(answer.last_submitted);
  out.zigzag(answer.last_submitted_ago_ms);
  out.varint(answer.submitted);
  out.varint(answer.waiting);
}
StallAnswer decode_stall_answer(ByteReader& in) {
  StallAnswer answer;
  answer.number = in.varint();
  answer.rank = decode_rank(in);
  answer.last_submitted = in.text(2 * Limits::kMaxNameBytes, "name");
  answer.last_submitted_ago_ms = in.zigzag();
  answer.submitted = in.varint();
  answer.waiting = in.varint();
  return answer;
}

void encode_body(ByteWriter& out, const StallReport& report) { out.text(report.text); }
StallReport decode_stall_report(ByteReader& in) {
  return StallReport{in.text(Limits::kMaxTextBytes, "report")};
}

Message decode_body(ByteReader& in, uint8_t type) {
  switch (type) {
    case 0:
      return decode_report(in);
    case 1:
      return decode_decision(in);
    case 2:
      return decode_fault(in);
    case 3:
      return decode_stall_query(in);
    case 4:
      return decode_stall_answer(in);
    case 5:
      return decode_stall_report(in);
    default:
      in.fail("unknown message type " + std::to_string(type));
      return Report{};
  }
}

}  // namespace

Bytes encode(const Frame& frame) {
  ByteWriter out;
  out.u8(static_cast<uint8_t>(kWireVersion));
  out.u8(static_cast<uint8_t>(frame.message.index()));
  out.varint(frame.epoch);
  std::visit([&out](const auto& message) { encode_body(out, message); }, frame.message);
  Bytes bytes = std::move(out).take();
  KHORUS_ASSERT(bytes.size() <= Limits::kMaxFrameBytes, "a frame is larger than its limit");
  return bytes;
}

Result<Frame> decode(std::span<const std::byte> bytes) {
  if (bytes.size() > Limits::kMaxFrameBytes) {
    return Status(StatusCode::kInvalidArgument,
                  "malformed control frame: " + std::to_string(bytes.size()) + " bytes");
  }
  ByteReader in(bytes);
  const uint8_t version = in.u8();
  if (in.ok() && version != kWireVersion) {
    in.fail("wire version " + std::to_string(version) + " instead of " +
            std::to_string(kWireVersion));
  }
  const uint8_t type = in.u8();
  Frame frame;
  frame.epoch = in.varint();
  if (in.ok()) frame.message = decode_body(in, type);
  if (in.ok() && in.left() != 0) in.fail("trailing bytes");
  if (!in.ok()) {
    return Status(StatusCode::kInvalidArgument, "malformed control frame: " + in.error());
  }
  return frame;
}

}  // namespace khorus::wire

// TensorKey: what an operation is matched by across ranks: its process set and its name; of a
// send/recv also the two ranks, so that every rank that has to submit it knows it by the same key.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "core/wire/message.h"
#include "khorus/types.h"

namespace khorus::protocol {

struct TensorKey {
  ProcessSetId process_set = kGlobalProcessSet;
  std::string name;
  int32_t lower = -1;  // of a send/recv the two ranks, whoever sends; else -1
  int32_t upper = -1;
  bool operator==(const TensorKey&) const = default;
};

inline TensorKey key_of(const wire::Request& request) {
  TensorKey key{request.process_set, request.name};
  if (request.kind != OpKind::kSendRecv) return key;
  key.lower = std::min(request.root_rank, request.peer);
  key.upper = std::max(request.root_rank, request.peer);
  return key;
}

// A rank has at most one join under way.
inline constexpr const char* kJoinName = "khorus.internal/join";

struct TensorKeyHash {
  size_t operator()(const TensorKey& key) const noexcept {
    const auto part = [](int32_t value) { return static_cast<size_t>(value + 1); };
    return std::hash<std::string>()(key.name) ^
           (static_cast<size_t>(key.process_set) * 0x9E3779B97F4A7C15U) ^
           ((part(key.lower) << 32 | part(key.upper)) * 0xC2B2AE3D27D4EB4FU);
  }
};

// A digest of what is asked for, but for names: equal requests have equal signatures.
inline uint64_t signature_of(const wire::Request& request) {
  uint64_t digest = 14695981039346656037U;
  const auto mix = [&digest](uint64_t value) { digest = (digest ^ value) * 1099511628211U; };
  mix(static_cast<uint64_t>(request.kind) << 24 | static_cast<uint64_t>(request.dtype) << 16 |
      static_cast<uint64_t>(request.op) << 8 | static_cast<uint64_t>(request.device));
  mix(static_cast<uint64_t>(request.root_rank));
  mix(static_cast<uint64_t>(request.peer));
  mix(std::bit_cast<uint64_t>(request.prescale));
  mix(std::bit_cast<uint64_t>(request.postscale));
  for (int64_t extent : request.shape) mix(static_cast<uint64_t>(extent));
  for (const wire::RankSet::Interval& i : request.members.intervals()) {
    mix(static_cast<uint64_t>(i.first) << 32 | static_cast<uint64_t>(i.last));
  }
  return digest;
}

// Whether backends run it; else it is over with the decision.
inline bool runs_on_data_plane(OpKind kind) noexcept {
  switch (kind) {
    case OpKind::kAllreduce:
    case OpKind::kAllgather:
    case OpKind::kBroadcast:
    case OpKind::kAlltoall:
    case OpKind::kReducescatter:
    case OpKind::kSendRecv:
      return true;
    default:
      return false;
  }
}

// What all tensors of an operation have in common.
inline bool is_on_device(const wire::Response& response) noexcept {
  if (response.tensors.empty()) return false;
  const wire::Request& request = response.tensors.front().request;
  return request.device != DeviceKind::kCpu && runs_on_data_plane(request.kind);
}

// `allreduce "layers.0.weight"`: how messages name an operation.
inline std::string describe(OpKind kind, const std::string& name) {
  if (kind == OpKind::kJoin) return "join";  // its name is no user's
  return std::string(to_string(kind)) + " \"" + name + "\"";
}
inline std::string describe(const wire::Request& request) {
  return describe(request.kind, request.name);
}

}  // namespace khorus::protocol

// TensorKey: what an operation is matched by across ranks: its process set and its name.
#pragma once

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
  bool operator==(const TensorKey&) const = default;
};

inline TensorKey key_of(const wire::Request& request) {
  return {request.process_set, request.name};
}

// A rank has at most one join under way.
inline constexpr const char* kJoinName = "khorus.internal/join";

struct TensorKeyHash {
  size_t operator()(const TensorKey& key) const noexcept {
    return std::hash<std::string>()(key.name) ^
           (static_cast<size_t>(key.process_set) * 0x9E3779B97F4A7C15U);
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

// `allreduce "layers.0.weight"`: how messages name an operation.
inline std::string describe(OpKind kind, const std::string& name) {
  return std::string(to_string(kind)) + " \"" + name + "\"";
}
inline std::string describe(const wire::Request& request) {
  return describe(request.kind, request.name);
}

}  // namespace khorus::protocol

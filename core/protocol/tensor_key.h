// TensorKey: what an operation is matched by across ranks: its process set and its name.
#pragma once

#include <cstddef>
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

struct TensorKeyHash {
  size_t operator()(const TensorKey& key) const noexcept {
    return std::hash<std::string>()(key.name) ^
           (static_cast<size_t>(key.process_set) * 0x9E3779B97F4A7C15U);
  }
};

// `allreduce "layers.0.weight"`: how messages name an operation.
inline std::string describe(OpKind kind, const std::string& name) {
  return std::string(to_string(kind)) + " \"" + name + "\"";
}
inline std::string describe(const wire::Request& request) {
  return describe(request.kind, request.name);
}

}  // namespace khorus::protocol

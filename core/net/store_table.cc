// See store_table.h.
#include "core/net/store_table.h"

#include <algorithm>

namespace khorus::net {

Status StoreTable::set(const std::string& key, std::span<const std::byte> value) {
  if (const auto found = values_.find(key); found != values_.end()) {
    if (std::ranges::equal(found->second, value)) return {};
    return Status(StatusCode::kPermissionDenied,
                  "store key \"" + key +
                      "\" is set already, to another value: two processes claim "
                      "the same place, or an entry is forged");
  }
  if (key.size() > limits_.max_key_bytes || value.size() > limits_.max_value_bytes) {
    return Status(StatusCode::kInvalidArgument,
                  "a store entry has a key of " + std::to_string(key.size()) + " and a value of " +
                      std::to_string(value.size()) + " bytes; the bounds are " +
                      std::to_string(limits_.max_key_bytes) + " and " +
                      std::to_string(limits_.max_value_bytes));
  }
  const size_t bytes = key.size() + value.size();
  if (values_.size() >= limits_.max_keys || total_bytes_ + bytes > limits_.max_total_bytes) {
    return Status(StatusCode::kUnavailable, "the store is full: " + std::to_string(values_.size()) +
                                                " keys, " + std::to_string(total_bytes_) +
                                                " bytes");
  }
  values_.emplace(key, std::vector<std::byte>(value.begin(), value.end()));
  total_bytes_ += bytes;
  return {};
}

const std::vector<std::byte>* StoreTable::find(const std::string& key) const {
  const auto found = values_.find(key);
  return found == values_.end() ? nullptr : &found->second;
}

Status store_timeout(const std::string& key, std::chrono::milliseconds waited) {
  return Status(StatusCode::kTimeout, "nobody set \"" + key + "\" in the store within " +
                                          std::to_string(waited.count()) + " ms");
}

}  // namespace khorus::net

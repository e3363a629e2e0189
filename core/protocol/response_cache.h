// ResponseCache: tensors that were agreed before, so that agreeing again costs one number.
//
// The same on every rank: it changes only when a decision is applied, and decisions are identical
// everywhere. Ids are never used twice, so an id says the same whenever it arrives; what was
// evicted lately stays readable by id until every child has applied the decision that evicted it
// (a child may have used the id before it knew).
//
// Pure; one thread at a time.
#pragma once

#include <cstdint>
#include <deque>
#include <list>
#include <unordered_map>

#include "core/protocol/tensor_key.h"
#include "core/wire/message.h"

namespace khorus::protocol {

class ResponseCache {
 public:
  struct Entry {
    uint64_t id = 0;
    wire::ResponseTensor tensor;
  };

  explicit ResponseCache(size_t capacity) : capacity_(capacity) {}

  // The entry of this name, or null.
  const Entry* find(const TensorKey& key) const;
  // The entry of this id, also if it was evicted lately; null if it never was or is long gone.
  const Entry* find(uint64_t id) const;
  // Null for an evicted one.
  const Entry* find_live(uint64_t id) const;

  // Applying decision `sequence`: a tensor was agreed in full. Replaces an entry of the same name.
  void put(const wire::ResponseTensor& tensor, uint64_t sequence);
  // Applying a decision: an entry was used. Makes it the last to be evicted.
  void touch(uint64_t id);
  // Every child has applied decision `sequence`: forget what was evicted until then.
  void forget_evicted(uint64_t sequence);

  size_t size() const noexcept { return entries_.size(); }
  // Equal for caches with the same entries, ids and order of eviction.
  uint64_t digest() const;

  // Whether operations of this kind are cached at all.
  static bool cacheable(OpKind kind) noexcept { return runs_on_data_plane(kind); }

 private:
  using Order = std::list<Entry>;  // front: the next to be evicted
  void evict(Order::iterator entry, uint64_t sequence);

  struct Evicted {
    uint64_t sequence = 0;
    Entry entry;
  };

  size_t capacity_;
  uint64_t next_id_ = 1;
  Order order_;
  std::unordered_map<uint64_t, Order::iterator> entries_;
  std::unordered_map<TensorKey, Order::iterator, TensorKeyHash> by_key_;
  std::deque<Evicted> evicted_;  // by sequence
};

}  // namespace khorus::protocol

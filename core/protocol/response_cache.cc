// See response_cache.h.
#include "core/protocol/response_cache.h"

#include "core/base/assert.h"

namespace khorus::protocol {

const ResponseCache::Entry* ResponseCache::find(const TensorKey& key) const {
  const auto it = by_key_.find(key);
  return it == by_key_.end() ? nullptr : &*it->second;
}

const ResponseCache::Entry* ResponseCache::find_live(uint64_t id) const {
  const auto it = entries_.find(id);
  return it == entries_.end() ? nullptr : &*it->second;
}

const ResponseCache::Entry* ResponseCache::find(uint64_t id) const {
  if (const Entry* live = find_live(id)) return live;
  for (const Evicted& evicted : evicted_) {
    if (evicted.entry.id == id) return &evicted.entry;
  }
  return nullptr;
}

void ResponseCache::put(const wire::ResponseTensor& tensor, uint64_t sequence) {
  if (capacity_ == 0 || !cacheable(tensor.request.kind)) return;
  TensorKey key = key_of(tensor.request);
  if (const auto old = by_key_.find(key); old != by_key_.end()) evict(old->second, sequence);
  while (entries_.size() >= capacity_) evict(order_.begin(), sequence);
  order_.push_back(Entry{next_id_++, tensor});
  const auto entry = std::prev(order_.end());
  entries_.emplace(entry->id, entry);
  by_key_.emplace(std::move(key), entry);
}

void ResponseCache::touch(uint64_t id) {
  const auto it = entries_.find(id);
  if (it != entries_.end()) order_.splice(order_.end(), order_, it->second);
}

void ResponseCache::evict(Order::iterator entry, uint64_t sequence) {
  by_key_.erase(key_of(entry->tensor.request));
  entries_.erase(entry->id);
  evicted_.push_back({sequence, std::move(*entry)});
  order_.erase(entry);
}

void ResponseCache::forget_evicted(uint64_t sequence) {
  while (!evicted_.empty() && evicted_.front().sequence <= sequence) evicted_.pop_front();
}

uint64_t ResponseCache::digest() const {
  uint64_t digest = next_id_;
  for (const Entry& entry : order_) {
    digest = digest * 1099511628211U + entry.id;
    digest = digest * 1099511628211U + TensorKeyHash()(key_of(entry.tensor.request));
  }
  return digest;
}

}  // namespace khorus::protocol

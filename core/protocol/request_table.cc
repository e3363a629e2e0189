// See request_table.h.
#include "core/protocol/request_table.h"

namespace khorus::protocol {
namespace {

void merge(Variant& variant, wire::Contribution&& contribution) {
  size_t index = 0;
  if (!contribution.extents.empty() || !contribution.payloads.empty()) {
    for (int32_t rank : contribution.ranks.to_vector()) {
      if (index < contribution.extents.size()) variant.extents[rank] = contribution.extents[index];
      if (index < contribution.payloads.size()) {
        variant.payloads[rank] = std::move(contribution.payloads[index]);
      }
      ++index;
    }
  }
  variant.ranks.add_all(contribution.ranks);
}

}  // namespace

TableEntry* RequestTable::add(wire::Contribution contribution, const wire::RankSet& needed,
                              TimeUs now) {
  if (contribution.ranks.empty() || !needed.contains_all(contribution.ranks)) return nullptr;
  auto [it, is_new] = entries_.try_emplace(key_of(contribution.request));
  TableEntry& entry = it->second;
  if (is_new) {
    entry.key = it->first;
    entry.needed = needed;
    entry.order = next_order_++;
    entry.first_seen = now;
  } else if (entry.ranks.intersects(contribution.ranks)) {
    return nullptr;
  }
  entry.ranks.add_all(contribution.ranks);
  for (Variant& variant : entry.variants) {
    if (variant.request == contribution.request) {
      merge(variant, std::move(contribution));
      return &entry;
    }
  }
  Variant variant;
  variant.request = std::move(contribution.request);
  merge(variant, std::move(contribution));
  entry.variants.push_back(std::move(variant));
  return &entry;
}

TableEntry* RequestTable::find(const TensorKey& key) {
  const auto it = entries_.find(key);
  return it == entries_.end() ? nullptr : &it->second;
}

void RequestTable::erase(const TensorKey& key) {
  // The key may live inside the entry: look up first, erase by iterator.
  const auto it = entries_.find(key);
  if (it != entries_.end()) entries_.erase(it);
}

void RequestTable::erase_group(ProcessSetId process_set, const std::string& group) {
  for (auto it = entries_.begin(); it != entries_.end();) {
    TableEntry& entry = it->second;
    std::erase_if(entry.variants, [&](const Variant& variant) {
      if (entry.key.process_set != process_set || variant.request.group != group) return false;
      entry.ranks.remove_all(variant.ranks);
      entry.passed_on.remove_all(variant.ranks);
      return true;
    });
    it = entry.variants.empty() ? entries_.erase(it) : std::next(it);
  }
}

void RequestTable::erase_process_set(ProcessSetId process_set) {
  std::erase_if(entries_,
                [process_set](const auto& item) { return item.first.process_set == process_set; });
}

void RequestTable::for_each(const std::function<void(TableEntry&)>& visit) {
  for (auto& [key, entry] : entries_) visit(entry);
}

void RequestTable::for_each(const std::function<void(const TableEntry&)>& visit) const {
  for (const auto& [key, entry] : entries_) visit(entry);
}

wire::Contribution contribution_of(const Variant& variant, const wire::RankSet& ranks) {
  wire::Contribution contribution;
  contribution.request = variant.request;
  for (int32_t rank : variant.ranks.to_vector()) {
    if (!ranks.contains(rank)) continue;
    contribution.ranks.add(rank);
    if (const auto it = variant.extents.find(rank); it != variant.extents.end()) {
      contribution.extents.push_back(it->second);
    }
    if (const auto it = variant.payloads.find(rank); it != variant.payloads.end()) {
      contribution.payloads.push_back(it->second);
    }
  }
  return contribution;
}

}  // namespace khorus::protocol

// See cache_encoding.h.
#include "core/protocol/cache_encoding.h"

#include <algorithm>

namespace khorus::protocol {
namespace {

// Position of a rank among the members of its set: how ResponseTensor::extents is indexed.
size_t position_in(const wire::RankSet& members, int32_t rank) {
  size_t position = 0;
  for (const wire::RankSet::Interval& i : members.intervals()) {
    if (rank <= i.last) return position + static_cast<size_t>(rank - i.first);
    position += static_cast<size_t>(i.last - i.first) + 1;
  }
  return position;
}

// The id that says the same as these ranks of the variant, or 0.
uint64_t id_for(const Variant& variant, const wire::RankSet& ranks, const ResponseCache& cache,
                const ProcessSets& sets) {
  const ResponseCache::Entry* entry = cache.find(key_of(variant.request));
  if (entry == nullptr || !(entry->tensor.request == variant.request)) return 0;
  if (variant.extents.empty()) return entry->id;
  const wire::RankSet& members = *sets.find(variant.request.process_set);
  for (const auto& [rank, extent] : variant.extents) {
    if (ranks.contains(rank) && entry->tensor.extents[position_in(members, rank)] != extent) {
      return 0;
    }
  }
  return entry->id;
}

wire::Contribution from_cache(const ResponseCache::Entry& entry, wire::RankSet ranks,
                              const wire::RankSet& members) {
  wire::Contribution contribution;
  contribution.request = entry.tensor.request;
  if (entry.tensor.request.kind == OpKind::kAllgather) {
    for (int32_t rank : ranks.to_vector()) {
      contribution.extents.push_back(entry.tensor.extents[position_in(members, rank)]);
    }
  }
  contribution.ranks = std::move(ranks);
  return contribution;
}

// What differs by rank must be there once per rank, and only where it belongs.
bool well_formed(const wire::Contribution& contribution, const ProcessSets& sets) {
  const auto ranks = static_cast<size_t>(contribution.ranks.count());
  const OpKind kind = contribution.request.kind;
  return contribution.extents.size() == (kind == OpKind::kAllgather ? ranks : 0) &&
         contribution.payloads.size() == (kind == OpKind::kExchange ? ranks : 0) &&
         ((kind != OpKind::kAllgather && kind != OpKind::kAlltoall) ||
          !contribution.request.shape.empty()) &&
         sets.can_be_changed_by(contribution.request) && kind != OpKind::kJoin;
}

wire::RankSet intersection(const wire::RankSet& a, const wire::RankSet& b) {
  return a.minus(a.minus(b));
}

}  // namespace

void append_to_report(const TableEntry& entry, const wire::RankSet& ranks,
                      const wire::RankSet& full, const ResponseCache& cache,
                      const ProcessSets& sets, wire::Report* report) {
  for (const Variant& variant : entry.variants) {
    const wire::RankSet part = intersection(variant.ranks, ranks);
    if (part.empty()) continue;
    const uint64_t id = id_for(variant, part, cache, sets);
    if (id == 0) {
      report->contributions.push_back(contribution_of(variant, part));
    } else if (part == full) {
      report->cached_all.push_back(id);
    } else {
      report->cached_some.push_back({id, part});
    }
  }
}

std::vector<wire::Contribution> expand_report(const wire::Report& report,
                                              const wire::RankSet& subtree,
                                              const ResponseCache& cache, const ProcessSets& sets,
                                              std::string* error) {
  std::vector<wire::Contribution> contributions;
  const auto add = [&](wire::Contribution contribution) {
    // A set may have been removed without the sender's knowledge.
    if (sets.was_removed(contribution.request.process_set)) return;
    const wire::RankSet needed = sets.needed(contribution.request);
    if (sets.find(contribution.request.process_set) == nullptr) {
      *error = "an unknown process set " + std::to_string(contribution.request.process_set);
    } else if (!well_formed(contribution, sets)) {
      *error = "a malformed " + describe(contribution.request);
    } else if (contribution.ranks.empty() || !subtree.contains_all(contribution.ranks) ||
               !needed.contains_all(contribution.ranks)) {
      *error = describe(contribution.request) + " for ranks " + contribution.ranks.to_string() +
               ", which it cannot speak for";
    } else {
      contributions.push_back(std::move(contribution));
    }
  };
  const auto add_cached = [&](uint64_t id, const wire::RankSet* ranks) {
    const ResponseCache::Entry* entry = cache.find(id);
    if (entry == nullptr) {
      *error = "an unknown cache id " + std::to_string(id);
      return;
    }
    if (sets.was_removed(entry->tensor.request.process_set)) return;
    const wire::RankSet needed = sets.needed(entry->tensor.request);
    const wire::RankSet some = ranks != nullptr ? *ranks : intersection(needed, subtree);
    if (!needed.contains_all(some)) {
      *error = "a cache id for ranks " + some.to_string() + ", which do not take part in it";
      return;
    }
    add(from_cache(*entry, some, needed));
  };
  for (uint64_t id : report.cached_all) {
    if (error->empty()) add_cached(id, nullptr);
  }
  for (const wire::CachedContribution& cached : report.cached_some) {
    if (error->empty()) add_cached(cached.cache_id, &cached.ranks);
  }
  for (const wire::Contribution& contribution : report.contributions) {
    if (error->empty()) add(contribution);
  }
  if (!error->empty()) contributions.clear();
  return contributions;
}

void compress_response(const ResponseCache& cache, wire::Response* response) {
  if (response->code != StatusCode::kOk) return;
  std::vector<uint64_t> ids;
  for (const wire::ResponseTensor& tensor : response->tensors) {
    const ResponseCache::Entry* entry = cache.find(key_of(tensor.request));
    if (entry == nullptr || !(entry->tensor == tensor)) return;
    ids.push_back(entry->id);
  }
  response->cache_ids = std::move(ids);
}

bool expand_response(const ResponseCache& cache, wire::Response* response) {
  if (response->cache_ids.empty() || !response->tensors.empty()) return true;
  for (uint64_t id : response->cache_ids) {
    const ResponseCache::Entry* entry = cache.find_live(id);
    if (entry == nullptr) return false;
    response->tensors.push_back(entry->tensor);
  }
  return true;
}

}  // namespace khorus::protocol

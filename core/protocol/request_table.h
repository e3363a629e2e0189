// RequestTable: which ranks of a subtree have submitted what.
//
// Every node of the control tree has one. An entry is one name; it gathers variants (identical
// requests are one variant with a set of ranks; more than one variant means a mismatch) until all
// needed ranks are there. An inner node then passes the entry to its parent and forgets it; the
// root decides about it.
//
// Pure; one thread at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/protocol/tensor_key.h"
#include "core/wire/message.h"
#include "core/wire/rank_set.h"

namespace khorus::protocol {

using TimeUs = int64_t;

// The ranks that submitted one and the same request, with what differs by rank.
struct Variant {
  wire::Request request;
  wire::RankSet ranks;
  std::map<int32_t, int64_t> extents;       // allgather
  std::map<int32_t, wire::Bytes> payloads;  // exchange
};

struct TableEntry {
  TensorKey key;
  std::vector<Variant> variants;
  wire::RankSet ranks;   // all that have submitted
  wire::RankSet needed;  // all that must, but those that have
  wire::RankSet joined;  // joined (of all ranks)
  uint64_t order = 0;    // of arrival in this table
  TimeUs first_seen = 0;
  TimeUs half_there = 0;    // of StragglerWatch, at the root; 0: fewer are
  wire::RankSet passed_on;  // inner nodes: already reported to the parent

  bool complete() const { return ranks.contains_all(needed) || missing().empty(); }
  wire::RankSet missing() const { return needed.minus(ranks).minus(joined); }
};

class RequestTable {
 public:
  // Adds a contribution. `needed` follows from its key, so it is the same for all of an entry.
  // Returns the entry, or null when a rank of the contribution is there already or does not belong
  // to `needed` (a protocol error).
  TableEntry* add(wire::Contribution contribution, const wire::RankSet& needed, TimeUs now);

  TableEntry* find(const TensorKey& key);
  void erase(const TensorKey& key);
  // Forgets what was submitted as part of this group; entries that are left empty are erased.
  void erase_group(ProcessSetId process_set, const std::string& group);
  void erase_process_set(ProcessSetId process_set);

  size_t size() const noexcept { return entries_.size(); }
  void clear() { entries_.clear(); }
  // In no particular order. The function must not add or erase.
  void for_each(const std::function<void(TableEntry&)>& visit);
  void for_each(const std::function<void(const TableEntry&)>& visit) const;

 private:
  std::unordered_map<TensorKey, TableEntry, TensorKeyHash> entries_;
  uint64_t next_order_ = 0;
};

// A contribution of the ranks of `variant` that are in `ranks`.
wire::Contribution contribution_of(const Variant& variant, const wire::RankSet& ranks);

}  // namespace khorus::protocol

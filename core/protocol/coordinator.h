// Coordinator: the root's part of the protocol: validates, orders, fuses, decides.
//
// Gets the entries of the root's request table as they become complete, and makes decisions of
// them. Groups are released when all their members are complete; a mismatch fails every rank's
// operation, and with it its group.
//
// Pure; one thread at a time.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/protocol/flush_policy.h"
#include "core/protocol/node.h"
#include "core/protocol/request_table.h"
#include "core/protocol/response_cache.h"
#include "core/protocol/roster.h"

namespace khorus::protocol {

class Coordinator {
 public:
  explicit Coordinator(const NodeOptions& options) : options_(options) {}

  // An entry that all ranks have submitted, but those that have joined (no longer in the table).
  void completed(TableEntry entry, const Roster& roster, TimeUs now);
  // After the last completed() of one input: a group of which only some members are complete has
  // different members on different ranks, and fails.
  void check_groups(const RequestTable& table, const Roster& roster, TimeUs now);
  // All ranks have joined, `last` as the last one.
  void all_joined(int last) { joined_last_ = last; }
  // A set was removed: nothing of it is waited for any more.
  void forget_process_set(ProcessSetId id);
  void set_fusion(int64_t threshold_bytes, TimeUs window_us) {
    options_.fusion_threshold_bytes = threshold_bytes;
    options_.flush_window_us = window_us;
  }
  // A rank has called shutdown(): the next decision is the last one with operations.
  void leave(const std::string& reason);

  // The next decision if it is time for one, without its sequence number. `deadline` is set to when
  // to ask again.
  std::optional<wire::Decision> decide(const RequestTable& table, const ResponseCache& cache,
                                       int in_flight, TimeUs now, TimeUs* deadline);
  // A new operation, not complete yet, was seen in the table.
  void arrived(TimeUs now) { last_arrival_ = now; }

 private:
  struct Ready {
    wire::ResponseTensor tensor;
    uint64_t order = 0;
    TimeUs since = 0;
    wire::RankSet ranks;  // that have submitted it; the others have joined
  };
  struct Group {
    uint32_t size = 0;
    std::vector<Ready> complete;
  };
  using GroupKey = std::pair<ProcessSetId, std::string>;

  void fail(const TableEntry& entry, const std::string& message);
  void fail_group(const GroupKey& key, const std::string& message);
  std::optional<std::string> objection_to_group(const GroupKey& key, const Roster& roster) const;
  void drop_removed();
  // As much of what is ready as fits into a frame.
  std::vector<wire::Response> take_ready(const ResponseCache& cache);
  FlushState flush_state(const RequestTable& table, int in_flight) const;

  NodeOptions options_;
  std::vector<Ready> ready_;
  std::vector<wire::Response> errors_;
  std::map<GroupKey, Group> groups_;
  std::vector<GroupKey> touched_groups_;  // since the last check_groups
  TimeUs last_arrival_ = -kNever;
  std::string leaving_reason_;
  bool closing_ = false;
  int joined_last_ = -1;
};

}  // namespace khorus::protocol

// StallInspector: finds operations that some ranks wait for and says which ranks are missing, and
// what those submitted last. Lives at the root.
//
// At half the warning time of an operation it asks the missing ranks what they are doing; at three
// quarters (or later, when the answers are late, at the warning time) it reports. It reports an
// operation again when its missing ranks change, or when its age has doubled.
//
// Pure; one thread at a time.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/protocol/node.h"
#include "core/protocol/request_table.h"
#include "core/protocol/roster.h"

namespace khorus::protocol {

class StallInspector {
 public:
  StallInspector(TimeUs warning_us, TimeUs shutdown_us)
      : warning_us_(warning_us), shutdown_us_(shutdown_us) {}

  struct Verdict {
    std::optional<wire::StallQuery> query;
    std::optional<std::string> report;
    std::optional<std::string> give_up;  // an operation has waited beyond the shutdown time
    TimeUs deadline = kNever;            // when to inspect again
  };
  // `join`: of the ranks that have joined while others have not; may be null.
  Verdict inspect(const RequestTable& table, const TableEntry* join, const Roster& roster,
                  TimeUs now);
  void answer(const wire::StallAnswer& answer, TimeUs now);

 private:
  struct Watched {
    TimeUs first_seen = 0;  // of the entry: another one of this name is another wait
    wire::RankSet reported_missing;
    TimeUs report_at = 0;  // 0: not asked yet
    bool asked = false;
  };
  struct Answer {
    wire::StallAnswer answer;
    TimeUs at = 0;
  };
  std::string describe_wait(const TableEntry& entry, const Roster& roster, TimeUs now) const;
  std::string describe_missing(const wire::RankSet& missing, const std::vector<PeerInfo>& peers,
                               TimeUs now) const;

  TimeUs warning_us_;
  TimeUs shutdown_us_;
  uint64_t next_query_ = 1;
  std::unordered_map<TensorKey, Watched, TensorKeyHash> watched_;
  std::map<int32_t, Answer> answers_;
};

// "12.3 s"
std::string format_seconds(TimeUs duration_us);

}  // namespace khorus::protocol

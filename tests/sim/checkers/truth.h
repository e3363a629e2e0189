// Truth: what Khorus says about ranks is so.
//
// A mismatch names the tensor, every attribute that differs and none that does not, every value and
// exactly the ranks that submitted it; where ranks have joined, exactly those. A stall report names
// exactly the ranks that are missing (none that has joined), its process set, and what those
// submitted last; of a join it names those that have not joined, when all were quiet; and no wait
// beyond the warning time goes unreported. A lost rank is one that really crashed (or is at an
// end of a cut link); a failed data plane is one that really failed.
#pragma once

#include <cstdint>
#include <deque>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "tests/sim/checkers/checker.h"
#include "tests/sim/checkers/set_book.h"

namespace khorus::sim {

class Truth : public Checker {
 public:
  const char* name() const override { return "truth"; }
  void begin(const Scenario& scenario, const Workload& workload) override;
  void submitted(int rank, const Origin& origin, std::span<const protocol::Submission> submissions,
                 TimeUs now) override;
  void ticked(int rank, const protocol::Output& output, const NodeView& view, TimeUs now) override;
  void executed(int rank, const protocol::Execution& execution, bool ok, TimeUs now) override;
  void crashed(int rank, TimeUs) override { lost_.insert(rank); }
  void link_cut(int a, int b, TimeUs) override { lost_.insert({a, b}); }
  void data_plane_failed(int rank, const Status&, TimeUs) override { failed_.insert(rank); }

  // How many statements were judged, so that a test can see that there were any.
  uint64_t judged() const { return judged_; }

 private:
  struct Submitted {
    wire::Request request;
    TimeUs at = 0;
    TimeUs decided_at = protocol::kNever;   // by the root
    uint64_t decided_in = 0;                // in which of its ticks
    TimeUs complete_at = protocol::kNever;  // when the last rank had it, if it waited for long
  };
  // A submission, as stall reports describe it.
  struct Words {
    TimeUs at = 0;
    std::string text;
    uint64_t ticket = 0;
  };
  struct PerRank {
    std::unordered_map<std::string, Submitted> pending;  // by key_of()
    std::unordered_map<uint64_t, std::string> keys;      // by ticket
    std::deque<Words> history;
  };
  void ended(int rank, uint64_t ticket, const Status& status, TimeUs now);
  void judge_decision(const wire::Decision& decision, TimeUs now);
  void note_decided(const protocol::Output& output, TimeUs now);
  void note_responses(const wire::Decision& decision, TimeUs now);
  void decided(const std::string& key, TimeUs now);
  void group_decided(ProcessSetId set, const std::string& group, TimeUs now);
  void set_decided(ProcessSetId set, TimeUs now);
  void judge_response(const wire::Response& response, TimeUs now);
  void judge_attributes(const wire::Request& named, const std::string& text, TimeUs now);
  void judge_absence(const wire::Request& named, const std::string& text, TimeUs now);
  void judge_group(const std::string& text, ProcessSetId set, TimeUs now);
  void judge_joined_group(const std::string& text, ProcessSetId set, TimeUs now);
  void judge_stall(int rank, const std::string& text, TimeUs now);
  void judge_wait(int rank, const std::string& text, size_t waited, TimeUs now);
  std::string find_stalled(std::string_view words, const std::vector<int>& all) const;
  void judge_join(int rank, const std::vector<int>& missing, TimeUs now);
  void judge_join_silence(TimeUs now);
  std::string words_of(const wire::Request& request) const;
  void judge_missing(int rank, const std::string& key, const std::vector<int>& missing, TimeUs now);
  void judge_last_words(int rank, std::string_view text, TimeUs now);
  bool has_joined(int rank) const { return joined_[static_cast<size_t>(rank)]; }
  // What it has joined instead of submitting: all but exchanges, which are Khorus' own.
  bool excused(const wire::Request& request, int rank) const {
    return request.kind != OpKind::kExchange && has_joined(rank);
  }
  const Submitted* find(int rank, const std::string& key) const;
  // The same, if it was not decided before this moment.
  const Submitted* find_open(int rank, const std::string& key) const;
  const wire::Request* find_any(const std::string& key) const;
  TimeUs complete_at(const wire::Request& request) const;
  void judge_silence(int rank, const std::string& key, TimeUs now);
  void judge_fault(int rank, const Status& status, TimeUs now);

  Scenario scenario_;
  TimeUs news_bound_us_ = 0;  // until the root knows what a rank has submitted
  std::vector<PerRank> ranks_;
  SetBook book_;
  std::vector<bool> joined_;  // by rank: from join() until the root has decided that it is over
  std::vector<TimeUs> joined_at_;                     // by rank: the last time
  std::unordered_map<std::string, TimeUs> reported_;  // by key: last as stalled
  TimeUs group_failed_at_ = std::numeric_limits<TimeUs>::min() / 2;
  uint64_t root_ticks_ = 0;
  TimeUs busy_until_ = 0;       // until when the root may have heard of something submitted or run
  TimeUs heard_until_ = 0;      // the same of what it surely hears: not refused with its set gone
  TimeUs join_reported_ = -1;   // last report of a join that waits
  TimeUs reported_more_ = -1;   // last report that left some unnamed
  std::set<std::string> said_;  // mismatch texts that were judged
  std::set<int> lost_, failed_;
  bool disturbed_ = false;  // some rank's epoch is over
  uint64_t judged_ = 0;
};

}  // namespace khorus::sim

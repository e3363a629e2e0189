// Truth: what Khorus says about ranks is so.
//
// A mismatch names the tensor, every attribute that differs and none that does not, every value and
// exactly the ranks that submitted it. A stall report names exactly the ranks that are missing, and
// what those submitted last; and no wait beyond the warning time goes unreported. A lost rank is
// one that really crashed (or is at an end of a cut link); a failed data plane is one that really
// failed.
#pragma once

#include <cstdint>
#include <deque>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "tests/sim/checkers/checker.h"

namespace khorus::sim {

class Truth : public Checker {
 public:
  const char* name() const override { return "truth"; }
  void begin(const Scenario& scenario, const Workload& workload) override;
  void submitted(int rank, const Origin& origin, std::span<const protocol::Submission> submissions,
                 TimeUs now) override;
  void ticked(int rank, const protocol::Output& output, const NodeView& view, TimeUs now) override;
  void crashed(int rank, TimeUs) override { lost_.insert(rank); }
  void link_cut(int a, int b, TimeUs) override { lost_.insert({a, b}); }
  void data_plane_failed(int rank, const Status&, TimeUs) override { failed_.insert(rank); }

  // How many statements were judged, so that a test can see that there were any.
  uint64_t judged() const { return judged_; }

 private:
  struct Submitted {
    wire::Request request;
    TimeUs at = 0;
    TimeUs decided_at = protocol::kNever;  // by the root
  };
  struct PerRank {
    std::unordered_map<std::string, Submitted> pending;  // by name
    std::unordered_map<uint64_t, std::string> names;     // by ticket
    std::deque<std::pair<TimeUs, std::string>> history;  // of described submissions
  };
  void ended(int rank, uint64_t ticket, StatusCode code, TimeUs now);
  void judge_decision(const wire::Decision& decision, TimeUs now);
  void note_decided(const protocol::Output& output, TimeUs now);
  void decided(const std::string& name, TimeUs now);
  void group_decided(const std::string& group, TimeUs now);
  void judge_attributes(const std::string& name, const std::string& text, TimeUs now);
  void judge_group(const std::string& text, TimeUs now);
  void judge_stall(int rank, const std::string& text, TimeUs now);
  void judge_missing(int rank, const std::string& name, const std::vector<int>& missing,
                     TimeUs now);
  void judge_last_words(int rank, std::string_view text, TimeUs now);
  bool all_have(const std::string& name) const;
  void judge_silence(int rank, const std::string& name, TimeUs now);
  void judge_fault(int rank, const Status& status, TimeUs now);

  Scenario scenario_;
  TimeUs news_bound_us_ = 0;  // until the root knows what a rank has submitted
  std::vector<PerRank> ranks_;
  std::unordered_map<std::string, TimeUs> last_submitted_;  // by name, by any rank
  std::unordered_map<std::string, TimeUs> reported_;        // by name: last as stalled
  TimeUs group_failed_at_ = std::numeric_limits<TimeUs>::min() / 2;
  TimeUs reported_more_ = -1;   // last report that left some unnamed
  std::set<std::string> said_;  // mismatch texts that were judged
  std::set<int> lost_, failed_;
  bool disturbed_ = false;  // some rank's epoch is over
  uint64_t judged_ = 0;
};

}  // namespace khorus::sim

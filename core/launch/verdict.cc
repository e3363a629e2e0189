// Judging a job; see verdict.h.
#include "core/launch/verdict.h"

#include <signal.h>
#include <string.h>
#include <sys/wait.h>

#include <algorithm>
#include <optional>
#include <set>

namespace khorus::launch {
namespace {

bool failed(const RankOutcome& rank) {
  if (!rank.lost.empty()) return true;  // also one that was to be stopped: nobody knows
  return rank.stopped_with == 0 && exit_code_of(rank.wait_status) != 0;
}

// The first to end badly; but a rank that blames another which also failed is a consequence,
// however soon it ended.
std::optional<int> find_culprit(const std::vector<RankOutcome>& ranks, int first_rank) {
  std::optional<int> culprit;
  const auto at = [&](int rank) -> const RankOutcome& { return ranks[static_cast<size_t>(rank)]; };
  const int size = static_cast<int>(ranks.size());
  for (int rank = 0; rank < size; ++rank) {
    if (failed(at(rank)) && (!culprit || at(rank).order < at(*culprit).order)) culprit = rank;
  }
  std::set<int> seen;
  while (culprit && seen.insert(*culprit).second) {
    const int blamed = at(*culprit).page.lost_rank - first_rank;
    if (blamed < 0 || blamed >= size || !failed(at(blamed))) break;
    culprit = blamed;
  }
  return culprit;
}

std::string shortened(const std::string& text) {
  constexpr size_t kLimit = 240;
  std::string result;
  for (const char c : text.substr(0, kLimit)) {
    const auto byte = static_cast<unsigned char>(c);
    result += byte < 0x20 || byte == 0x7f ? ' ' : c;
  }
  return text.size() > kLimit ? result + "..." : result;
}

std::string describe_end_of(const RankOutcome& rank) {
  if (rank.lost.empty()) return describe_end(rank.wait_status);
  return shortened(rank.lost);
}

std::string signal_name(int signal) {
  const char* name = ::sigabbrev_np(signal);
  return name ? "SIG" + std::string(name) : "signal " + std::to_string(signal);
}

void append(std::string* sentence, const std::vector<int>& ranks, const std::string& what) {
  if (ranks.empty()) return;
  if (!sentence->empty()) *sentence += "; ";
  *sentence += describe_ranks(ranks) + " " + what;
}

// Who else ended badly, and how: "ranks 0-1 failed after it; rank 3 was stopped with SIGTERM".
std::string describe_consequences(const JobOutcome& job, int culprit) {
  std::vector<int> lost, by_themselves, stopped, killed;
  for (int rank = 0; rank < static_cast<int>(job.ranks.size()); ++rank) {
    const RankOutcome& outcome = job.ranks[static_cast<size_t>(rank)];
    if (rank == culprit) continue;
    if (!outcome.lost.empty())
      lost.push_back(job.first_rank + rank);
    else if (outcome.stopped_with == SIGKILL)
      killed.push_back(job.first_rank + rank);
    else if (outcome.stopped_with != 0)
      stopped.push_back(job.first_rank + rank);
    else if (failed(outcome))
      by_themselves.push_back(job.first_rank + rank);
  }
  std::string sentence;
  append(&sentence, lost, "lost");
  append(&sentence, by_themselves, "failed after it");
  append(&sentence, stopped, "stopped with SIGTERM");
  append(&sentence, killed, "killed");
  return sentence;
}

std::string where_logs_are(const JobOutcome& job) {
  return "khorusrun:   logs: " +
         (job.logs.empty() ? "not kept; --output-filename DIR keeps them" : job.logs);
}

// Which rank it was is among mpirun's own words, above these lines.
Verdict judge_mpirun(const JobOutcome& job) {
  const RankOutcome& mpirun = job.ranks.front();
  Verdict verdict;
  verdict.exit_code = exit_code_of(mpirun.wait_status);
  if (verdict.exit_code == 0) return verdict;
  if (job.interrupted_by != 0) {
    verdict.exit_code = 128 + job.interrupted_by;
    verdict.lines.push_back("khorusrun: interrupted by " + signal_name(job.interrupted_by) +
                            ": mpirun " + (mpirun.stopped_with == SIGKILL ? "killed" : "ended"));
    return verdict;
  }
  verdict.lines.push_back("khorusrun: mpirun failed: " + describe_end(mpirun.wait_status) +
                          " (pid " + std::to_string(mpirun.pid) + " on " + job.host + ")");
  if (!mpirun.last_words.empty()) {
    verdict.lines.push_back("khorusrun:   last words of a rank: " + shortened(mpirun.last_words));
  }
  verdict.lines.push_back(where_logs_are(job));
  return verdict;
}

Verdict judge_interrupted(const JobOutcome& job) {
  Verdict verdict;
  std::vector<int> ended, killed;
  for (int rank = 0; rank < static_cast<int>(job.ranks.size()); ++rank) {
    const RankOutcome& outcome = job.ranks[static_cast<size_t>(rank)];
    if (exit_code_of(outcome.wait_status) == 0) continue;
    verdict.exit_code = 128 + job.interrupted_by;
    (outcome.stopped_with == SIGKILL ? killed : ended).push_back(job.first_rank + rank);
  }
  if (verdict.exit_code == 0) return verdict;
  std::string sentence;
  append(&sentence, ended, "ended");
  append(&sentence, killed, "killed");
  verdict.lines.push_back("khorusrun: interrupted by " + signal_name(job.interrupted_by) + ": " +
                          sentence);
  return verdict;
}

}  // namespace

Verdict judge(const JobOutcome& job) {
  if (job.by_mpirun) return judge_mpirun(job);
  if (job.interrupted_by != 0) return judge_interrupted(job);
  const std::optional<int> culprit = find_culprit(job.ranks, job.first_rank);
  if (!culprit) return {};
  const RankOutcome& rank = job.ranks[static_cast<size_t>(*culprit)];
  Verdict verdict;
  verdict.exit_code = exit_code_of(rank.wait_status);
  auto& lines = verdict.lines;
  lines.push_back("khorusrun: rank " + std::to_string(job.first_rank + *culprit) +
                  " failed first: " + describe_end_of(rank) + " (pid " + std::to_string(rank.pid) +
                  " on " + (rank.host.empty() ? job.host : rank.host) + ")");
  const std::string& words = rank.last_words.empty() ? rank.page.failure : rank.last_words;
  if (!words.empty()) lines.push_back("khorusrun:   its last words: " + shortened(words));
  if (!rank.page.last_operation.empty()) {
    lines.push_back("khorusrun:   its last operation: " + shortened(rank.page.last_operation) +
                    ", number " + std::to_string(rank.page.operations));
  }
  const std::string consequences = describe_consequences(job, *culprit);
  if (!consequences.empty()) lines.push_back("khorusrun:   because of it: " + consequences);
  lines.push_back(where_logs_are(job));
  return verdict;
}

int exit_code_of(int wait_status) {
  if (WIFSIGNALED(wait_status)) return 128 + WTERMSIG(wait_status);
  return WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 1;
}

std::string describe_end(int wait_status) {
  if (!WIFSIGNALED(wait_status)) return "exit code " + std::to_string(exit_code_of(wait_status));
  const int signal = WTERMSIG(wait_status);
  std::string text = "killed by signal " + std::to_string(signal);
  if (::sigabbrev_np(signal)) text += " (" + signal_name(signal) + ")";
  if (WCOREDUMP(wait_status)) text += ", core dumped";
  return text;
}

std::string describe_ranks(const std::vector<int>& ranks) {
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  for (size_t i = 0; i < ranks.size();) {
    size_t last = i;
    while (last + 1 < ranks.size() && ranks[last + 1] == ranks[last] + 1) ++last;
    if (i > 0) text += ",";
    text += std::to_string(ranks[i]);
    if (last > i) text += "-" + std::to_string(ranks[last]);
    i = last + 1;
  }
  return text;
}

}  // namespace khorus::launch

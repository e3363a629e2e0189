// See stall_inspector.h.
#include "core/protocol/stall_inspector.h"

#include <algorithm>
#include <array>
#include <cstdio>

#include "core/protocol/tensor_key.h"

namespace khorus::protocol {
namespace {

constexpr size_t kOperationsNamed = 8;
constexpr size_t kRanksNamed = 16;

}  // namespace

std::string format_seconds(TimeUs duration_us) {
  std::array<char, 32> text{};
  const int length =
      std::snprintf(text.data(), text.size(), "%.1f s", static_cast<double>(duration_us) / 1e6);
  return std::string(text.data(), static_cast<size_t>(length));
}

StallInspector::Verdict StallInspector::inspect(const RequestTable& table, const TableEntry* join,
                                                const Roster& roster, TimeUs now) {
  Verdict verdict;
  if (warning_us_ == 0) return verdict;
  const TimeUs ask_after = warning_us_ / 2;
  const TimeUs report_after = warning_us_ * 3 / 4;
  wire::RankSet to_ask;
  wire::RankSet silent;
  std::vector<const TableEntry*> due;
  std::unordered_map<TensorKey, Watched, TensorKeyHash> still;
  const auto visit = [&](const TableEntry& entry) {
    const TimeUs age = now - entry.first_seen;
    Watched watched;
    const auto it = watched_.find(entry.key);
    if (it != watched_.end() && it->second.first_seen == entry.first_seen) watched = it->second;
    watched.first_seen = entry.first_seen;
    const wire::RankSet missing = entry.missing();
    if (age < ask_after) {
      verdict.deadline = std::min(verdict.deadline, entry.first_seen + ask_after);
      return;
    }
    const bool changed = !watched.reported_missing.empty() && watched.reported_missing != missing;
    const bool is_new = watched.report_at == 0;
    // Once asked, the next report covers what changes until then.
    if (is_new || (changed && !watched.asked)) {
      to_ask.add_all(missing);
      watched.asked = true;
      if (is_new) watched.report_at = entry.first_seen + report_after;
      if (changed) watched.report_at = std::min(watched.report_at, now + warning_us_ / 4);
    }
    if (now >= watched.report_at) {
      due.push_back(&entry);
      watched.reported_missing = missing;
      watched.report_at = now + std::max(age, warning_us_);
      watched.asked = false;
    }
    // Asked again a little before the next report, so that the report is fresh.
    const TimeUs ask_again = watched.report_at - warning_us_ / 4;
    if (!watched.asked && now >= ask_again) {
      to_ask.add_all(missing);
      watched.asked = true;
    }
    verdict.deadline = std::min(verdict.deadline, watched.asked ? watched.report_at : ask_again);
    if (shutdown_us_ > 0) {
      if (age >= shutdown_us_ && !verdict.give_up) {
        verdict.give_up = describe_wait(entry, roster, now);
      }
      verdict.deadline = std::min(verdict.deadline, entry.first_seen + shutdown_us_);
    }
    still.emplace(entry.key, std::move(watched));
  };
  table.for_each(visit);
  if (join != nullptr) visit(*join);
  watched_ = std::move(still);
  if (!to_ask.empty()) verdict.query = wire::StallQuery{next_query_++, std::move(to_ask)};
  if (due.empty()) return verdict;
  std::sort(due.begin(), due.end(),
            [](const TableEntry* a, const TableEntry* b) { return a->order < b->order; });
  std::string text = "stall: ";
  wire::RankSet missing;
  for (size_t i = 0; i < due.size(); ++i) {
    missing.add_all(due[i]->missing());
    if (i >= kOperationsNamed) continue;
    if (i > 0) text += "; ";
    text += describe_wait(*due[i], roster, now);
  }
  if (due.size() > kOperationsNamed) {
    text += "; and " + std::to_string(due.size() - kOperationsNamed) + " more operations";
  }
  verdict.report = text + ". " + describe_missing(missing, roster.peers, now);
  return verdict;
}

void StallInspector::answer(const wire::StallAnswer& answer, TimeUs now) {
  answers_[answer.rank] = {answer, now};
}

std::string StallInspector::describe_wait(const TableEntry& entry, const Roster& roster,
                                          TimeUs now) const {
  const wire::Request& request = entry.variants.front().request;
  return describe(request, roster.sets) + " has waited " + format_seconds(now - entry.first_seen) +
         " for " + describe_ranks(entry.missing(), roster.peers) +
         (request.kind == OpKind::kJoin ? ", joined by " : ", submitted by ") +
         describe_ranks(entry.ranks, roster.peers);
}

std::string StallInspector::describe_missing(const wire::RankSet& missing,
                                             const std::vector<PeerInfo>& peers, TimeUs now) const {
  std::string text;
  size_t named = 0;
  for (int32_t rank : missing.to_vector()) {
    if (++named > kRanksNamed) continue;
    if (!text.empty()) text += "; ";
    text += describe_peer(rank, peers);
    const auto it = answers_.find(rank);
    if (it == answers_.end() || now - it->second.at > warning_us_) {
      text += " has not answered";
      continue;
    }
    const wire::StallAnswer& answer = it->second.answer;
    if (answer.last_submitted.empty()) {
      text += " has submitted nothing yet";
      continue;
    }
    text += " last submitted " + answer.last_submitted + " " +
            format_seconds(answer.last_submitted_ago_ms * 1000 + now - it->second.at) + " ago (" +
            std::to_string(answer.submitted) + " operations so far, " +
            std::to_string(answer.waiting) + " of them waiting)";
  }
  if (named > kRanksNamed) text += "; and " + std::to_string(named - kRanksNamed) + " more ranks";
  return text;
}

}  // namespace khorus::protocol

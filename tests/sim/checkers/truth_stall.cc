// Truth about stalls: see truth.h. The root speaks of what it knew a moment ago; the moment is
// bounded by the scenario's delays and by how long inner nodes may keep news.
#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "tests/sim/checkers/truth.h"
#include "tests/sim/rank_text.h"
#include "tests/sim/world.h"

namespace khorus::sim {

// `KIND "name" has waited 0.1 s for ranks 1,3, submitted by ranks 0,2; ... . rank 1 (...) last ...`
void Truth::judge_stall(int rank, const std::string& text, TimeUs now) {
  static constexpr std::string_view kWaited = " has waited ";
  const std::string_view view = text;
  bool any = false;
  for (size_t i = view.find(kWaited); i != view.npos; i = view.find(kWaited, i + 1)) {
    any = true;
    ++judged_;
    const size_t close = view.rfind('"', i);
    const size_t open = view.rfind('"', close - 1);
    const std::string name(view.substr(open + 1, close - open - 1));
    const size_t for_ranks = view.find(" for ", i);
    const auto missing = read_ranks(view.substr(for_ranks + 5));
    const size_t by_ranks = view.find(", submitted by ", i);
    const auto there = read_ranks(view.substr(by_ranks + 15));
    if (!missing || !there) {
      fail(at(rank, now) + "\"" + text + "\" does not say who is missing and who is not");
      return;
    }
    std::vector<int> all = *missing;
    all.insert(all.end(), there->begin(), there->end());
    std::sort(all.begin(), all.end());
    if (static_cast<int>(all.size()) != scenario_.ranks ||
        std::adjacent_find(all.begin(), all.end()) != all.end()) {
      fail(at(rank, now) + "\"" + text + "\" does not name every rank once");
    }
    judge_missing(rank, name, *missing, now);
    reported_[name] = now;
  }
  if (view.find(" more operations") != view.npos) reported_more_ = now;
  if (!any) fail(at(rank, now) + "\"" + text + "\" names no operation");
  static constexpr std::string_view kPid = ", pid ";
  for (size_t i = view.find(kPid); i != view.npos; i = view.find(kPid, i + 1)) {
    judge_last_words(rank, view.substr(view.rfind("rank ", i)), now);
  }
}

bool Truth::all_have(const std::string& name) const {
  return std::all_of(ranks_.begin(), ranks_.end(),
                     [&](const PerRank& rank) { return rank.pending.contains(name); });
}

// An operation has ended on a rank: had it waited long for another rank, a report must say so.
void Truth::judge_silence(int rank, const std::string& name, TimeUs now) {
  const TimeUs warning = scenario_.node.stall_warning_us;
  const auto& pending = ranks_[static_cast<size_t>(rank)].pending;
  const auto it = pending.find(name);
  if (warning == 0 || it == pending.end() || !lost_.empty()) return;
  const TimeUs at_us = it->second.at;
  const TimeUs until = std::min(now, it->second.decided_at);
  if (until - at_us <= warning + news_bound_us_ || reported_more_ >= at_us) return;
  // Once all have submitted it, it waits for the data plane, which is no stall.
  const bool complete = it->second.decided_at != protocol::kNever || all_have(name);
  const TimeUs waited = (complete ? std::min(until, last_submitted_[name]) : until) - at_us;
  const auto reported = reported_.find(name);
  if (waited <= warning + news_bound_us_) return;
  if (reported != reported_.end() && reported->second >= at_us) return;
  fail(at(rank, now) + name + " has waited " + std::to_string(waited) +
       " us for other ranks, and no report said so; the warning time is " +
       std::to_string(warning) + " us");
}

void Truth::judge_missing(int rank, const std::string& name, const std::vector<int>& missing,
                          TimeUs now) {
  if (disturbed_) return;  // what is pending ends without the root's knowing
  for (int other = 0; other < scenario_.ranks; ++other) {
    const bool said = std::binary_search(missing.begin(), missing.end(), other);
    const auto& pending = ranks_[static_cast<size_t>(other)].pending;
    const auto it = pending.find(name);
    const bool there = it != pending.end() && it->second.decided_at == protocol::kNever;
    if (said && there && lost_.empty() && now - it->second.at > news_bound_us_) {
      fail(at(rank, now) + "says that rank " + std::to_string(other) + " is missing for " + name +
           ", which it submitted at " + std::to_string(it->second.at) + " us");
    }
    if (!said && !there) {
      fail(at(rank, now) + "does not say that rank " + std::to_string(other) + " is missing for " +
           name);
    }
  }
}

// `rank 3 (node-0, pid 1003) last submitted KIND "name" 0.1 s ago (4 operations so far, ...)`
void Truth::judge_last_words(int rank, std::string_view text, TimeUs now) {
  const auto ranks = read_ranks(text);
  if (!ranks || ranks->size() != 1) return;
  const int other = ranks->front();
  const protocol::PeerInfo peer = peer_info(other);
  const std::string who = "rank " + std::to_string(other) + " (" + peer.host + ", pid " +
                          std::to_string(peer.pid) + ") ";
  const std::string words(text.substr(0, text.find("; rank ")));
  if (!words.starts_with(who)) {
    fail(at(rank, now) + "\"" + words + "\" does not say where rank " + std::to_string(other) +
         " is");
    return;
  }
  const std::string said = words.substr(who.size());
  const auto& history = ranks_[static_cast<size_t>(other)].history;
  const TimeUs round_trip = 2 * (scenario_.depth() + 1) * scenario_.hop_max_us();
  const TimeUs oldest = now - scenario_.node.stall_warning_us - round_trip;
  const auto still_last = [&](size_t index) {
    return index >= history.size() || history[index].first >= oldest;
  };
  if (said.starts_with("has not answered")) {
    // A group that fails may make ranks missing that were not, too late to ask them.
    const TimeUs warning = scenario_.node.stall_warning_us;
    if (lost_.empty() && round_trip < warning / 4 && now - group_failed_at_ > warning) {
      fail(at(rank, now) + "\"" + words + "\", although there was time to ask it");
    }
  } else if (said.starts_with("has submitted nothing yet")) {
    if (!still_last(0)) fail(at(rank, now) + "\"" + words + "\", which is not so");
  } else {
    const size_t count_at = said.find(" ago (");
    const size_t count =
        count_at == said.npos ? 0 : std::strtoul(said.c_str() + count_at + 6, nullptr, 10);
    const bool right = count > 0 && count <= history.size() && still_last(count) &&
                       said.starts_with("last submitted " + history[count - 1].second + " ");
    if (!right) fail(at(rank, now) + "\"" + words + "\", which is not so");
  }
}

}  // namespace khorus::sim

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
    judge_wait(rank, text, i, now);
  }
  if (view.find(" more operations") != view.npos) reported_more_ = now;
  if (!any) fail(at(rank, now) + "\"" + text + "\" names no operation");
  static constexpr std::string_view kPid = ", pid ";
  for (size_t i = view.find(kPid); i != view.npos; i = view.find(kPid, i + 1)) {
    judge_last_words(rank, view.substr(view.rfind("rank ", i)), now);
  }
}

// One of the operations of a report; `waited` is where its " has waited " begins.
void Truth::judge_wait(int rank, const std::string& text, size_t waited, TimeUs now) {
  const std::string_view view = text;
  const std::string_view words = view.substr(0, waited);
  const bool is_join = words.ends_with(" join");
  const std::string_view by = is_join ? ", joined by " : ", submitted by ";
  const auto missing = read_ranks(view.substr(view.find(" for ", waited) + 5));
  const size_t by_ranks = view.find(by, waited);
  const auto there =
      by_ranks == view.npos ? std::nullopt : read_ranks(view.substr(by_ranks + by.size()));
  if (!missing || !there) {
    fail(at(rank, now) + "\"" + text + "\" does not say who is missing and who is not");
    return;
  }
  std::vector<int> all = *missing;
  all.insert(all.end(), there->begin(), there->end());
  std::sort(all.begin(), all.end());
  if (is_join && all == book_.members(kGlobalProcessSet)) {
    judge_join(rank, *missing, now);
    join_reported_ = now;
    return;
  }
  const std::string key = find_stalled(words, all);
  if (key.empty()) {
    fail(at(rank, now) + "\"" + text + "\" does not name every rank once, or not the operation");
    return;
  }
  judge_missing(rank, key, *missing, now);
  reported_[key] = now;
}

// The operation that these words end with and that needs exactly these ranks, but those that have
// joined. Empty: there is none.
std::string Truth::find_stalled(std::string_view words, const std::vector<int>& all) const {
  if (std::adjacent_find(all.begin(), all.end()) != all.end()) return "";
  for (const PerRank& rank : ranks_) {
    for (const auto& [key, submitted] : rank.pending) {
      const wire::Request& request = submitted.request;
      if (!words.ends_with(" " + words_of(request))) continue;
      const std::vector<int> needed = book_.needed(request);
      const bool right =
          std::includes(needed.begin(), needed.end(), all.begin(), all.end()) &&
          std::all_of(needed.begin(), needed.end(), [&](int other) {
            return std::binary_search(all.begin(), all.end(), other) || excused(request, other);
          });
      if (right) return key;
    }
  }
  return "";
}

// It names exactly those that have not joined, and nothing that the root must have heard of by now
// happened in the three quarters of the warning time before.
void Truth::judge_join(int rank, const std::vector<int>& missing, TimeUs now) {
  if (disturbed_) return;
  const TimeUs quiet_since = now - scenario_.node.stall_warning_us * 3 / 4;
  for (int other = 0; other < scenario_.ranks; ++other) {
    const auto index = static_cast<size_t>(other);
    const bool said = std::binary_search(missing.begin(), missing.end(), other);
    if (said && has_joined(other) && lost_.empty() && now - joined_at_[index] > news_bound_us_) {
      fail(at(rank, now) + "says that rank " + std::to_string(other) +
           " has not joined, but it did");
    }
    if (!said && !has_joined(other)) {
      fail(at(rank, now) + "does not say that rank " + std::to_string(other) + " has not joined");
    }
    for (const auto& [key, submitted] : ranks_[index].pending) {
      // What fails with its group, goes with its set or lies behind a lost rank the root may never
      // hear of.
      const bool heard = lost_.empty() && submitted.request.group.empty() &&
                         submitted.request.process_set == kGlobalProcessSet;
      if (!heard || submitted.at <= quiet_since || submitted.at >= now - news_bound_us_) continue;
      fail(at(rank, now) + "says that a join waits for others, but rank " + std::to_string(other) +
           " submitted " + key + " at " + std::to_string(submitted.at) + " us");
    }
  }
}

// Something happens: had all been quiet for long while some waited in a join, a report must say so.
void Truth::judge_join_silence(TimeUs now) {
  const TimeUs warning = scenario_.node.stall_warning_us;
  if (warning == 0 || disturbed_ || !lost_.empty() || now - busy_until_ <= warning) return;
  const bool waits = std::find(joined_.begin(), joined_.end(), true) != joined_.end() &&
                     std::find(joined_.begin(), joined_.end(), false) != joined_.end();
  if (!waits || join_reported_ >= heard_until_ - news_bound_us_) return;
  if (reported_more_ >= heard_until_ - news_bound_us_) return;
  fail(at(0, now) + "a join has waited " + std::to_string(now - busy_until_) +
       " us in which nothing happened, and no report said so; the warning time is " +
       std::to_string(warning) + " us");
}

// When the last of those that it needs had submitted it, or had joined; kNever: some have not.
TimeUs Truth::complete_at(const wire::Request& request) const {
  const std::string key = key_of(request);
  TimeUs complete = 0;
  for (int rank : book_.needed(request)) {
    const Submitted* submitted = find(rank, key);
    if (submitted == nullptr && !excused(request, rank)) return protocol::kNever;
    complete = std::max(
        complete, submitted != nullptr ? submitted->at : joined_at_[static_cast<size_t>(rank)]);
  }
  return complete;
}

// An operation has ended on a rank: had it waited long for another rank, a report must say so.
void Truth::judge_silence(int rank, const std::string& key, TimeUs now) {
  const TimeUs warning = scenario_.node.stall_warning_us;
  const Submitted* mine = find(rank, key);
  if (warning == 0 || mine == nullptr || !lost_.empty()) return;
  if (mine->request.kind == OpKind::kJoin) return;  // judge_join_silence
  const TimeUs at_us = mine->at;
  const TimeUs until = std::min(now, mine->decided_at);
  if (until - at_us <= warning + news_bound_us_ || reported_more_ >= at_us) return;
  // Once all have submitted it or joined, it waits for the data plane, which is no stall.
  const bool is_decided = mine->decided_at != protocol::kNever;
  const TimeUs complete = is_decided ? mine->complete_at : complete_at(mine->request);
  const TimeUs waited = std::min(until, complete) - at_us;
  const auto reported = reported_.find(key);
  if (waited <= warning + news_bound_us_) return;
  if (reported != reported_.end() && reported->second >= at_us) return;
  fail(at(rank, now) + key + " has waited " + std::to_string(waited) +
       " us for other ranks, and no report said so; the warning time is " +
       std::to_string(warning) + " us");
}

void Truth::judge_missing(int rank, const std::string& key, const std::vector<int>& missing,
                          TimeUs now) {
  if (disturbed_) return;  // what is pending ends without the root's knowing
  const wire::Request* request = find_any(key);
  for (int other : book_.needed(*request)) {
    const bool said = std::binary_search(missing.begin(), missing.end(), other);
    const Submitted* submitted = find(other, key);
    const bool there = submitted != nullptr && submitted->decided_at == protocol::kNever;
    if (said && there && lost_.empty() && now - submitted->at > news_bound_us_) {
      fail(at(rank, now) + "says that rank " + std::to_string(other) + " is missing for " + key +
           ", which it submitted at " + std::to_string(submitted->at) + " us");
    }
    const bool joined = excused(*request, other);
    const TimeUs joined_at = joined_at_[static_cast<size_t>(other)];
    if (said && joined && lost_.empty() && now - joined_at > news_bound_us_) {
      fail(at(rank, now) + "says that rank " + std::to_string(other) + " is missing for " + key +
           ", but it joined at " + std::to_string(joined_at) + " us");
    }
    if (!said && !there && !joined) {
      fail(at(rank, now) + "does not say that rank " + std::to_string(other) + " is missing for " +
           key);
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
    return index >= history.size() || history[index].at >= oldest;
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
                       said.starts_with("last submitted " + history[count - 1].text + " ");
    if (!right) fail(at(rank, now) + "\"" + words + "\", which is not so");
  }
}

}  // namespace khorus::sim

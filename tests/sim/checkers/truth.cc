// See truth.h. Mismatches are judged in truth_mismatch.cc, stalls in truth_stall.cc.
#include "tests/sim/checkers/truth.h"

#include <algorithm>

#include "tests/sim/world.h"

namespace khorus::sim {

void Truth::begin(const Scenario& scenario, const Workload&) {
  scenario_ = scenario;
  book_.begin(scenario);
  ranks_.resize(static_cast<size_t>(scenario.ranks));
  joined_.resize(static_cast<size_t>(scenario.ranks));
  joined_at_.resize(static_cast<size_t>(scenario.ranks), 0);
  // Inner nodes keep an entry for at most a quarter of the warning time, all together.
  news_bound_us_ = scenario.node.stall_warning_us / 4 +
                   (scenario.depth() + 2) * scenario.hop_max_us() + scenario.depth();
}

void Truth::submitted(int rank, const Origin& origin,
                      std::span<const protocol::Submission> submissions, TimeUs now) {
  if (origin.duplicate || origin.after_end || origin.joined) return;  // refused at once
  judge_join_silence(now);
  busy_until_ = now + news_bound_us_;
  const bool global = std::all_of(
      submissions.begin(), submissions.end(),
      [](const auto& submission) { return submission.request.process_set == kGlobalProcessSet; });
  if (global) heard_until_ = busy_until_;
  book_.submitted(rank, origin, submissions);
  PerRank& mine = ranks_[static_cast<size_t>(rank)];
  for (const protocol::Submission& submission : submissions) {
    const wire::Request& request = submission.request;
    const std::string key = key_of(request);
    if (request.kind == OpKind::kJoin) {
      joined_[static_cast<size_t>(rank)] = true;
      joined_at_[static_cast<size_t>(rank)] = now;
    }
    mine.pending[key] = {request, now};
    mine.keys.emplace(submission.ticket, key);
    mine.history.push_back({now, words_of(request), submission.ticket});
  }
}

// `allreduce "w" in process set 3 (ranks 0,2)`: how an operation is named.
std::string Truth::words_of(const wire::Request& request) const {
  if (request.kind == OpKind::kJoin) return "join";
  return std::string(khorus::to_string(request.kind)) + " \"" + request.name + "\"" +
         book_.set_text(request.process_set);
}

void Truth::executed(int rank, const protocol::Execution&, bool, TimeUs now) {
  if (rank != 0) return;
  judge_join_silence(now);
  busy_until_ = std::max(busy_until_, now + news_bound_us_);  // a slow root wakes up late
  heard_until_ = std::max(heard_until_, now + news_bound_us_);
}

void Truth::ticked(int rank, const protocol::Output& output, const NodeView&, TimeUs now) {
  book_.learn_sets(rank, output);
  if (rank == 0) ++root_ticks_;
  // All sentences are judged by what was pending before any of this output's ends.
  if (rank == 0) {
    for (const auto& [to, frame] : output.frames) {
      const auto* decision = std::get_if<wire::Decision>(&frame.message);
      if (decision != nullptr && to == 1) judge_decision(*decision, now);
    }
  }
  for (const protocol::Completion& completion : output.completions) {
    if (completion.status.code() != StatusCode::kMismatch) continue;
    if (!said_.contains(completion.status.message())) {
      fail(at(rank, now) + "was told \"" + completion.status.message() +
           "\", which was not decided");
    }
  }
  for (const protocol::LogLine& line : output.log) {
    if (rank == 0 && line.text.starts_with("stall: ")) judge_stall(rank, line.text, now);
  }
  if (output.fault) judge_fault(rank, *output.fault, now);
  if (rank == 0 && output.shutdown) judge_join_silence(now);
  if (rank == 0) note_decided(output, now);
  for (const protocol::Execution& execution : output.executions) {
    for (uint64_t ticket : execution.tickets) ended(rank, ticket, Status(), now);
  }
  for (const protocol::Completion& completion : output.completions)
    ended(rank, completion.ticket, completion.status, now);
  disturbed_ |= output.fault.has_value() || output.shutdown;
}

// What the root has told others to run, was given to run, or has done well, is decided everywhere.
// (Errors: judge_decision.)
void Truth::note_decided(const protocol::Output& output, TimeUs now) {
  for (const auto& [to, frame] : output.frames) {
    const auto* decision = std::get_if<wire::Decision>(&frame.message);
    if (decision != nullptr && to == 1) note_responses(*decision, now);
  }
  for (const protocol::Execution& execution : output.executions) {
    for (const wire::ResponseTensor& tensor : execution.response.tensors) {
      decided(key_of(tensor.request), now);
    }
  }
  for (const protocol::Completion& completion : output.completions) {
    const auto it = ranks_[0].keys.find(completion.ticket);
    if (completion.status.ok() && it != ranks_[0].keys.end()) decided(it->second, now);
  }
}

void Truth::note_responses(const wire::Decision& decision, TimeUs now) {
  for (const wire::Response& response : decision.responses) {
    if (response.code != StatusCode::kOk) continue;
    for (const wire::ResponseTensor& tensor : response.tensors) {
      const wire::Request& request = tensor.request;
      decided(key_of(request), now);
      if (request.kind == OpKind::kJoin) joined_.assign(joined_.size(), false);
      if (request.kind == OpKind::kRemoveProcessSet) {
        set_decided(static_cast<ProcessSetId>(request.shape.at(0)), now);
      }
    }
  }
}

// What is pending now is what was decided; what is submitted later is another operation.
void Truth::decided(const std::string& key, TimeUs now) {
  const TimeUs warning = scenario_.node.stall_warning_us;
  std::optional<TimeUs> complete;
  for (PerRank& rank : ranks_) {
    const auto it = rank.pending.find(key);
    if (it == rank.pending.end() || it->second.decided_at != protocol::kNever) continue;
    Submitted& submitted = it->second;
    submitted.decided_at = now;
    submitted.decided_in = root_ticks_;
    if (warning == 0 || now - submitted.at <= warning) continue;
    if (!complete) complete = complete_at(submitted.request);
    submitted.complete_at = *complete;
  }
}

void Truth::group_decided(ProcessSetId set, const std::string& group, TimeUs now) {
  group_failed_at_ = now;
  for (PerRank& rank : ranks_) {
    for (auto& [key, submitted] : rank.pending) {
      if (submitted.request.group == group && submitted.request.process_set == set) {
        if (submitted.decided_at == protocol::kNever) submitted.decided_in = root_ticks_;
        submitted.decided_at = std::min(submitted.decided_at, now);
      }
    }
  }
}

// Its removal ends what is not agreed.
void Truth::set_decided(ProcessSetId set, TimeUs now) {
  for (PerRank& rank : ranks_) {
    for (auto& [key, submitted] : rank.pending) {
      if (submitted.request.process_set != set) continue;
      if (submitted.decided_at == protocol::kNever) submitted.decided_in = root_ticks_;
      submitted.decided_at = std::min(submitted.decided_at, now);
    }
  }
}

void Truth::ended(int rank, uint64_t ticket, const Status& status, TimeUs now) {
  PerRank& mine = ranks_[static_cast<size_t>(rank)];
  const auto it = mine.keys.find(ticket);
  if (it == mine.keys.end()) return;
  const bool refused = status.code() == StatusCode::kInvalidArgument;
  if (!refused) judge_silence(rank, it->second, now);
  // What ended with the epoch stays: the root may still speak of it.
  if (status.ok() || refused || status.code() == StatusCode::kMismatch) {
    mine.pending.erase(it->second);
  }
  // A set that is gone: what was refused at once is not counted as submitted.
  if (refused && status.message().find("there is no process set") != std::string::npos) {
    std::erase_if(mine.history, [ticket](const Words& words) { return words.ticket == ticket; });
  }
  mine.keys.erase(it);
}

const Truth::Submitted* Truth::find(int rank, const std::string& key) const {
  const auto& pending = ranks_[static_cast<size_t>(rank)].pending;
  const auto it = pending.find(key);
  return it == pending.end() ? nullptr : &it->second;
}

const Truth::Submitted* Truth::find_open(int rank, const std::string& key) const {
  const Submitted* submitted = find(rank, key);
  // What this very tick decides is judged as it was before.
  const bool open = submitted != nullptr && (submitted->decided_at == protocol::kNever ||
                                             submitted->decided_in == root_ticks_);
  return open ? submitted : nullptr;
}

// As some rank has submitted it, if possible one for which it is not decided.
const wire::Request* Truth::find_any(const std::string& key) const {
  const wire::Request* any = nullptr;
  for (int rank = 0; rank < scenario_.ranks; ++rank) {
    if (const Submitted* submitted = find_open(rank, key)) return &submitted->request;
    if (const Submitted* submitted = find(rank, key)) any = &submitted->request;
  }
  return any;
}

void Truth::judge_fault(int rank, const Status& status, TimeUs now) {
  ++judged_;
  const std::string& text = status.message();
  const auto names = [&text](const std::set<int>& ranks) {
    for (int candidate : ranks) {
      const protocol::PeerInfo peer = peer_info(candidate);
      if (text.find("rank " + std::to_string(candidate) + " (" + peer.host + ", pid " +
                    std::to_string(peer.pid) + ")") != std::string::npos) {
        return true;
      }
    }
    return false;
  };
  const bool lost = status.code() == StatusCode::kPeerLost;
  if (lost && (!lost_.contains(status.lost_rank()) || !names({status.lost_rank()}))) {
    fail(at(rank, now) + "\"" + text + "\" (lost rank " + std::to_string(status.lost_rank()) +
         "), which has not crashed or is not named");
  }
  if (status.code() == StatusCode::kAborted && !names(failed_)) {
    fail(at(rank, now) + "\"" + text + "\", but no data plane failed there");
  }
  if (status.code() == StatusCode::kTimeout && rank == 0) judge_stall(rank, text, now);
}

}  // namespace khorus::sim

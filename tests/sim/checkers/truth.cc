// See truth.h. Mismatches are judged in truth_mismatch.cc, stalls in truth_stall.cc.
#include "tests/sim/checkers/truth.h"

#include <algorithm>

#include "tests/sim/world.h"

namespace khorus::sim {

void Truth::begin(const Scenario& scenario, const Workload&) {
  scenario_ = scenario;
  ranks_.resize(static_cast<size_t>(scenario.ranks));
  // Inner nodes keep an entry for at most a quarter of the warning time, all together.
  news_bound_us_ = scenario.node.stall_warning_us / 4 +
                   (scenario.depth() + 2) * scenario.hop_max_us() + scenario.depth();
}

void Truth::submitted(int rank, const Origin& origin,
                      std::span<const protocol::Submission> submissions, TimeUs now) {
  if (origin.duplicate || origin.after_end) return;  // refused at once
  PerRank& mine = ranks_[static_cast<size_t>(rank)];
  for (const protocol::Submission& submission : submissions) {
    const wire::Request& request = submission.request;
    mine.pending[request.name] = {request, now};
    last_submitted_[request.name] = now;
    mine.names.emplace(submission.ticket, request.name);
    mine.history.emplace_back(
        now, std::string(khorus::to_string(request.kind)) + " \"" + request.name + "\"");
  }
}

void Truth::ticked(int rank, const protocol::Output& output, const NodeView&, TimeUs now) {
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
  if (rank == 0) note_decided(output, now);
  for (const protocol::Execution& execution : output.executions) {
    for (uint64_t ticket : execution.tickets) ended(rank, ticket, StatusCode::kOk, now);
  }
  for (const protocol::Completion& completion : output.completions)
    ended(rank, completion.ticket, completion.status.code(), now);
  disturbed_ |= output.fault.has_value() || output.shutdown;
}

// What the root was given to run, or has done well, is decided everywhere. (Errors:
// judge_decision.)
void Truth::note_decided(const protocol::Output& output, TimeUs now) {
  for (const protocol::Execution& execution : output.executions) {
    for (const wire::ResponseTensor& tensor : execution.response.tensors) {
      decided(tensor.request.name, now);
    }
  }
  for (const protocol::Completion& completion : output.completions) {
    const auto it = ranks_[0].names.find(completion.ticket);
    if (completion.status.ok() && it != ranks_[0].names.end()) decided(it->second, now);
  }
}

// What is pending now is what was decided; what is submitted later is another operation.
void Truth::decided(const std::string& name, TimeUs now) {
  for (PerRank& rank : ranks_) {
    const auto it = rank.pending.find(name);
    if (it != rank.pending.end()) it->second.decided_at = std::min(it->second.decided_at, now);
  }
}

void Truth::group_decided(const std::string& group, TimeUs now) {
  group_failed_at_ = now;
  for (PerRank& rank : ranks_) {
    for (auto& [name, submitted] : rank.pending) {
      if (submitted.request.group == group) {
        submitted.decided_at = std::min(submitted.decided_at, now);
      }
    }
  }
}

void Truth::ended(int rank, uint64_t ticket, StatusCode code, TimeUs now) {
  PerRank& mine = ranks_[static_cast<size_t>(rank)];
  const auto it = mine.names.find(ticket);
  if (it == mine.names.end()) return;
  judge_silence(rank, it->second, now);
  // What ended with the epoch stays: the root may still speak of it.
  if (code == StatusCode::kOk || code == StatusCode::kMismatch) mine.pending.erase(it->second);
  mine.names.erase(it);
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

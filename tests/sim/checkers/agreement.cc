// See agreement.h.
#include "tests/sim/checkers/agreement.h"

#include <algorithm>

namespace khorus::sim {

void Agreement::begin(const Scenario& scenario, const Workload&) {
  seen_.resize(static_cast<size_t>(scenario.ranks));
  book_.begin(scenario);
}

void Agreement::submitted(int rank, const Origin& origin,
                          std::span<const protocol::Submission> submissions, TimeUs) {
  book_.submitted(rank, origin, submissions);
  for (const protocol::Submission& submission : submissions) {
    seen_[static_cast<size_t>(rank)].requests[submission.ticket] = submission.request;
  }
}

void Agreement::sent(int from, int to, const wire::Frame& frame, size_t, TimeUs now) {
  const auto* decision = std::get_if<wire::Decision>(&frame.message);
  if (decision == nullptr) return;
  // What travels is the id or the tensors; a receiver sees no more.
  wire::Decision seen = *decision;
  for (wire::Response& response : seen.responses) {
    if (!response.cache_ids.empty()) response.tensors.clear();
  }
  const auto [it, is_new] = decisions_.try_emplace(decision->sequence, seen);
  if (!is_new && it->second != seen) {
    fail(at(from, now) + "sent rank " + std::to_string(to) + " another decision " +
         std::to_string(decision->sequence) + " than an earlier rank");
  }
}

void Agreement::ticked(int rank, const protocol::Output& output, const NodeView&, TimeUs now) {
  Seen& seen = seen_[static_cast<size_t>(rank)];
  for (uint64_t round : output.agreed_rounds) {
    if (round != seen.rounds + 1) {
      fail(at(rank, now) + "applied decision " + std::to_string(round) + " after " +
           std::to_string(seen.rounds));
    }
    seen.rounds = round;
  }
  book_.learn_sets(rank, output);
  for (const protocol::Execution& execution : output.executions) {
    check_execution(rank, execution, now);
  }
  for (const protocol::Completion& completion : output.completions) {
    if (completion.position != 0) check_completion(rank, completion, now);
  }
}

void Agreement::check_execution(int rank, const protocol::Execution& execution, TimeUs now) {
  Seen& seen = seen_[static_cast<size_t>(rank)];
  const Place place{execution.sequence, execution.index};
  const std::string what = at(rank, now) + "execution " + std::to_string(seen.executions) +
                           " (decision " + std::to_string(execution.sequence) + ")";
  if (place <= seen.last) fail(what + " was given after a later one");
  seen.last = place;
  const auto [it, is_new] = executions_.try_emplace(place, execution);
  const protocol::Execution& reference = it->second;
  if (reference.response.tensors != execution.response.tensors ||
      reference.response.process_set != execution.response.process_set ||
      reference.first_position != execution.first_position) {
    fail(what + " is not the one another rank was given");
  }
  if (execution.meets_only) return;  // the checker of meetings has to do with it
  ++seen.executions;
  const bool mine = std::all_of(
      execution.response.tensors.begin(), execution.response.tensors.end(),
      [&](const wire::ResponseTensor& tensor) { return book_.is_needed(tensor.request, rank); });
  if (!mine) fail(what + " is one of other ranks");
}

void Agreement::check_completion(int rank, const protocol::Completion& completion, TimeUs now) {
  Seen& seen = seen_[static_cast<size_t>(rank)];
  const wire::Request& request = seen.requests[completion.ticket];
  if (request.kind != OpKind::kBarrier) ++seen.completions;
  const auto [it, is_new] = completions_.try_emplace(
      completion.position, Agreed{request, completion.payloads, completion.value});
  const Agreed& reference = it->second;
  if (key_of(reference.request) != key_of(request) || reference.value != completion.value ||
      reference.payloads != completion.payloads) {
    fail(at(rank, now) + request.name + ", agreed as number " +
         std::to_string(completion.position) + ", ended in another way than elsewhere");
  }
}

// Whoever reached the goodbye has seen everything of its sets.
void Agreement::end(const Ending& ending) {
  for (size_t rank = 0; rank < seen_.size(); ++rank) {
    if (ending.ranks[rank] != RankState::kGoodbye) continue;
    const auto needed = [&](const wire::Request& request) {
      return book_.is_needed(request, static_cast<int>(rank));
    };
    const auto executions = std::count_if(
        executions_.begin(), executions_.end(),
        [&](const auto& item) { return needed(item.second.response.tensors.front().request); });
    // Of barriers those that have joined are told nothing.
    const auto completions =
        std::count_if(completions_.begin(), completions_.end(), [&](const auto& item) {
          return item.second.request.kind != OpKind::kBarrier && needed(item.second.request);
        });
    const Seen& seen = seen_[rank];
    if (seen.executions != static_cast<size_t>(executions) ||
        seen.completions != static_cast<size_t>(completions)) {
      fail(at(static_cast<int>(rank), ending.now) + "said goodbye after " +
           std::to_string(seen.executions) + " of " + std::to_string(executions) +
           " executions and " + std::to_string(seen.completions) + " of " +
           std::to_string(completions) + " other agreed operations");
    }
  }
}

}  // namespace khorus::sim

// See set_book.h.
#include "tests/sim/checkers/set_book.h"

#include <algorithm>

#include "tests/sim/rank_text.h"

namespace khorus::sim {

std::string key_of(const wire::Request& request) {
  std::string key = request.name;
  if (request.kind == OpKind::kSendRecv) {
    key += "@" + std::to_string(std::min(request.root_rank, request.peer)) + "-" +
           std::to_string(std::max(request.root_rank, request.peer));
  }
  if (request.process_set != kGlobalProcessSet) key += "@" + std::to_string(request.process_set);
  return key;
}

void SetBook::begin(const Scenario& scenario) {
  const auto ranks = static_cast<size_t>(scenario.ranks);
  adding_.resize(ranks);
  joined_.resize(ranks, 0);
  for (int rank = 0; rank < scenario.ranks; ++rank) sets_[kGlobalProcessSet].push_back(rank);
}

void SetBook::submitted(int rank, const Origin& origin,
                        std::span<const protocol::Submission> submissions) {
  for (const protocol::Submission& submission : submissions) {
    const wire::Request& request = submission.request;
    if (request.kind == OpKind::kAddProcessSet) {
      adding_[static_cast<size_t>(rank)][submission.ticket] = request.members.to_vector();
    } else if (request.kind == OpKind::kJoin && !origin.after_end) {
      joined_[static_cast<size_t>(rank)] = submission.ticket;
    }
  }
}

void SetBook::learn_sets(int rank, const protocol::Output& output) {
  auto& adding = adding_[static_cast<size_t>(rank)];
  for (const protocol::Completion& completion : output.completions) {
    const auto it = adding.find(completion.ticket);
    if (it == adding.end() || !completion.status.ok()) continue;
    sets_.try_emplace(static_cast<ProcessSetId>(completion.value), it->second);
  }
}

void SetBook::learn_joins(int rank, const protocol::Output& output) {
  uint64_t& joined = joined_[static_cast<size_t>(rank)];
  for (const protocol::Completion& completion : output.completions) {
    if (completion.ticket == joined) joined = 0;
  }
}

const std::vector<int>& SetBook::members(ProcessSetId id) const {
  static const std::vector<int> kNone;
  const auto it = sets_.find(id);
  return it == sets_.end() ? kNone : it->second;
}

std::string SetBook::set_text(ProcessSetId id) const {
  if (id == kGlobalProcessSet) return "";
  constexpr size_t kLongest = 256;  // of a list; else only their number
  const std::vector<int>& all = members(id);
  const std::string list = rank_text(all);
  const bool is_long = list.size() - std::string("ranks ").size() > kLongest;
  return " in process set " + std::to_string(id) + " (" +
         (is_long ? std::to_string(all.size()) + " ranks" : list) + ")";
}

std::vector<int> SetBook::needed(const wire::Request& request) const {
  if (request.kind != OpKind::kSendRecv) return members(request.process_set);
  return {std::min(request.root_rank, request.peer), std::max(request.root_rank, request.peer)};
}

bool SetBook::is_needed(const wire::Request& request, int rank) const {
  if (request.kind == OpKind::kSendRecv) return rank == request.root_rank || rank == request.peer;
  const std::vector<int>& all = members(request.process_set);
  return std::binary_search(all.begin(), all.end(), rank);
}

size_t SetBook::position(ProcessSetId id, int rank) const {
  const std::vector<int>& all = members(id);
  const auto it = std::lower_bound(all.begin(), all.end(), rank);
  return it != all.end() && *it == rank ? static_cast<size_t>(it - all.begin()) : all.size();
}

}  // namespace khorus::sim

// See roster.h.
#include "core/protocol/roster.h"

#include "core/protocol/tensor_key.h"

namespace khorus::protocol {
namespace {

constexpr size_t kLongestList = 256;  // a set of every other rank of many would fill a screen

}  // namespace

std::string describe_ranks(const wire::RankSet& ranks, const std::vector<PeerInfo>& peers) {
  if (ranks.count() != 1) return "ranks " + ranks.to_string();
  const auto rank = static_cast<size_t>(ranks.first());
  std::string text = "rank " + std::to_string(rank);
  if (rank < peers.size() && !peers[rank].host.empty()) text += " (" + peers[rank].host + ")";
  return text;
}

std::string describe_peer(int rank, const std::vector<PeerInfo>& peers) {
  std::string text = "rank " + std::to_string(rank);
  const auto index = static_cast<size_t>(rank);
  if (rank < 0 || index >= peers.size() || peers[index].host.empty()) return text;
  return text + " (" + peers[index].host + ", pid " + std::to_string(peers[index].pid) + ")";
}

std::string describe_set(ProcessSetId id, const ProcessSets& sets) {
  if (id == kGlobalProcessSet) return "";
  const std::string text = " in process set " + std::to_string(id);
  const wire::RankSet* members = sets.find(id);
  if (members == nullptr) return text;
  if (members->count() == 1) return text + " (rank " + members->to_string() + ")";
  const std::string list = members->to_string();
  if (list.size() > kLongestList) return text + " (" + std::to_string(members->count()) + " ranks)";
  return text + " (ranks " + list + ")";
}

std::string describe(const wire::Request& request, const ProcessSets& sets) {
  return describe(request) + describe_set(request.process_set, sets);
}

}  // namespace khorus::protocol

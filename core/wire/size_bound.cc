// What messages take at most in a frame; see codec.h.
#include <string>

#include "core/wire/codec.h"

namespace khorus::wire {
namespace {

constexpr size_t kVarintBound = 10;

size_t bound_of(const Request& request) noexcept {
  return 64 + request.name.size() + request.group.size() +
         kVarintBound * (request.shape.size() + 2 * request.members.intervals().size());
}
size_t bound_of(const std::vector<int64_t>& extents, const std::vector<Bytes>& payloads) noexcept {
  size_t bytes = kVarintBound * (2 + extents.size() + payloads.size());
  for (const Bytes& payload : payloads) bytes += payload.size();
  return bytes;
}

}  // namespace

size_t size_bound(const Contribution& contribution) noexcept {
  return bound_of(contribution.request) +
         kVarintBound * (1 + 2 * contribution.ranks.intervals().size()) +
         bound_of(contribution.extents, contribution.payloads);
}

size_t size_bound(const Response& response) noexcept {
  size_t bytes = 64 + response.error.size() + kVarintBound * response.cache_ids.size();
  for (const std::string& group : response.failed_groups) bytes += kVarintBound + group.size();
  if (!response.cache_ids.empty()) return bytes;
  for (const ResponseTensor& tensor : response.tensors) {
    bytes += bound_of(tensor.request) + bound_of(tensor.extents, tensor.payloads);
  }
  return bytes;
}

}  // namespace khorus::wire

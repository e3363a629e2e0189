// See hub.h.
#include "backends/local/hub.h"

namespace khorus::backends::local {
Hub::Hub(const std::vector<int32_t>& global_ranks)
    : global_ranks_(global_ranks), all_(global_ranks), broken_off_(global_ranks.size()) {}

Meeting& Hub::pair(size_t lower, size_t higher) {
  const std::scoped_lock lock(mutex_);
  std::unique_ptr<Meeting>& meeting = pairs_[{lower, higher}];
  if (meeting == nullptr) {
    meeting = std::make_unique<Meeting>(std::vector{global_ranks_[lower], global_ranks_[higher]});
    for (const size_t rank : {lower, higher}) {
      if (!broken_off_[rank].ok()) meeting->fail(broken_off_[rank]);
    }
  }
  return *meeting;
}

void Hub::break_off(size_t rank, const Status& status) {
  const std::scoped_lock lock(mutex_);
  if (broken_off_[rank].ok()) broken_off_[rank] = status;
  all_.fail(status);
  for (const auto& [ranks, meeting] : pairs_) {
    if (ranks.first == rank || ranks.second == rank) meeting->fail(status);
  }
}

void Hub::fail(const Status& status) {
  for (size_t rank = 0; rank < global_ranks_.size(); ++rank) break_off(rank, status);
}

}  // namespace khorus::backends::local

// See hub.h.
#include "backends/local/hub.h"

#include <sys/random.h>

#include <cerrno>
#include <system_error>
#include <tuple>

namespace khorus::backends::local {
namespace {

struct HubTable {
  std::mutex mutex;
  std::map<HubKey, std::weak_ptr<Hub>> hubs;
};
HubTable& hub_table() {
  static HubTable table;
  return table;
}

}  // namespace

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

bool HubKey::operator<(const HubKey& other) const {
  return std::tie(words[0], words[1]) < std::tie(other.words[0], other.words[1]);
}

HubKey publish(const std::shared_ptr<Hub>& hub) {
  HubKey key{};
  if (getrandom(&key, sizeof(key), 0) != static_cast<ssize_t>(sizeof(key))) {
    throw std::system_error(errno, std::generic_category(), "getrandom");
  }
  HubTable& table = hub_table();
  const std::scoped_lock lock(table.mutex);
  std::erase_if(table.hubs, [](const auto& entry) { return entry.second.expired(); });
  table.hubs[key] = hub;
  return key;
}

std::shared_ptr<Hub> find(const HubKey& key) {
  HubTable& table = hub_table();
  const std::scoped_lock lock(table.mutex);
  const auto found = table.hubs.find(key);
  return found == table.hubs.end() ? nullptr : found->second.lock();
}

}  // namespace khorus::backends::local

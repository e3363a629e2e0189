// See data_plane.h.
#include "tests/sim/data_plane.h"

#include <functional>
#include <utility>

#include "core/base/assert.h"

namespace khorus::sim {
namespace {

uint64_t meeting_of(const protocol::Execution& execution) {
  uint64_t digest = (execution.sequence * 1099511628211U) ^ execution.index;
  for (const wire::ResponseTensor& tensor : execution.response.tensors) {
    digest = digest * 1099511628211U + std::hash<std::string>()(tensor.request.name);
  }
  return digest;
}

}  // namespace

void DataPlane::enqueue(int rank, protocol::Execution execution) {
  lane(rank).queue.push_back(std::move(execution));
}

bool DataPlane::start_next(int rank, size_t ranks) {
  Lane& mine = lane(rank);
  if (mine.running || mine.queue.empty()) return false;
  mine.running = true;
  const uint64_t meeting = meeting_of(mine.queue.front());
  if (++started_[meeting] < ranks) return false;
  started_.erase(meeting);
  return true;
}

protocol::Execution DataPlane::finish(int rank) {
  Lane& mine = lane(rank);
  KHORUS_ASSERT(mine.running, "the simulator finished an execution that does not run");
  mine.running = false;
  protocol::Execution execution = std::move(mine.queue.front());
  mine.queue.pop_front();
  return execution;
}

std::deque<protocol::Execution> DataPlane::abort(int rank) {
  lane(rank).running = false;
  return std::exchange(lane(rank).queue, {});
}

}  // namespace khorus::sim

// See coordinator_thread.h. This file: how the loop fails and ends.
#include <utility>

#include "core/runtime/coordinator_thread.h"
#include "core/wire/codec.h"

namespace khorus::runtime {

// The neighbours learn why; nothing else that the node says matters any more.
void CoordinatorThread::give_up(const Status& status) {
  faulted_ = true;
  observer_.failed(status);
  options_.status_page->note_failure(status);
  groups_.abort(status.message());
  node_.data_plane_failed(status, now_us());
  for (const auto& [peer, frame] : node_.tick(now_us()).frames) {
    channel_.send(peer, wire::encode(frame));
  }
  fail_everything(status);
  close(kFaultPatience);
}

void CoordinatorThread::check_failure_deadline() {
  if (!pending_failure_.has_value() || faulted_) return;
  if (now_us() < failure_deadline_us_) return;
  node_.data_plane_failed(*pending_failure_, now_us());
  failure_deadline_us_ = protocol::kNever;
}

void CoordinatorThread::fault(const Status& status) {
  faulted_ = true;
  failure_deadline_us_ = protocol::kNever;
  observer_.failed(status);
  options_.logger->error(status.to_string());
  options_.status_page->note_failure(status);
  queue_.close(status);
  groups_.abort(status.message());
}

void CoordinatorThread::fail_everything(const Status& status) {
  std::vector<std::pair<WorkStatePtr, Status>> over;
  for (auto& [ticket, work] : works_) over.emplace_back(std::move(work), status);
  works_.clear();
  for (const auto& [work, why] : over) observer_.over(*work, why);
  finish(over);
  groups_.fail(status);
}

void CoordinatorThread::close(Clock::duration patience) {
  channel_.close(Clock::now() + patience);
  ending_ = true;
}

// Batches pushed after this thread last looked and before the queue was closed.
void CoordinatorThread::refuse_latecomers() {
  for (Batch& batch : queue_.take().batches) {
    for (size_t i = 0; i < batch.works.size(); ++i) {
      works_.emplace(batch.submissions[i].ticket, std::move(batch.works[i]));
    }
  }
  fail_everything(queue_.health());
}

}  // namespace khorus::runtime

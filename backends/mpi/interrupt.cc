// See interrupt.h.
#include "backends/mpi/interrupt.h"

#include <pthread.h>

#include <thread>
#include <utility>

namespace khorus::backends::mpi {

void Interrupt::raise(const std::string& reason) {
  const std::scoped_lock lock(mutex_);
  if (reason_.ok()) reason_ = Status(StatusCode::kAborted, reason);
  raised_.store(true, std::memory_order_release);
  changed_.notify_all();
}

Status Interrupt::status() const {
  if (!raised()) return {};
  const std::scoped_lock lock(mutex_);
  return reason_;
}

void Interrupt::pause(std::chrono::nanoseconds limit) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, limit, [this] { return raised(); });
}

bool Interrupt::run(const std::shared_ptr<Interrupt>& interrupt, std::function<void()> call) {
  const auto done = std::make_shared<bool>(false);  // guarded by the interrupt's mutex
  std::thread([interrupt, done, call = std::move(call)] {
    ::pthread_setname_np(::pthread_self(), "khorus-mpi-call");
    call();
    const std::scoped_lock lock(interrupt->mutex_);
    *done = true;
    interrupt->changed_.notify_all();
  }).detach();
  std::unique_lock lock(interrupt->mutex_);
  interrupt->changed_.wait(lock, [&] { return *done || interrupt->raised(); });
  return *done;
}

}  // namespace khorus::backends::mpi

// See memory_store.h.
#include "core/net/memory_store.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/base/assert.h"

namespace khorus::net {

// Its descriptor counts what was set since the last look().
class MemoryStore::Waiter final : public StoreWaiter {
 public:
  Waiter(MemoryStore* store, int event) : store_(store), event_(event) {
    const std::lock_guard lock(store_->mutex_);
    store_->waiters_.insert(this);
  }
  ~Waiter() override {
    {
      const std::lock_guard lock(store_->mutex_);
      store_->waiters_.erase(this);
    }
    ::close(event_);
  }
  Waiter(const Waiter&) = delete;
  Waiter& operator=(const Waiter&) = delete;

  Status begin(const std::string& key) override {
    keys_.insert(key);
    ring();  // it may be there already
    return {};
  }
  int fd() const override { return event_; }
  std::vector<Answer> look() override {
    eventfd_t count = 0;
    static_cast<void>(::eventfd_read(event_, &count));
    std::vector<Answer> answers;
    const std::lock_guard lock(store_->mutex_);
    std::erase_if(keys_, [&](const std::string& key) {
      const std::vector<std::byte>* const value = store_->table_.find(key);
      if (value != nullptr) answers.emplace_back(key, *value);
      return value != nullptr;
    });
    return answers;
  }
  void ring() noexcept {
    KHORUS_ASSERT(::eventfd_write(event_, 1) == 0, "an eventfd of the store is full or closed");
  }

 private:
  MemoryStore* const store_;
  const int event_;
  std::set<std::string> keys_;
};

Result<std::unique_ptr<StoreWaiter>> MemoryStore::make_waiter() {
  const int event = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (event >= 0) return std::unique_ptr<StoreWaiter>(new Waiter(this, event));
  return Status(StatusCode::kUnavailable, std::string("eventfd failed: ") + std::strerror(errno));
}

Status MemoryStore::set(const std::string& key, std::span<const std::byte> value) {
  const std::lock_guard lock(mutex_);
  Status status = table_.set(key, value);
  if (!status.ok()) return status;
  changed_.notify_all();
  for (Waiter* const waiter : waiters_) waiter->ring();
  return status;
}

Result<std::vector<std::byte>> MemoryStore::get(const std::string& key,
                                                std::chrono::milliseconds timeout) {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  std::unique_lock lock(mutex_);
  const std::vector<std::byte>* value = nullptr;
  if (!changed_.wait_until(lock, deadline, [&] { return (value = table_.find(key)) != nullptr; })) {
    return store_timeout(key, timeout);
  }
  return *value;
}

}  // namespace khorus::net

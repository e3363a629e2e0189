// See tcp_store.h.
#include "core/net/tcp_store.h"

#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <map>
#include <mutex>
#include <optional>
#include <utility>

#include "core/base/fork_guard.h"
#include "core/net/connection.h"
#include "core/net/dial.h"
#include "core/net/store_protocol.h"
#include "core/net/store_table.h"
#include "core/net/text_bytes.h"

namespace khorus::net {
namespace {

using Clock = std::chrono::steady_clock;

// The longest that a request can ask for: 49 days.
constexpr std::chrono::milliseconds kWithoutEnd{UINT32_MAX};

// How long the server may take to answer on top of what was asked of it.
constexpr std::chrono::milliseconds kAnswerTime{10'000};

// Until the descriptor is ready or the deadline.
void wait_for(int fd, short what, Clock::time_point deadline) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
  pollfd entry{fd, what, 0};
  // Every outcome (ready, time over, a signal) is found out by the caller's next look.
  static_cast<void>(::poll(&entry, 1, static_cast<int>(std::clamp<int64_t>(left, 0, 1 << 30))));
}

Result<std::vector<std::byte>> value_of(StoreAnswer answer) {
  if (answer.code == StatusCode::kOk) return std::move(answer.body);
  return Status(answer.code, text_of(answer.body));
}

Status forked() {
  return Status(StatusCode::kUnavailable,
                "the store belongs to the parent process; a forked child cannot use it");
}

}  // namespace

// Leader and followers: of the threads that wait for an answer one reads the socket, for all.
struct TcpStore::Impl {
  Impl(const TcpStoreOptions& options, Dialed dialed)
      : address(options.address),
        connection(std::move(dialed.stream), dialed.keys,
                   ConnectionLimits{.max_payload_bytes = kMaxStoreMessageBytes}) {}

  Result<StoreAnswer> ask(StoreRequest request, std::chrono::milliseconds limit);
  bool flush(std::unique_lock<std::mutex>* lock, Clock::time_point deadline);
  void read_or_wait(std::unique_lock<std::mutex>* lock, Clock::time_point deadline);
  void receive();
  Status gone() const {
    return Status(StatusCode::kUnavailable,
                  "the store at " + address + " is gone: " + failure.message());
  }

  const std::string address;
  const uint64_t fork_generation = base::fork_generation();
  std::mutex mutex;
  std::condition_variable changed;  // an answer came, the reader left, or the connection failed
  Connection connection;
  std::map<uint32_t, std::optional<StoreAnswer>> asked;
  uint32_t next_id = 1;
  bool has_reader = false;
  Status failure;  // of the connection; stays
};

Result<StoreAnswer> TcpStore::Impl::ask(StoreRequest request, std::chrono::milliseconds limit) {
  const auto deadline = Clock::now() + limit;
  std::unique_lock lock(mutex);
  if (!failure.ok()) return gone();
  request.id = next_id++;
  const auto entry = asked.emplace(request.id, std::nullopt).first;
  failure = connection.send(encode(request));
  const bool sent = flush(&lock, deadline);
  while (sent && failure.ok() && !entry->second && Clock::now() < deadline) {
    read_or_wait(&lock, deadline);
  }
  std::optional<StoreAnswer> answer = std::move(entry->second);
  asked.erase(entry);
  changed.notify_all();  // another may have to become the reader
  if (answer) return std::move(*answer);
  if (!failure.ok()) return gone();
  return Status(StatusCode::kUnavailable, "the store at " + address + " does not answer");
}

// False when the time was over before everything was written.
bool TcpStore::Impl::flush(std::unique_lock<std::mutex>* lock, Clock::time_point deadline) {
  while (failure.ok() && connection.has_unsent()) {
    if (Clock::now() >= deadline) return false;
    const int fd = connection.socket().fd();
    lock->unlock();
    wait_for(fd, POLLOUT, deadline);
    lock->lock();
    if (failure.ok()) failure = connection.flush();
  }
  return true;
}

void TcpStore::Impl::read_or_wait(std::unique_lock<std::mutex>* lock, Clock::time_point deadline) {
  if (has_reader) {
    changed.wait_until(*lock, deadline);
    return;
  }
  has_reader = true;
  const int fd = connection.socket().fd();
  lock->unlock();
  wait_for(fd, POLLIN, deadline);
  lock->lock();
  has_reader = false;
  receive();
  changed.notify_all();
}

void TcpStore::Impl::receive() {
  bool valid = true;
  Status status = connection.receive([&](std::span<const std::byte> payload) {
    std::optional<StoreAnswer> answer = decode_store_answer(payload);
    valid = valid && answer.has_value();
    if (!answer) return;
    // An answer whose asker has given up has no entry any more.
    if (const auto found = asked.find(answer->id); found != asked.end()) {
      found->second = std::move(*answer);
    }
  });
  if (!valid) status = Status(StatusCode::kPermissionDenied, "it sent an answer of another form");
  if (failure.ok()) failure = status;
}

// Its requests are like those of threads that wait in ask(), but nobody sleeps in them. The server
// forgets them when the connection ends.
class TcpStore::Waiter final : public StoreWaiter {
 public:
  explicit Waiter(Impl* store) : store_(store) {}
  ~Waiter() override {
    const std::lock_guard lock(store_->mutex);
    for (const auto& [id, key] : keys_) store_->asked.erase(id);
  }
  Waiter(const Waiter&) = delete;
  Waiter& operator=(const Waiter&) = delete;

  Status begin(const std::string& key) override;
  int fd() const override { return store_->connection.socket().fd(); }
  std::vector<Answer> look() override;

 private:
  Impl* const store_;
  std::map<uint32_t, std::string> keys_;  // by request
};

Status TcpStore::Waiter::begin(const std::string& key) {
  std::unique_lock lock(store_->mutex);
  if (!store_->failure.ok()) return store_->gone();
  StoreRequest request;
  request.id = store_->next_id++;
  request.key = key;
  request.timeout = kWithoutEnd;
  store_->asked.emplace(request.id, std::nullopt);
  keys_.emplace(request.id, key);
  store_->failure = store_->connection.send(encode(request));
  const bool sent = store_->flush(&lock, Clock::now() + kAnswerTime);
  if (sent && store_->failure.ok()) return {};
  return store_->gone();
}

std::vector<StoreWaiter::Answer> TcpStore::Waiter::look() {
  const std::lock_guard lock(store_->mutex);
  if (store_->failure.ok()) store_->receive();
  std::vector<Answer> answers;
  std::erase_if(keys_, [&](const auto& entry) {
    const auto& [id, key] = entry;
    std::optional<StoreAnswer>& answer = store_->asked.at(id);
    if (answer) {
      answers.emplace_back(key, value_of(std::move(*answer)));
    } else if (!store_->failure.ok()) {
      answers.emplace_back(key, store_->gone());
    } else {
      return false;
    }
    store_->asked.erase(id);
    return true;
  });
  return answers;
}

TcpStore::TcpStore(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

TcpStore::~TcpStore() {
  // In a forked child the mutex may be held by a thread that does not exist.
  if (base::fork_generation() != impl_->fork_generation) static_cast<void>(impl_.release());
}

Result<std::unique_ptr<TcpStore>> TcpStore::connect(const TcpStoreOptions& options) {
  const Result<std::vector<Address>> addresses = resolve(options.address);
  if (!addresses.ok()) return addresses.status();
  DialOptions dial;
  dial.key = options.key;
  dial.self = {Role::kStoreClient, options.rank, 0, options.job_id};
  dial.self.tls = options.tls;
  dial.peer_role = Role::kStoreServer;
  dial.deadline = Clock::now() + options.timeout;
  Status last;
  for (const Address& address : *addresses) {
    dial.address = address;
    Result<Dialed> dialed = dial_and_wait(dial);
    if (dialed.ok()) {
      return std::unique_ptr<TcpStore>(
          new TcpStore(std::make_unique<Impl>(options, std::move(*dialed))));
    }
    last = Status(dialed.status().code(), "no connection to the job's store " + options.address +
                                              ": " + dialed.status().message());
    if (last.code() != StatusCode::kUnavailable) break;
  }
  return last;
}

Status TcpStore::set(const std::string& key, std::span<const std::byte> value) {
  if (base::fork_generation() != impl_->fork_generation) return forked();
  const StoreLimits limits;
  if (key.size() > limits.max_key_bytes || value.size() > limits.max_value_bytes) {
    return Status(StatusCode::kInvalidArgument,
                  "a store key has at most 256 bytes and a value 65536; \"" + key.substr(0, 256) +
                      "\" has " + std::to_string(key.size()) + " and " +
                      std::to_string(value.size()));
  }
  StoreRequest request;
  request.kind = StoreRequest::Kind::kSet;
  request.key = key;
  request.value.assign(value.begin(), value.end());
  const Result<StoreAnswer> answer = impl_->ask(std::move(request), kAnswerTime);
  if (!answer.ok()) return answer.status();
  if (answer->code == StatusCode::kOk) return {};
  return Status(answer->code, text_of(answer->body));
}

Result<std::vector<std::byte>> TcpStore::get(const std::string& key,
                                             std::chrono::milliseconds timeout) {
  if (base::fork_generation() != impl_->fork_generation) return forked();
  if (key.size() > StoreLimits().max_key_bytes) {
    return Status(StatusCode::kInvalidArgument, "a store key has at most 256 bytes");
  }
  StoreRequest request;
  request.key = key;
  request.timeout = timeout;
  Result<StoreAnswer> answer = impl_->ask(std::move(request), timeout + kAnswerTime);
  if (!answer.ok()) return answer.status();
  if (answer->code == StatusCode::kTimeout) return store_timeout(key, timeout);
  return value_of(std::move(*answer));
}

Result<std::unique_ptr<StoreWaiter>> TcpStore::make_waiter() {
  if (base::fork_generation() != impl_->fork_generation) return forked();
  return std::unique_ptr<StoreWaiter>(new Waiter(impl_.get()));
}

}  // namespace khorus::net

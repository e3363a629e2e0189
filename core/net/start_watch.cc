// See start_watch.h.
#include "core/net/start_watch.h"

#include <unistd.h>

#include <map>
#include <optional>
#include <utility>

#include "core/net/ended_ranks.h"
#include "core/net/quoted.h"
#include "core/net/text_bytes.h"
#include "core/net/watch.h"

namespace khorus::net {

// Pending waits know it weakly: one that is over when this goes finds nobody.
class StartWatch::State : public std::enable_shared_from_this<State> {
 public:
  State(asio::io_context& io, StartWatchOptions options, std::unique_ptr<StoreWaiter> store)
      : io_(io),
        options_(std::move(options)),
        store_(std::move(store)),
        store_readable_(io, store_->fd()) {}

  Status start() {
    Status status = store_->begin(ended_key(next_ended_));
    if (status.ok() && options_.parent >= 0) status = store_->begin(options_.parent_address);
    if (status.ok() && !options_.next_round.empty()) status = store_->begin(options_.next_round);
    if (status.ok() && watches_processes()) status = meet_neighbours();
    if (!status.ok()) return store_is_gone(status);
    hear();
    return status;
  }

  bool may_hear() const { return options_.ends_are_told || watches_processes(); }

 private:
  bool watches_processes() const {
    return !options_.ends_are_told && options_.processes.open != nullptr;
  }

  Status meet_neighbours() {
    std::vector<int> neighbours = options_.children;
    if (options_.parent >= 0) neighbours.push_back(options_.parent);
    for (const int rank : neighbours) {
      const std::string key = process_key(options_.epoch, rank);
      neighbours_.emplace(key, rank);
      if (Status status = store_->begin(key); !status.ok()) return status;
    }
    return {};
  }

  void hear() {
    store_readable_.wait(Watch::kRead, [weak = weak_from_this()](const ErrorCode& error) {
      const std::shared_ptr<State> self = weak.lock();
      if (error || self == nullptr) return;
      self->take_answers();
      if (!self->is_in_vain_) self->hear();
    });
  }

  void take_answers() {
    for (const auto& [key, value] : store_->look()) on_answer(key, value);
  }

  void on_answer(const std::string& key, const Result<std::vector<std::byte>>& value) {
    if (const auto neighbour = neighbours_.find(key); neighbour != neighbours_.end()) {
      // The store bounds how many one rank may wait for; those beyond are not watched.
      if (value.ok()) watch_process(neighbour->second, text_of(*value));
    } else if (!value.ok()) {
      in_vain(store_is_gone(value.status()));
    } else if (key == options_.parent_address) {
      options_.on_parent_address(text_of(*value));
    } else if (key == options_.next_round) {
      in_vain(Status(StatusCode::kPeerLost,
                     "the ranks meet anew, as said by " + printable(text_of(*value))));
    } else {
      on_ended(*value);
    }
  }

  void on_ended(const std::vector<std::byte>& value) {
    const std::optional<EndedRank> ended = decode_ended_rank(value);
    if (ended && ended->rank < options_.size) return in_vain(describe(*ended));
    // Not one of those that meet here.
    if (Status status = store_->begin(ended_key(++next_ended_)); !status.ok()) {
      in_vain(store_is_gone(status));
    }
  }

  Status store_is_gone(const Status& why) const {
    if (options_.store_rank < 0) return why;
    return Status(
        StatusCode::kPeerLost,
        "rank " + std::to_string(options_.store_rank) +
            " has ended before all had met, and with it the store that it served: " + why.message(),
        options_.store_rank);
  }

  static Status describe(const EndedRank& ended) {
    return Status(StatusCode::kPeerLost,
                  "rank " + std::to_string(ended.rank) + " on " + ended.where +
                      " has ended before all had met: " + ended.how,
                  ended.rank);
  }

  void watch_process(int rank, const std::string& process) {
    const ProcessTable::Handle handle = options_.processes.open(process);
    if (handle.fd < 0) return;
    auto end = std::make_unique<asio::posix::stream_descriptor>(io_);
    ErrorCode error;
    end->assign(handle.fd, error);
    if (error) {
      ::close(handle.fd);  // the system has no more room for this: it is not watched
      return;
    }
    end->async_wait(asio::posix::stream_descriptor::wait_read,
                    [weak = weak_from_this(), rank, pid = handle.pid](const ErrorCode& failed) {
                      const std::shared_ptr<State> self = weak.lock();
                      if (!failed && self != nullptr) self->on_process_ended(rank, pid);
                    });
    processes_.push_back(std::move(end));
  }

  void on_process_ended(int rank, int64_t pid) {
    const EndedRank ended{rank, options_.host + " (pid " + std::to_string(pid) + ")",
                          "its process is gone; see its output for the reason"};
    uint64_t number = next_ended_;
    const Status told = tell_end(*options_.store, &number, ended);
    take_answers();  // that of ended_key(next_ended_) among them
    if (!told.ok()) in_vain(describe(ended));
  }

  void in_vain(const Status& why) {
    if (std::exchange(is_in_vain_, true)) return;
    options_.on_vain(why);
  }

  asio::io_context& io_;
  const StartWatchOptions options_;
  const std::unique_ptr<StoreWaiter> store_;
  Watch store_readable_;  // before the store's descriptor can be closed, it lets go of it
  uint64_t next_ended_ = 0;
  std::map<std::string, int> neighbours_;  // ranks by the key of their process
  std::vector<std::unique_ptr<asio::posix::stream_descriptor>> processes_;
  bool is_in_vain_ = false;
};

StartWatch::StartWatch(std::shared_ptr<State> state) : state_(std::move(state)) {}

StartWatch::~StartWatch() = default;

bool StartWatch::may_hear() const noexcept { return state_->may_hear(); }

Result<std::unique_ptr<StartWatch>> StartWatch::start(asio::io_context& io,
                                                      StartWatchOptions options) {
  Result<std::unique_ptr<StoreWaiter>> store = options.store->make_waiter();
  if (!store.ok()) return store.status();
  auto state = std::make_shared<State>(io, std::move(options), std::move(*store));
  if (Status status = state->start(); !status.ok()) return status;
  return std::unique_ptr<StartWatch>(new StartWatch(std::move(state)));
}

}  // namespace khorus::net

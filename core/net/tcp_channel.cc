// See tcp_channel.h: how the control tree is connected.
#include "core/net/tcp_channel.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

#include "core/base/assert.h"
#include "core/net/acceptor.h"
#include "core/net/dial.h"
#include "core/net/ended_ranks.h"
#include "core/net/text_bytes.h"
#include "core/net/tree_links.h"
#include "core/net/watch.h"
#include "core/wire/rank_set.h"

namespace khorus::net {
namespace {

using Clock = std::chrono::steady_clock;

// The first frame of a child and of the parent. Documented in HANDSHAKE.md.
constexpr std::string_view kReady = "ready";  // my whole subtree is connected
constexpr std::string_view kGo = "go";        // the whole tree is

// When a neighbour has gone: how long to wait for word of who ended first. It is under way already.
constexpr std::chrono::milliseconds kWordOfEnd{1'000};

Result<Address> address_to_listen_on(const TreeOptions& options) {
  if (!options.network_interface.empty()) return interface_address(options.network_interface);
  if (options.all_local) return loopback_address();
  if (options.store_address.empty()) {
    return Status(StatusCode::kInvalidArgument,
                  "the ranks are on several hosts and nothing says which network to use; set "
                  "KHORUS_NETWORK_INTERFACE");
  }
  const Result<std::vector<Address>> store = resolve(options.store_address);
  if (!store.ok()) return store.status();
  return address_towards(store->front());
}

// One rank's part in connecting the tree.
class Meeting {
 public:
  Meeting(const TreeOptions& options, std::unique_ptr<asio::io_context> io)
      : options_(options),
        started_(Clock::now()),
        deadline_(started_ + options.timeout),
        links_(std::make_unique<TreeLinks>(std::move(io))) {}

  Result<std::unique_ptr<ControlChannel>> run() {
    if (Status status = listen_and_publish(); !status.ok()) return status;  // nobody is to blame
    Status status = watch_others();
    if (status.ok()) status = meet();
    acceptor_.reset();
    if (status.code() == StatusCode::kUnavailable) status = cause_of(status);
    watch_.reset();
    if (!status.ok()) return explain(status);
    links_->reset_stats();
    return std::unique_ptr<ControlChannel>(std::move(links_));
  }

 private:
  Status meet() {
    std::vector<ChannelEvent> events;
    while (!tell_ready()) {
      if (failure_) return *failure_;
      if (Clock::now() >= deadline_) return Status(StatusCode::kTimeout, "");
      links_->poll(deadline_, &events);
      if (Status status = take(&events); !status.ok()) return status;
    }
    for (const int child : options_.children) send(child, kGo);
    links_->watch_silence(options_.liveness_timeout);
    links_->put_back(std::move(early_));
    return {};
  }

  Status listen_and_publish() {
    const Result<Address> address = address_to_listen_on(options_);
    if (!address.ok()) return address.status();
    Result<Socket> listening = Socket::listen(*address);
    if (!listening.ok()) return listening.status();
    const std::string text = listening->local_address().to_string();
    if (Status status = publish_process(); !status.ok()) return status;
    if (!options_.children.empty()) {
      acceptor_.emplace(links_->io(), std::move(*listening), acceptor_options());
      acceptor_->start();
    }
    return options_.store->set(address_key(options_.epoch, options_.rank), bytes_of(text));
  }

  Identity identity() const {
    Identity self{Role::kRank, options_.rank, options_.epoch, options_.job_id};
    self.tls = options_.tls;
    return self;
  }

  AcceptorOptions acceptor_options() {
    AcceptorOptions out;
    out.key = options_.key;
    out.self = identity();
    out.peer_role = Role::kRank;
    out.max_strangers = options_.max_strangers;
    out.stranger_timeout = options_.stranger_timeout;
    out.admission = [this](int32_t rank) { return admit(rank); };
    out.on_member = [this](int32_t rank, Stream stream, const SessionKeys& keys) {
      links_->add(rank, std::move(stream), keys);
      links_->wake();
    };
    out.on_refused = [this](int32_t, const Status& why) { last_refusal_ = why.message(); };
    return out;
  }

  Status admit(int32_t rank) const {
    const std::string who = "rank " + std::to_string(rank);
    const std::string self = "rank " + std::to_string(options_.rank);
    if (std::ranges::find(options_.children, rank) == options_.children.end()) {
      return Status(StatusCode::kPermissionDenied, who + " is no child of " + self);
    }
    if (links_->has(rank)) {
      return Status(
          StatusCode::kPermissionDenied,
          who + " is connected to " + self + " already: a second process claims its rank");
    }
    return {};
  }

  // Before the address: who reads that may read this.
  Status publish_process() {
    if (options_.ends_are_told || options_.processes.self == nullptr) return {};
    const std::string process = options_.processes.self();
    return options_.store->set(process_key(options_.epoch, options_.rank), bytes_of(process));
  }

  Status watch_others() {
    StartWatchOptions watch;
    watch.store = options_.store;
    watch.store_rank = options_.store_rank;
    watch.size = options_.size;
    watch.epoch = options_.epoch;
    watch.parent = options_.parent;
    watch.children = options_.children;
    watch.host = options_.host;
    watch.ends_are_told = options_.ends_are_told;
    watch.processes = options_.processes;
    watch.next_round = options_.next_round;
    watch.parent_address = address_key(options_.epoch, options_.parent);
    watch.on_parent_address = [this](const std::string& text) {
      const Result<Address> address = numeric_address(text);
      if (!address.ok()) return fail(address.status());
      call_parent(*address);
    };
    watch.on_vain = [this](const Status& why) {
      told_ = why;
      fail(why);
    };
    Result<std::unique_ptr<StartWatch>> started = StartWatch::start(links_->io(), std::move(watch));
    if (started.ok()) watch_ = std::move(*started);
    return started.status();
  }

  void call_parent(const Address& address) {
    const DialOptions dial_options{address,     options_.key,    identity(),
                                   Role::kRank, options_.parent, deadline_};
    dial(links_->io(), dial_options, [this](Result<Dialed> dialed) {
      if (!dialed.ok()) {
        return fail(
            Status(dialed.status().code(), "rank " + std::to_string(options_.parent) +
                                               " cannot be reached: " + dialed.status().message()));
      }
      links_->wake();
      if (!is_over_) links_->add(options_.parent, std::move(dialed->stream), dialed->keys);
    });
  }

  // The first failure counts.
  void fail(const Status& why) {
    if (!failure_) failure_ = why;
    links_->wake();
  }

  // A neighbour has gone, often because another rank ended before: whoever sees that tells all.
  // This rank's own connections end first, so that its neighbours do not wait for it.
  Status cause_of(const Status& status) {
    is_over_ = true;
    links_->close(Clock::now());
    if (watch_ == nullptr || !watch_->may_hear()) return status;
    const auto until = std::min(deadline_, Clock::now() + kWordOfEnd);
    std::vector<ChannelEvent> ignored;
    while (!told_ && Clock::now() < until) links_->poll(until, &ignored);
    return told_ && told_->code() == StatusCode::kPeerLost ? *told_ : status;
  }

  // Sends ready up as soon as it is true. True: the whole tree is connected.
  bool tell_ready() {
    if (ready_.size() < options_.children.size()) return false;
    if (options_.parent < 0) return true;
    if (!told_ready_ && links_->has(options_.parent)) {
      send(options_.parent, kReady);
      told_ready_ = true;
    }
    return go_;
  }

  void send(int peer, std::string_view word) { links_->send(peer, bytes_of(word)); }

  Status take(std::vector<ChannelEvent>* events) {
    for (ChannelEvent& event : *events) {
      if (event.kind == ChannelEvent::Kind::kClosed) {
        return Status(StatusCode::kUnavailable, "rank " + std::to_string(event.peer) + " " +
                                                    event.reason + " during the start");
      }
      const std::string word = text_of(event.frame);
      if (go_) {
        early_.push_back(std::move(event));
      } else if (event.peer == options_.parent && word == kGo) {
        go_ = true;
      } else if (event.peer != options_.parent && word == kReady) {
        ready_.insert(event.peer);
      } else {
        return Status(StatusCode::kInternal,
                      "rank " + std::to_string(event.peer) + " sent a frame before the start");
      }
    }
    events->clear();
    return {};
  }

  // Every rank publishes its address first: the store knows who has not come.
  wire::RankSet absent_ranks() const {
    wire::RankSet absent;
    for (int rank = 0; rank < options_.size; ++rank) {
      const auto value =
          options_.store->get(address_key(options_.epoch, rank), std::chrono::milliseconds(0));
      if (value.ok()) continue;
      if (value.status().code() != StatusCode::kTimeout) return {};  // the store itself is gone
      absent.add(rank);
    }
    return absent;
  }

  Status explain(const Status& status) const {
    const bool lost = status.code() == StatusCode::kPeerLost;
    const bool waited = status.code() == StatusCode::kTimeout;
    if (!lost && !waited && status.code() != StatusCode::kUnavailable) return status;
    char seconds[32];
    std::snprintf(seconds, sizeof seconds, "%.1f s",
                  std::chrono::duration<double>(Clock::now() - started_).count());
    std::string text = "rank " + std::to_string(options_.rank) +
                       (options_.host.empty() ? "" : " on " + options_.host) + " waited " +
                       seconds + " for the job's " + std::to_string(options_.size) + " ranks: ";
    if (lost) return Status(status.code(), text + status.message(), status.lost_rank());
    const wire::RankSet absent = absent_ranks();
    if (!absent.empty()) {
      text += (absent.count() == 1 ? "rank " : "ranks ") + absent.to_string() +
              " did not come; see whether they were started and what they printed, or raise "
              "KHORUS_START_TIMEOUT";
      return Status(StatusCode::kTimeout, text);
    }
    text += status.message().empty() ? "all were started, but " + unfinished() : status.message();
    if (!last_refusal_.empty()) text += "; the last connection was refused: " + last_refusal_;
    return Status(status.code(), text);
  }

  std::string unfinished() const {
    wire::RankSet not_connected;
    wire::RankSet not_ready;
    for (const int child : options_.children) {
      if (!links_->has(child)) {
        not_connected.add(child);
      } else if (!ready_.contains(child)) {
        not_ready.add(child);
      }
    }
    if (options_.parent >= 0 && !links_->has(options_.parent)) not_connected.add(options_.parent);
    if (!not_connected.empty()) return "rank " + not_connected.to_string() + " did not connect";
    if (!not_ready.empty()) return "below rank " + not_ready.to_string() + " ranks did not connect";
    return "rank " + std::to_string(options_.parent) + " still waits for others";
  }

  const TreeOptions& options_;
  const Clock::time_point started_;
  const Clock::time_point deadline_;
  std::unique_ptr<TreeLinks> links_;
  std::unique_ptr<StartWatch> watch_;
  std::optional<Acceptor> acceptor_;
  std::set<int> ready_;  // children whose subtree is connected
  bool told_ready_ = false;
  bool go_ = false;
  std::vector<ChannelEvent> early_;  // frames that came behind go
  std::optional<Status> failure_;
  std::optional<Status> told_;  // by watch_
  bool is_over_ = false;        // nobody connects any more
  std::string last_refusal_;
};

}  // namespace

std::string address_key(uint64_t epoch, int rank) {
  return "addr/" + std::to_string(epoch) + "/" + std::to_string(rank);
}

Result<std::unique_ptr<ControlChannel>> connect_tree(const TreeOptions& options) {
  KHORUS_ASSERT(options.store != nullptr, "connect_tree() needs a store");
  KHORUS_ASSERT(options.rank >= 0 && options.rank < options.size, "rank is not within the size");
  Result<std::unique_ptr<asio::io_context>> io = make_io_context();
  if (!io.ok()) return io.status();
  return Meeting(options, std::move(*io)).run();
}

}  // namespace khorus::net

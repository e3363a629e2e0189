// See acceptor.h.
#include "core/net/acceptor.h"

#include <algorithm>
#include <set>
#include <utility>

#include "core/net/fixed_read.h"
#include "core/net/watch.h"

namespace khorus::net {
namespace {

// How long to wait for a free descriptor when the system is out of them.
constexpr std::chrono::milliseconds kNoDescriptorPause{100};

}  // namespace

// One connection that has not authenticated yet. Kept alive by its pending wait; `alive_` turns
// false once, when it leaves its slot.
class Acceptor::State : public std::enable_shared_from_this<Acceptor::State> {
 public:
  State(asio::io_context& io, Socket listening, AcceptorOptions options)
      : options_(std::move(options)),
        io_(io),
        listening_(std::move(listening)),
        watch_(io, listening_.fd()),
        pause_(io) {}
  ~State() { stop(); }

  void accept_next();
  void stop() noexcept;

 private:
  class Stranger;
  void accept_all();
  bool full() const {
    return strangers_.size() >= static_cast<size_t>(std::max(options_.max_strangers, 1));
  }
  void leave(const std::shared_ptr<Stranger>& stranger);
  void refuse(const std::shared_ptr<Stranger>& stranger, int32_t rank, const Status& why);
  // Made for the first who needs it.
  Result<std::shared_ptr<const TlsContext>> tls_context();

  AcceptorOptions options_;
  asio::io_context& io_;
  Socket listening_;
  Watch watch_;  // borrows listening_'s descriptor
  asio::steady_timer pause_;
  std::set<std::shared_ptr<Stranger>> strangers_;
  std::shared_ptr<const TlsContext> tls_context_;
  bool waiting_ = false;
  bool stopped_ = false;
};

// One connection that has not authenticated yet. Kept alive by its pending waits; `alive_` turns
// false once, when it leaves its slot.
class Acceptor::State::Stranger : public std::enable_shared_from_this<Stranger> {
 public:
  Stranger(State* state, Socket socket)
      : state_(state),
        stream_(std::move(socket)),
        watch_(state->io_, stream_.socket().fd()),
        deadline_(state->io_),
        handshake_(state->options_.key, state->options_.self, state->options_.peer_role,
                   state->options_.admission) {}
  ~Stranger() { close(); }

  void start() {
    deadline_.expires_at(came_ + state_->options_.stranger_timeout);
    deadline_.async_wait([self = shared_from_this()](const ErrorCode& error) {
      if (error || !self->alive_) return;
      self->refuse(Status(StatusCode::kTimeout, self->confirmed_
                                                    ? "a peer did not begin TLS in time"
                                                    : "a peer did not authenticate in time"));
    });
    wait();
  }

  void close() noexcept {
    alive_ = false;
    resting_ = false;
    deadline_.cancel();
    watch_.release();
    stream_.socket().close();
  }

  // Closes it; its slot is left when it has been taken for long enough.
  void turn_away() {
    close();
    resting_ = true;
    deadline_.expires_at(came_ + state_->options_.slot_rest);
    deadline_.async_wait([self = shared_from_this()](const ErrorCode& error) {
      if (!error && self->resting_) self->state_->leave(self);
    });
  }

 private:
  void wait() {
    watch_.wait(Watch::kRead, [self = shared_from_this()](const ErrorCode& error) {
      if (!error && self->alive_) self->on_readable();
    });
  }

  void on_readable() {
    if (confirmed_) return go_on_with_tls();
    Socket* const socket = &stream_.socket();
    const FixedReadResult result = greeted_ ? confirm_.read(socket) : hello_.read(socket);
    if (result.state == FixedReadResult::State::kMore) return wait();
    if (result.state == FixedReadResult::State::kOver) {
      return refuse(Status(StatusCode::kUnavailable,
                           "a peer " + result.reason + " before it had authenticated"));
    }
    if (greeted_) return confirm();
    greet();
  }

  void greet() {
    const ResponderHandshake::Answer answer = handshake_.receive_hello(hello_.bytes());
    // A fresh socket takes these few bytes whole; one that does not is not worth waiting for.
    const bool written =
        !answer.has_bytes || stream_.write_some(answer.bytes).bytes == answer.bytes.size();
    if (!answer.status.ok()) return refuse(answer.status);
    if (!written) {
      return refuse(Status(StatusCode::kUnavailable, "a peer does not take our answer"));
    }
    greeted_ = true;
    on_readable();
  }

  void confirm() {
    if (Status status = handshake_.receive_confirm(confirm_.bytes()); !status.ok()) {
      return refuse(status);
    }
    confirmed_ = true;
    if (!state_->options_.self.tls) return finish();
    const auto context = state_->tls_context();
    if (!context.ok()) return refuse(context.status());
    stream_.start_tls(*context, Tls::Side::kResponder, handshake_.tls_secret());
    wait();
  }

  void go_on_with_tls() {
    const Tls::Progress progress = stream_.handshake_tls();
    if (progress.state == Tls::Progress::State::kMore) return wait();
    if (progress.state == Tls::Progress::State::kOver) {
      return refuse(
          Status(StatusCode::kUnavailable, "rank " + std::to_string(handshake_.peer_rank()) + " " +
                                               progress.reason + " before TLS stood"));
    }
    // Since it confirmed, another may have come as this rank.
    const Status admitted = state_->options_.admission(handshake_.peer_rank());
    if (!admitted.ok()) return refuse(admitted);
    finish();
  }

  void refuse(const Status& why) {
    state_->refuse(shared_from_this(), handshake_.peer_rank(), why);
  }

  void finish() {
    const auto self = shared_from_this();
    alive_ = false;
    deadline_.cancel();
    watch_.release();
    state_->leave(self);
    state_->options_.on_member(handshake_.peer_rank(), std::move(stream_), handshake_.keys());
  }

  State* state_;  // outlives us while alive_ or resting_
  const std::chrono::steady_clock::time_point came_ = std::chrono::steady_clock::now();
  Stream stream_;
  Watch watch_;
  asio::steady_timer deadline_;
  ResponderHandshake handshake_;
  FixedRead<kHelloBytes> hello_;
  FixedRead<kConfirmBytes> confirm_;
  bool greeted_ = false;
  bool confirmed_ = false;
  bool alive_ = true;
  bool resting_ = false;
};

void Acceptor::State::accept_next() {
  if (stopped_ || full() || std::exchange(waiting_, true)) return;
  watch_.wait(Watch::kRead, [self = shared_from_this()](const ErrorCode& error) {
    self->waiting_ = false;
    if (!error && !self->stopped_) self->accept_all();
  });
}

void Acceptor::State::accept_all() {
  while (!stopped_ && !full()) {
    Result<std::optional<Socket>> accepted = listening_.accept();
    if (!accepted.ok()) {
      pause_.expires_after(kNoDescriptorPause);
      pause_.async_wait([self = shared_from_this()](const ErrorCode& error) {
        if (!error) self->accept_next();
      });
      options_.on_refused(-1, accepted.status());
      return;
    }
    if (!*accepted) break;
    auto stranger = std::make_shared<Stranger>(this, std::move(**accepted));
    strangers_.insert(stranger);
    stranger->start();
  }
  accept_next();
}

void Acceptor::State::leave(const std::shared_ptr<Stranger>& stranger) {
  strangers_.erase(stranger);
  accept_next();
}

void Acceptor::State::refuse(const std::shared_ptr<Stranger>& stranger, int32_t rank,
                             const Status& why) {
  stranger->turn_away();
  options_.on_refused(rank, why);
}

Result<std::shared_ptr<const TlsContext>> Acceptor::State::tls_context() {
  if (tls_context_ == nullptr) {
    auto made = TlsContext::make();
    if (!made.ok()) return made;
    tls_context_ = std::move(*made);
  }
  return tls_context_;
}

void Acceptor::State::stop() noexcept {
  if (std::exchange(stopped_, true)) return;
  for (const auto& stranger : strangers_) stranger->close();
  strangers_.clear();
  pause_.cancel();
  watch_.release();
  listening_.close();
}

Acceptor::Acceptor(asio::io_context& io, Socket listening, AcceptorOptions options)
    : state_(std::make_shared<State>(io, std::move(listening), std::move(options))) {}

Acceptor::~Acceptor() { state_->stop(); }
void Acceptor::start() { state_->accept_next(); }
void Acceptor::stop() noexcept { state_->stop(); }

}  // namespace khorus::net

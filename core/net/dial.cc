// See dial.h.
#include "core/net/dial.h"

#include <memory>
#include <optional>
#include <utility>

#include "core/net/fixed_read.h"
#include "core/net/watch.h"

namespace khorus::net {
namespace {

// One attempt: connect, hello, answer, confirm, perhaps TLS. Kept alive by its pending waits.
class Dial : public std::enable_shared_from_this<Dial> {
 public:
  using OnDone = std::function<void(Result<Dialed>)>;

  Dial(asio::io_context& io, const DialOptions& options, OnDone on_done)
      : options_(options),
        watch_(io),
        timer_(io),
        handshake_(options.key, options.self, options.peer_role, options.peer_rank),
        on_done_(std::move(on_done)) {}

  void start() {
    timer_.expires_at(options_.deadline);
    timer_.async_wait([self = shared_from_this()](const ErrorCode& error) {
      if (!error) self->time_out();
    });
    Result<Socket> socket = Socket::start_connect(options_.address);
    if (!socket.ok()) {
      asio::post(watch_.executor(),
                 [self = shared_from_this(), status = socket.status()] { self->finish(status); });
      return;
    }
    stream_ = std::move(*socket);
    watch_.assign(stream_.socket().fd());
    wait(Watch::kWrite, &Dial::on_connected);
  }

 private:
  void wait(Watch::What what, void (Dial::*then)()) {
    watch_.wait(what, [self = shared_from_this(), then](const ErrorCode& error) {
      if (!error && self->on_done_) ((*self).*then)();
    });
  }

  void on_connected() {
    if (Status status = stream_.socket().connect_result(options_.address); !status.ok()) {
      return finish(status);
    }
    const Result<HelloBytes> hello = handshake_.hello();
    if (!hello.ok()) return finish(hello.status());
    if (stream_.write_some(*hello).bytes != hello->size()) return finish(hung_up("took no hello"));
    step_ = "it has accepted the connection but does not answer our hello";
    wait(Watch::kRead, &Dial::on_answer);
  }

  void on_answer() {
    const FixedReadResult read = answer_.read(&stream_.socket());
    if (read.state == FixedReadResult::State::kMore) {
      return wait(Watch::kRead, &Dial::on_answer);
    }
    if (read.state == FixedReadResult::State::kOver) return finish(hung_up(read.reason));
    const Result<ConfirmBytes> confirm = handshake_.receive_hello(answer_.bytes());
    if (!confirm.ok()) {
      return finish(Status(confirm.status().code(),
                           options_.address.to_string() + ": " + confirm.status().message()));
    }
    if (stream_.write_some(*confirm).bytes != confirm->size()) {
      return finish(hung_up("took no confirmation"));
    }
    if (options_.self.tls) return start_tls();
    finish(Dialed{Stream(), handshake_.keys()});
  }

  void start_tls() {
    const auto context = TlsContext::make();
    if (!context.ok()) return finish(context.status());
    stream_.start_tls(*context, Tls::Side::kInitiator, handshake_.tls_secret());
    step_ = "it knows the key, but does not answer under TLS";
    go_on_with_tls();
  }

  void go_on_with_tls() {
    const Tls::Progress progress = stream_.handshake_tls();
    switch (progress.state) {
      case Tls::Progress::State::kMore:
        return wait(Watch::kRead, &Dial::go_on_with_tls);
      case Tls::Progress::State::kOver:
        return finish(hung_up(progress.reason));
      case Tls::Progress::State::kDone:
        return finish(Dialed{Stream(), handshake_.keys()});
    }
  }

  Status hung_up(const std::string& how) const {
    return Status(StatusCode::kUnavailable,
                  "the peer at " + options_.address.to_string() + " " + how +
                      " during the handshake; is it of this job, and the same Khorus?");
  }

  void time_out() {
    finish(Status(StatusCode::kTimeout, "the peer at " + options_.address.to_string() +
                                            " did not authenticate in time: " + step_));
  }

  void finish(Result<Dialed> result) {
    if (!on_done_) return;
    timer_.cancel();
    watch_.release();
    if (result.ok()) {
      result->stream = std::move(stream_);
    } else {
      stream_.socket().close();
    }
    std::exchange(on_done_, nullptr)(std::move(result));
  }

  const DialOptions options_;
  Stream stream_;
  Watch watch_;
  asio::steady_timer timer_;
  InitiatorHandshake handshake_;
  FixedRead<kHelloBytes> answer_;
  std::string step_ = "it does not accept the connection";
  OnDone on_done_;  // empty once called
};

}  // namespace

void dial(asio::io_context& io, const DialOptions& options,
          std::function<void(Result<Dialed>)> on_done) {
  std::make_shared<Dial>(io, options, std::move(on_done))->start();
}

Result<Dialed> dial_and_wait(const DialOptions& options) {
  Result<std::unique_ptr<asio::io_context>> io = make_io_context();
  if (!io.ok()) return io.status();
  std::optional<Result<Dialed>> result;
  dial(**io, options, [&result](Result<Dialed> done) { result = std::move(done); });
  (*io)->run();
  return std::move(*result);
}

}  // namespace khorus::net

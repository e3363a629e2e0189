// See link.h.
#include "core/net/link.h"

#include <utility>

namespace khorus::net {

Link::Link(asio::io_context& io, Connection connection, Events events)
    : watch_(io, connection.socket().fd()),
      connection_(std::move(connection)),
      events_(std::move(events)) {}

Link::~Link() { close(); }

void Link::start() { wait_readable(); }

void Link::send(std::span<const std::byte> payload) {
  if (!open_ || !send_failure_.empty()) return;
  if (Status status = connection_.send(payload); !status.ok()) return fail_later(status);
  if (connection_.has_unsent()) wait_writable();
}

// The peer's last words may lie in our receive buffer: the next turn of the io_context reads them
// before it reports the end.
void Link::fail_later(const Status& status) {
  send_failure_ = status.message();
  asio::post(watch_.executor(), [self = shared_from_this()] {
    self->on_readable();
    self->end(self->send_failure_);
  });
}

void Link::wait_readable() {
  watch_.wait(Watch::kRead, [self = shared_from_this()](const ErrorCode& error) {
    if (error || !self->open_) return;
    self->on_readable();
    if (self->open_) self->wait_readable();
  });
}

void Link::wait_writable() {
  if (std::exchange(waits_writable_, true)) return;
  watch_.wait(Watch::kWrite, [self = shared_from_this()](const ErrorCode& error) {
    self->waits_writable_ = false;
    if (!error && self->open_) self->on_writable();
  });
}

void Link::on_readable() {
  if (!open_) return;
  const Status status = connection_.receive([this](std::span<const std::byte> payload) {
    if (open_) events_.on_frame(payload);
  });
  if (!status.ok()) end(send_failure_.empty() ? status.message() : send_failure_);
}

void Link::on_writable() {
  if (Status status = connection_.flush(); !status.ok()) return fail_later(status);
  if (connection_.has_unsent()) wait_writable();
}

void Link::end(const std::string& reason) {
  if (!open_) return;
  close();
  events_.on_closed(reason);
}

void Link::close() noexcept {
  if (!std::exchange(open_, false)) return;
  watch_.release();
  connection_.socket().close();
}

void Link::close_gracefully(std::chrono::milliseconds limit) noexcept {
  if (!std::exchange(open_, false)) return;
  watch_.release();
  connection_.socket().close_gracefully(limit);
}

}  // namespace khorus::net

// See agent_job.h.
#include "core/launch/agent_job.h"

#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdio>

#include "core/base/status_page.h"
#include "core/launch/descendants.h"

namespace khorus::launch {

using net::ErrorCode;
using Wait = net::asio::posix::stream_descriptor;

AgentJob::AgentJob(Parts parts)
    : job_(std::move(parts.job)),
      guard_pid_(parts.guard.pid),
      guard_socket_(io_, parts.guard.socket.release()),
      store_(std::move(parts.store)),
      store_watch_(io_, store_.fd()),
      launcher_(&io_, std::move(parts.from_launcher), std::move(parts.to_launcher),
                {.on_message = [this](std::span<const std::byte> bytes) { on_message(bytes); },
                 .on_closed = [this](const std::string&) { over(1); },
                 .on_written =
                     [this] {
                       if (finished_) over(0);
                     }}),
      running_(job_.ends.size(), true) {}

AgentJob::~AgentJob() = default;

int AgentJob::run(const std::string& store) {
  open_pipes();
  watch_guard();
  watch_store();
  launcher_.start();
  if (!job_.notice.empty()) send(AgentNotice{job_.notice});
  GuardCommand start;
  store.copy(start.store.data(), start.store.size() - 1);
  command(start);
  while (!over_) io_.run_one();
  guard_socket_.close();  // a guard that still runs kills all
  ::waitpid(guard_pid_, nullptr, 0);
  return exit_code_;
}

void AgentJob::over(int exit_code) {
  if (over_) return;
  over_ = true;
  exit_code_ = exit_code;
}

// ---- output ----

void AgentJob::open_pipes() {
  for (size_t rank = 0; rank < job_.ends.size(); ++rank) {
    for (const bool is_error : {false, true}) {
      RankEnds& ends = job_.ends[rank];
      Descriptor& end = is_error ? ends.standard_error : ends.standard_output;
      pipes_.push_back(std::make_unique<Pipe>(
          Pipe{static_cast<int32_t>(rank), is_error, Wait(io_, end.release()), false}));
    }
  }
  resume_pipes();
}

// Of more than the launcher has room for, nothing is read: the ranks wait, as at any pipe.
void AgentJob::resume_pipes() {
  for (const auto& pipe : pipes_) {
    if (credit_ == 0) return;
    if (!pipe->waiting && pipe->stream.is_open()) read_pipe(pipe.get());
  }
}

void AgentJob::read_pipe(Pipe* pipe) {
  pipe->waiting = true;
  pipe->stream.async_wait(Wait::wait_read, [this, pipe](ErrorCode error) {
    pipe->waiting = false;
    if (error || credit_ == 0) return;
    pass_on(pipe);
    if (pipe->stream.is_open() && credit_ > 0) read_pipe(pipe);
  });
}

// False: there is nothing more, now or ever.
bool AgentJob::pass_on(Pipe* pipe) {
  std::array<char, 65536> bytes;
  const ssize_t size = ::read(pipe->stream.native_handle(), bytes.data(), bytes.size());
  if (size > 0) {
    const auto count = static_cast<size_t>(size);
    credit_ -= std::min(credit_, count);
    send(AgentOutput{pipe->rank, pipe->is_error, std::string(bytes.data(), count)});
    return true;
  }
  if (size < 0 && errno == EINTR) return true;
  if (size == 0 || errno != EAGAIN) pipe->stream.close();
  return false;
}

void AgentJob::drain_pipes() {
  for (const auto& pipe : pipes_) {
    while (pipe->stream.is_open() && pass_on(pipe.get())) {
    }
  }
}

// ---- the guard ----

void AgentJob::command(const GuardCommand& command) {
  // A guard that is gone shows as the end of its socket.
  ::send(guard_socket_.native_handle(), &command, sizeof(command), MSG_NOSIGNAL);
}

void AgentJob::watch_guard() {
  guard_socket_.async_wait(Wait::wait_read, [this](ErrorCode error) {
    if (error || over_) return;
    GuardEvent event;
    const ssize_t size = ::recv(guard_socket_.native_handle(), &event, sizeof(event), MSG_DONTWAIT);
    if (size == static_cast<ssize_t>(sizeof(event))) {
      on_event(event);
    } else if (size >= 0 || (errno != EAGAIN && errno != EINTR)) {
      return on_guard_lost();
    }
    if (!finished_) watch_guard();
  });
}

void AgentJob::on_event(const GuardEvent& event) {
  if (event.kind == GuardEvent::Kind::kFinished) return finish(event.status);
  const bool ended = event.kind != GuardEvent::Kind::kStarted;
  if (ended) running_.at(static_cast<size_t>(event.rank)) = false;
  send(event);
}

// It was killed. The ranks die with it; what they left is ours now, for this process is a subreaper
// too.
void AgentJob::on_guard_lost() {
  end_descendants(SIGKILL, std::chrono::steady_clock::now() + std::chrono::seconds(20));
  for (size_t rank = 0; rank < running_.size(); ++rank) {
    if (!running_[rank]) continue;
    send(GuardEvent{.kind = GuardEvent::Kind::kEnded,
                    .rank = static_cast<int32_t>(rank),
                    .status = W_EXITCODE(0, SIGKILL)});
  }
  std::fprintf(stderr, "the guard process was killed, and the ranks with it\n");  // ssh shows it
  finish(0);
}

// ---- the launcher ----

void AgentJob::watch_store() {
  store_watch_.wait(net::Watch::kRead, [this](const ErrorCode& error) {
    if (error) return;
    std::array<std::byte, 256> bytes;
    const net::Socket::Transfer transfer = store_.read_some(bytes);
    if (transfer.kind == net::Socket::Transfer::Kind::kOver) return over(1);
    watch_store();
  });
}

void AgentJob::on_message(std::span<const std::byte> bytes) {
  const std::optional<LauncherMessage> message = decode_launcher_message(bytes);
  if (!message || std::holds_alternative<AgentPlan>(*message)) return over(1);
  if (const auto* credit = std::get_if<AgentCredit>(&*message)) {
    credit_ = std::min<size_t>(credit_ + credit->bytes, kOutputWindowBytes);
    return resume_pipes();
  }
  const GuardCommand& given = std::get<GuardCommand>(*message);
  if (given.kind == GuardCommand::Kind::kRestart) {
    if (given.rank < 0 || given.rank >= static_cast<int32_t>(running_.size())) return over(1);
    running_[static_cast<size_t>(given.rank)] = true;
  }
  if (given.kind != GuardCommand::Kind::kStart) command(given);
}

// No rank writes any more.
void AgentJob::finish(int left) {
  drain_pipes();
  for (size_t rank = 0; rank < job_.ends.size(); ++rank) {
    const auto page = base::StatusPage::map(job_.ends[rank].status_page.get());
    if (page.ok()) send(AgentPage{static_cast<int32_t>(rank), page->read()});
  }
  finished_ = true;
  send(GuardEvent{.kind = GuardEvent::Kind::kFinished, .status = left});
}

}  // namespace khorus::launch

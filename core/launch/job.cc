// The launcher's decisions; see job.h. Streams and logs are in job_output.cc, other hosts in
// job_hosts.cc, and what the ranks are told in job_store.cc.
#include "core/launch/job.h"

#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/base/status_page.h"
#include "core/launch/descendants.h"
#include "core/launch/hosts.h"

namespace khorus::launch {

using net::ErrorCode;
using Wait = net::asio::posix::stream_descriptor;

Job::Job(const LaunchOptions& options, PreparedJob job, Guard guard)
    : options_(options),
      job_(std::move(job)),
      guard_(std::move(guard)),
      guard_socket_(io_, guard_.socket.release()),
      signals_(io_),
      grace_(io_),
      ranks_(job_.ends.size()) {
  for (const HostRanks& ranks : job_.hosts) {
    if (ranks.host.here) first_here_ = static_cast<size_t>(ranks.first);
  }
}

Job::~Job() = default;

sigset_t handled_signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction action {};
    ::sigaction(signal, nullptr, &action);
    if (action.sa_handler != SIG_IGN) sigaddset(&set, signal);
  }
  return set;
}

Result<std::string> Job::meet_hosts() {
  if (Status status = open_streams(); !status.ok()) return status;
  watch_signals();
  watch_guard();
  open_remotes();
  if (Status status = wait_for_remotes(); !status.ok()) return status;
  Result<std::string> address = store_address();
  if (address.ok() && !remotes_.empty() && job_.network_interface.empty()) {
    network_interface_ = *address;
  }
  return address;
}

int Job::abandon(const Status& why) {
  say("khorusrun: " + why.message());
  guard_socket_.close();  // tells the guard to end
  ::waitpid(guard_.pid, nullptr, 0);
  return interrupted_by_ == 0 ? 1 : 128 + interrupted_by_;
}

int Job::run(const std::string& store) {
  if (Status status = open_store(store); !status.ok()) return abandon(status);
  state_ = State::kRunning;
  if (!job_.notice.empty()) say("khorusrun: " + job_.notice);
  say_if_verbose("job " + job_.job_id + ", store " + store + ", guard " +
                 std::to_string(guard_.pid));
  GuardCommand start{.kind = GuardCommand::Kind::kStart};
  store.copy(start.store.data(), start.store.size() - 1);
  network_interface_.copy(start.network_interface.data(), start.network_interface.size() - 1);
  running_ = ranks_.size();
  for (Rank& rank : ranks_) rank.running = true;
  start_remotes(store);
  command(start);
  while (state_ != State::kOver) io_.run_one();
  return conclude();
}

// ---- the guard ----

void Job::watch_guard() {
  guard_socket_.async_wait(Wait::wait_read, [this](ErrorCode error) {
    if (error) return;
    GuardEvent event;
    const ssize_t size = ::recv(guard_socket_.native_handle(), &event, sizeof(event), MSG_DONTWAIT);
    if (size == static_cast<ssize_t>(sizeof(event))) {
      on_event(event);
    } else if (size >= 0 || (errno != EAGAIN && errno != EINTR)) {
      return on_guard_lost();
    }
    if (state_ != State::kOver) watch_guard();
  });
}

void Job::command(const GuardCommand& command) {
  // A guard that is gone shows as the end of its socket.
  ::send(guard_socket_.native_handle(), &command, sizeof(command), MSG_NOSIGNAL);
}

void Job::on_event(const GuardEvent& event) {
  const auto index = static_cast<size_t>(event.rank);
  const size_t rank = first_here_ + index;
  switch (event.kind) {
    case GuardEvent::Kind::kStarted:
      on_started(rank, event.pid);
      break;
    case GuardEvent::Kind::kNotForked:
      on_not_forked(rank, event.status);
      break;
    case GuardEvent::Kind::kEnded:
      on_ended(rank, event.status);
      break;
    case GuardEvent::Kind::kCarrierEnded:
      on_carrier_ended(&remotes_[index], event.status);
      break;
    case GuardEvent::Kind::kFinished:
      left_over_ += event.status;
      state_ = State::kOver;
      break;
  }
}

void Job::on_started(size_t rank, int pid) {
  ranks_[rank].outcome.pid = pid;
  const std::string& host = ranks_[rank].outcome.host;
  say_if_verbose(name_of(rank) + " is pid " + std::to_string(pid) +
                 (host.empty() ? "" : " on " + host));
}

void Job::on_not_forked(size_t rank, int error) {
  ranks_[rank].outcome.last_words = std::string("fork failed: ") + std::strerror(error);
  on_ended(rank, W_EXITCODE(126, 0));
}

void Job::on_ended(size_t index, int wait_status) {
  if (!ranks_[index].running || restart(index, wait_status)) return;
  note_end(index, wait_status);
  after_end(exit_code_of(wait_status) != 0);
}

void Job::note_end(size_t index, int wait_status) {
  Rank& rank = ranks_[index];
  rank.running = false;
  rank.ended = true;
  rank.outcome.wait_status = wait_status;
  rank.outcome.order = ended_++;
  --running_;
  note_ended(index);
  say_if_verbose(name_of(index) + ": " + describe_end(wait_status));
}

void Job::after_end(bool failed) {
  stopping_ = stopping_ || (failed && interrupted_by_ == 0);
  if (running_ == 0) return finish();
  if (failed || interrupted_by_ != 0) stop_after_grace(SIGTERM);
}

// The guard was killed. The ranks die with it; what they left is ours now, for this process is a
// subreaper too.
void Job::on_guard_lost() {
  guard_lost_ = true;
  meeting_failure_ = Status(StatusCode::kUnavailable, "the guard process was killed");
  end_descendants(SIGKILL, std::chrono::steady_clock::now() + std::chrono::seconds(20));
  for (Rank& rank : ranks_) {
    if (!rank.running) continue;
    rank.running = false;
    rank.outcome.wait_status = W_EXITCODE(0, SIGKILL);
    rank.outcome.stopped_with = SIGKILL;
    rank.outcome.order = ended_++;
    tell_end(static_cast<size_t>(&rank - ranks_.data()));
  }
  running_ = 0;
  state_ = State::kOver;
}

// ---- ending ----

// First everybody may end by himself, with the error that the library gives him; then SIGTERM, then
// SIGKILL, each after one more grace.
void Job::stop_after_grace(int signal) {
  if (grace_running_) return;
  grace_running_ = true;
  grace_.expires_after(std::chrono::duration_cast<std::chrono::steady_clock::duration>(
      std::chrono::duration<double>(options_.failure_grace_s)));
  grace_.async_wait([this, signal](ErrorCode error) {
    if (error || running_ == 0) return;
    stop(signal);
    grace_running_ = false;
    if (signal != SIGKILL) stop_after_grace(SIGKILL);
  });
}

void Job::stop(int signal) {
  for (Rank& rank : ranks_) {
    if (rank.running) rank.outcome.stopped_with = signal;
  }
  tell_remotes({.kind = GuardCommand::Kind::kSignal, .signal = signal});
  command({.kind = GuardCommand::Kind::kSignal, .signal = signal});
}

// This machine last: its guard also ends what is left of the connections to the others.
void Job::finish() {
  if (state_ != State::kRunning) return;
  state_ = State::kFinishing;
  grace_.cancel();
  if (carriers_ > 0) return finish_remotes();
  command({.kind = GuardCommand::Kind::kFinish});
}

// ---- the user's signals ----

void Job::watch_signals() {
  if (!signals_.is_open()) {
    sigset_t set = handled_signals();
    sigdelset(&set, SIGCHLD);
    signals_.assign(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  }
  signals_.async_wait(Wait::wait_read, [this](ErrorCode error) {
    if (error) return;
    signalfd_siginfo info;
    while (::read(signals_.native_handle(), &info, sizeof(info)) == sizeof(info)) {
      on_signal(static_cast<int>(info.ssi_signo));
    }
    watch_signals();
  });
}

void Job::on_signal(int signal) {
  if (state_ == State::kMeeting) {
    interrupted_by_ = signal;
    meeting_failure_ =
        Status(StatusCode::kUnavailable, "interrupted by " + std::string(::strsignal(signal)) +
                                             " while the other hosts were called");
    return;
  }
  if (running_ == 0) return;
  if (interrupted_by_ != 0) {
    say("khorusrun: interrupted again, killing the ranks that are left");
    return stop(SIGKILL);
  }
  interrupted_by_ = signal;
  interrupted_first_ = !stopping_;
  tell_remotes({.kind = GuardCommand::Kind::kSignal, .signal = signal});
  command({.kind = GuardCommand::Kind::kSignal, .signal = signal});
  say("khorusrun: " + std::string(::strsignal(signal)) + ": passed on to " +
      (options_.mpi ? std::string("mpirun") : std::to_string(running_) + " ranks") +
      ", waiting for them to end (again: kill them)");
  if (ended_ > 0) stop_after_grace(SIGTERM);
}

// ---- the end ----

int Job::conclude() {
  for (size_t i = 0; i < ranks_.size(); ++i) {
    Rank& rank = ranks_[i];
    if (rank.standard_output) rank.standard_output->drain();
    if (rank.standard_error) rank.standard_error->drain();
    if (rank.standard_error && rank.outcome.last_words.empty()) {
      rank.outcome.last_words = rank.standard_error->last_line();
    }
    if (auto page = base::StatusPage::map(job_.ends[i].status_page.get()); page.ok()) {
      rank.outcome.page = page->read();
    }
  }
  ::waitpid(guard_.pid, nullptr, 0);
  JobOutcome outcome;
  outcome.host = host_name();
  outcome.by_mpirun = options_.mpi;
  outcome.first_rank = options_.first_rank();
  outcome.interrupted_by = interrupted_first_ ? interrupted_by_ : 0;
  if (!options_.output_directory.empty()) {
    outcome.logs = options_.output_directory + "/rank.*/stdout and stderr";
  }
  for (Rank& rank : ranks_) outcome.ranks.push_back(std::move(rank.outcome));
  Verdict verdict = judge(outcome);
  if (guard_lost_ && verdict.exit_code == 0) {
    verdict.exit_code = 128 + SIGKILL;
    verdict.lines.push_back("khorusrun: the guard process was killed, and the job with it");
  }
  if (left_over_ > 0) {
    verdict.lines.push_back("khorusrun: " + std::to_string(left_over_) +
                            " processes could not be ended");
  }
  for (const std::string& line : verdict.lines) say(line);
  return verdict.exit_code;
}

std::string Job::name_of(size_t rank) const {
  return options_.mpi ? "mpirun"
                      : "rank " + std::to_string(static_cast<size_t>(options_.first_rank()) + rank);
}

void Job::say(const std::string& line) { error_->write(line + "\n"); }

void Job::say_if_verbose(const std::string& line) {
  if (options_.verbose) say("khorusrun: " + line);
}

}  // namespace khorus::launch

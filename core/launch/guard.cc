// The guard process; see guard.h. One thread, everything by waiting in poll(2).
#include "core/launch/guard.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <string>

#include "core/launch/descendants.h"
#include "core/launch/start_rank.h"

namespace khorus::launch {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;

constexpr char kTitle[] = "khorus-guard";
constexpr auto kLeftoverGrace = milliseconds(1000);  // between SIGTERM and SIGKILL
constexpr auto kKillBound = seconds(20);             // a process in uninterruptible sleep stays

class GuardProcess {
 public:
  GuardProcess(JobPlan plan, Descriptor socket)
      : plan_(std::move(plan)), socket_(std::move(socket)), pids_(plan_.ranks.size(), -1) {}

  // Returns the exit status.
  int run() {
    sigset_t child;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    const Descriptor children(::signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK));
    start_carriers();
    while (!over_) {
      std::array<pollfd, 2> ready{pollfd{socket_.get(), POLLIN, 0},
                                  pollfd{children.get(), POLLIN, 0}};
      if (::poll(ready.data(), ready.size(), -1) < 0 && errno != EINTR) break;
      if (ready[1].revents != 0) {
        signalfd_siginfo info;
        while (::read(children.get(), &info, sizeof(info)) > 0) {
        }
      }
      reap_children([this](pid_t pid, int status) { ended(pid, status); });
      if (ready[0].revents != 0) receive();
    }
    // On every way out: nothing may be left.
    return end_descendants(SIGKILL, steady_clock::now() + kKillBound) ? 0 : 1;
  }

 private:
  void receive() {
    GuardCommand command;
    const ssize_t size = ::recv(socket_.get(), &command, sizeof(command), 0);
    if (size < 0 && errno == EINTR) return;
    if (size != static_cast<ssize_t>(sizeof(command))) {
      over_ = true;  // the launcher is gone
      return;
    }
    switch (command.kind) {
      case GuardCommand::Kind::kStart:
        start(command);
        break;
      case GuardCommand::Kind::kRestart:
        restart(static_cast<size_t>(command.rank));
        break;
      case GuardCommand::Kind::kSignal:
        signal_ranks(command.signal);
        break;
      case GuardCommand::Kind::kFinish:
        finish();
        break;
    }
  }

  void start_carriers() {
    for (const RankPlan& carrier : plan_.carriers) {
      carriers_.push_back(start_rank(plan_, carrier));
      if (carriers_.back() >= 0) continue;
      send({.kind = GuardEvent::Kind::kCarrierEnded,
            .rank = static_cast<int32_t>(carriers_.size()) - 1,
            .status = W_EXITCODE(126, 0)});
    }
    plan_.carriers.clear();
  }

  void start(const GuardCommand& command) {
    for (size_t rank = 0; rank < plan_.ranks.size(); ++rank) {
      // The store opens to the key only.
      if (plan_.ranks[rank].key) add_variables(command, &plan_.ranks[rank].environment);
      start_one(rank);
    }
    // The ranks have their copies: the launcher must see the end of their output, and the keys are
    // none of ours. Ranks that are started again get the same streams.
    if (plan_.spare_keys.empty()) plan_.ranks.clear();
  }

  void start_one(size_t rank) {
    GuardEvent event{.rank = static_cast<int32_t>(rank)};
    event.pid = pids_[rank] = start_rank(plan_, plan_.ranks[rank]);
    if (event.pid < 0) {
      event.kind = GuardEvent::Kind::kNotForked;
      event.status = errno;
    }
    plan_.ranks[rank].key.reset();
    send(event);
  }

  void restart(size_t rank) {
    if (rank >= plan_.ranks.size() || plan_.spare_keys.empty()) return;
    plan_.ranks[rank].key = std::move(plan_.spare_keys.back());
    plan_.spare_keys.pop_back();
    start_one(rank);
  }

  static void add_variables(const GuardCommand& command, std::vector<std::string>* environment) {
    environment->push_back("KHORUS_STORE=" + std::string(command.store.data()));
    const std::string interface = command.network_interface.data();
    if (!interface.empty()) environment->push_back("KHORUS_NETWORK_INTERFACE=" + interface);
  }

  void ended(pid_t pid, int status) {
    if (ended_of(&pids_, GuardEvent::Kind::kEnded, pid, status)) return;
    ended_of(&carriers_, GuardEvent::Kind::kCarrierEnded, pid, status);
    // Else an orphan that came to us.
  }

  bool ended_of(std::vector<pid_t>* pids, GuardEvent::Kind kind, pid_t pid, int status) {
    const auto found = std::find(pids->begin(), pids->end(), pid);
    if (found == pids->end()) return false;
    *found = -1;
    const auto index = static_cast<int32_t>(found - pids->begin());
    send({.kind = kind, .rank = index, .pid = pid, .status = status});
    return true;
  }

  // Only those that are not reaped: until then their numbers belong to them.
  void signal_ranks(int32_t signal) {
    for (const pid_t pid : pids_) {
      if (pid > 0) ::kill(-pid, signal);
    }
  }

  void finish() {
    bool clean = end_descendants(SIGTERM, steady_clock::now() + kLeftoverGrace);
    if (!clean) clean = end_descendants(SIGKILL, steady_clock::now() + kKillBound);
    const size_t left = clean ? 0 : descendants_of(::getpid()).size();
    send({.kind = GuardEvent::Kind::kFinished, .status = static_cast<int32_t>(left)});
    over_ = true;
  }

  void send(const GuardEvent& event) {
    if (::send(socket_.get(), &event, sizeof(event), MSG_NOSIGNAL) < 0) over_ = true;
  }

  JobPlan plan_;
  Descriptor socket_;
  std::vector<pid_t> pids_;      // by rank; -1: not running
  std::vector<pid_t> carriers_;  // likewise, of each ssh to another host
  bool over_ = false;
};

void become_guard(std::span<char> title) {
  ::setsid();
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  ::prctl(PR_SET_NAME, kTitle);
  std::fill(title.begin(), title.end(), '\0');
  std::copy_n(kTitle, std::min(title.size(), sizeof(kTitle)), title.begin());
  if (!title.empty()) title.back() = '\0';
  // Only SIGKILL and SIGSTOP reach the guard; who means the job signals the launcher.
  sigset_t all;
  sigfillset(&all);
  ::sigprocmask(SIG_SETMASK, &all, nullptr);
}

}  // namespace

Result<Guard> fork_guard(PreparedJob* job, std::span<char> title) {
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) != 0) {
    return Status(StatusCode::kUnavailable,
                  std::string("socketpair failed: ") + std::strerror(errno));
  }
  Descriptor ours(ends[0]), theirs(ends[1]);
  const pid_t pid = ::fork();
  if (pid < 0) {
    return Status(StatusCode::kUnavailable, std::string("fork failed: ") + std::strerror(errno));
  }
  if (pid > 0) {
    job->plan.ranks.clear();  // closes what only the ranks may hold
    job->plan.spare_keys.clear();
    job->plan.carriers.clear();
    return Guard{pid, std::move(ours)};
  }
  ours.reset();
  job->ends.clear();
  job->carriers.clear();
  job->key = net::JobKey();
  become_guard(title);
  ::_exit(GuardProcess(std::move(job->plan), std::move(theirs)).run());
}

}  // namespace khorus::launch

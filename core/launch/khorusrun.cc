// khorusrun: starts the ranks of a job, here and on other hosts, watches them, and leaves nothing
// behind.
//
// The path: options -> prepare_job (pipes, key, environment) -> fork_guard, while there is one
// thread -> Job::meet_hosts -> the job's store -> Job::run. On the other hosts: agent.h. Exit
// codes: the job's; 2 for a wrong command line, 127 for a program that cannot be run.
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/launch/agent.h"
#include "core/launch/check_build.h"
#include "core/launch/environment.h"
#include "core/launch/guard.h"
#include "core/launch/help.h"
#include "core/launch/job.h"
#include "core/launch/job_plan.h"
#include "core/launch/nodes.h"
#include "core/launch/options.h"
#include "core/net/store_server.h"
#include "khorus/version.h"

namespace {

using namespace khorus;

constexpr int kUsageError = 2;
constexpr int kCannotRun = 127;

int complain(const Status& status, int exit_code) {
  std::fprintf(stderr, "khorusrun: %s\n", status.message().c_str());
  return exit_code;
}

int print(const std::string& text) {
  return std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0
             ? 0
             : 1;
}

// Eight descriptors per rank while they are prepared. Returns the limit as it was, for the ranks.
rlimit allow_many_open_files() {
  rlimit before{};
  ::getrlimit(RLIMIT_NOFILE, &before);
  const rlimit all{before.rlim_max, before.rlim_max};
  ::setrlimit(RLIMIT_NOFILE, &all);
  return before;
}

// What a process that starts ranks changes of itself, and what the ranks get instead.
struct Prepared {
  sigset_t signal_mask{};
  rlimit open_files{};
};

Prepared become_launcher() {
  Prepared before;
  ::signal(SIGCHLD, SIG_DFL);  // an inherited "ignore" would make children unwaitable
  const sigset_t handled = launch::handled_signals();
  ::sigprocmask(SIG_BLOCK, &handled, &before.signal_mask);
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  before.open_files = allow_many_open_files();
  return before;
}

// One of several hosts with a launcher each. While it waits for the others a signal ends it, and
// the guard with it.
int run_node(const launch::LaunchOptions& options, const Prepared& before, launch::PreparedJob job,
             launch::Guard guard) {
  const sigset_t handled = launch::handled_signals();
  ::sigprocmask(SIG_SETMASK, &before.signal_mask, nullptr);
  const Result<launch::NodeMeeting> meeting = launch::meet_nodes(options, job);
  ::sigprocmask(SIG_BLOCK, &handled, nullptr);
  launch::Job running(options, std::move(job), std::move(guard));
  const Result<std::string> ready = running.meet_hosts();
  if (!ready.ok()) return running.abandon(ready.status());
  if (!meeting.ok()) return running.abandon(meeting.status());
  const int exit_code = running.run(meeting->store);
  ::sigprocmask(SIG_SETMASK, &before.signal_mask, nullptr);
  return exit_code;
}

int run_job(const launch::LaunchOptions& options, std::span<char> title) {
  if (Status known = launch::await_node_0(options); !known.ok()) return complain(known, 1);
  const Prepared before = become_launcher();
  Result<launch::PreparedJob> job = launch::prepare_job(options);
  if (!job.ok()) {
    const bool bad_value = job.status().code() == StatusCode::kInvalidArgument;
    return complain(job.status(), bad_value ? kUsageError : kCannotRun);
  }
  job->plan.signal_mask = before.signal_mask;
  job->plan.open_files = before.open_files;
  Result<launch::Guard> guard = launch::fork_guard(&*job, title);
  if (!guard.ok()) return complain(guard.status(), 1);

  ::signal(SIGPIPE, SIG_IGN);
  net::StoreServerOptions store_options;
  store_options.key = job->key;
  store_options.job_id = job->job_id;
  store_options.tls = job->tls;
  std::unique_ptr<net::StoreServer> store;  // outlives the job
  if (options.nodes > 1) return run_node(options, before, std::move(*job), std::move(*guard));
  int exit_code = 0;
  {
    launch::Job running(options, std::move(*job), std::move(*guard));
    const Result<std::string> address = running.meet_hosts();
    if (!address.ok()) return running.abandon(address.status());
    store_options.bind_host = *address;
    Result<std::unique_ptr<net::StoreServer>> started = net::StoreServer::start(store_options);
    if (!started.ok()) return running.abandon(started.status());
    store = std::move(*started);
    exit_code = running.run(store->address());
    // What is left is writing out; whoever reads too slowly can be left by a signal.
    ::sigprocmask(SIG_SETMASK, &before.signal_mask, nullptr);
  }
  return exit_code;
}

// On another host. Only SIGCHLD is for us: any other signal may end the agent, and with it the
// ranks.
int run_agent(const launch::LaunchOptions& options, std::span<char> title) {
  launch::AgentOptions agent;
  agent.patience = std::chrono::seconds(options.agent_patience_s);
  agent.title = title;
  ::signal(SIGCHLD, SIG_DFL);
  sigset_t child;
  sigemptyset(&child);
  sigaddset(&child, SIGCHLD);
  ::sigprocmask(SIG_BLOCK, &child, &agent.signal_mask);
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  agent.open_files = allow_many_open_files();
  return launch::run_agent(agent);
}

// The memory of argv, which is one piece.
std::span<char> title_of(int argc, char** argv) {
  char* end = argv[argc - 1] + std::strlen(argv[argc - 1]);
  return {argv[0], static_cast<size_t>(end - argv[0])};
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  const Result<launch::LaunchOptions> options =
      launch::parse_options(arguments, launch::all_variables());
  if (!options.ok()) return complain(options.status(), kUsageError);
  switch (options->action) {
    case launch::LaunchAction::kHelp:
      return print(launch::help_text());
    case launch::LaunchAction::kVersion:
      return print("khorusrun " KHORUS_VERSION_STRING "\n");
    case launch::LaunchAction::kKnobsMarkdown:
      return print(launch::knobs_markdown());
    case launch::LaunchAction::kCheckBuild:
      return print(launch::check_build());
    case launch::LaunchAction::kAgent:
      return run_agent(*options, title_of(argc, argv));
    case launch::LaunchAction::kRun:
      break;
  }
  return run_job(*options, title_of(argc, argv));
}

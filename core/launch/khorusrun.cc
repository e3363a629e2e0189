// khorusrun: starts the ranks of a job on this machine, watches them, and leaves nothing behind.
//
// The path: options -> prepare_job (pipes, key, environment) -> fork_guard, while there is one
// thread -> the job's store -> Job::run. Exit codes: the job's; 2 for a wrong command line, 127 for
// a program that cannot be run.
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include <cstdio>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "core/launch/check_build.h"
#include "core/launch/guard.h"
#include "core/launch/help.h"
#include "core/launch/job.h"
#include "core/launch/job_plan.h"
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

int run_job(const launch::LaunchOptions& options, std::span<char> title) {
  ::signal(SIGCHLD, SIG_DFL);  // an inherited "ignore" would make children unwaitable
  const sigset_t handled = launch::handled_signals();
  sigset_t before;
  ::sigprocmask(SIG_BLOCK, &handled, &before);
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);

  const rlimit open_files = allow_many_open_files();

  Result<launch::PreparedJob> job = launch::prepare_job(options);
  if (!job.ok()) {
    const bool bad_value = job.status().code() == StatusCode::kInvalidArgument;
    return complain(job.status(), bad_value ? kUsageError : kCannotRun);
  }
  job->plan.signal_mask = before;
  job->plan.open_files = open_files;
  Result<launch::Guard> guard = launch::fork_guard(&*job, title);
  if (!guard.ok()) return complain(guard.status(), 1);

  ::signal(SIGPIPE, SIG_IGN);
  net::StoreServerOptions store_options;
  store_options.key = job->key;
  store_options.job_id = job->job_id;
  Result<std::unique_ptr<net::StoreServer>> store = net::StoreServer::start(store_options);
  if (!store.ok()) return complain(store.status(), 1);

  int exit_code = 0;
  {
    launch::Job running(options, std::move(*job), std::move(*guard));
    exit_code = running.run((*store)->address());
    // What is left is writing out; whoever reads too slowly can be left by a signal.
    ::sigprocmask(SIG_SETMASK, &before, nullptr);
  }
  return exit_code;
}

// The memory of argv, which is one piece.
std::span<char> title_of(int argc, char** argv) {
  char* end = argv[argc - 1] + std::strlen(argv[argc - 1]);
  return {argv[0], static_cast<size_t>(end - argv[0])};
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  const Result<launch::LaunchOptions> options = launch::parse_options(arguments);
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
    case launch::LaunchAction::kRun:
      break;
  }
  return run_job(*options, title_of(argc, argv));
}

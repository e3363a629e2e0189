// Preparing a job before anything runs; see job_plan.h.
#include "core/launch/job_plan.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "core/base/status_page.h"
#include "core/launch/horovod_names.h"
#include "core/launch/mpirun.h"
#include "core/launch/program.h"
#include "khorus/options.h"

namespace khorus::launch {
namespace {

using Variables = std::map<std::string, std::string>;

Status failed_call(const char* call) {
  return Status(StatusCode::kUnavailable, std::string(call) + " failed: " + std::strerror(errno));
}

struct Pipe {
  Descriptor read, write;
};

Result<Pipe> make_pipe() {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return failed_call("pipe2");
  return Pipe{Descriptor(ends[0]), Descriptor(ends[1])};
}

Variables environment_of_this_process() {
  Variables variables;
  for (char** entry = environ; entry && *entry; ++entry) {
    const std::string_view text(*entry);
    const size_t equals = text.find('=');
    if (equals == std::string_view::npos) continue;
    variables.emplace(text.substr(0, equals), text.substr(equals + 1));
  }
  return variables;
}

Result<std::string> make_job_id() {
  uint64_t number = 0;
  if (::getrandom(&number, sizeof(number), 0) != sizeof(number)) return failed_call("getrandom");
  std::array<char, 17> text{};
  std::snprintf(text.data(), text.size(), "%016llx", static_cast<unsigned long long>(number));
  return std::string(text.data());
}

int usable_cores() {
  cpu_set_t set;
  if (::sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  return std::max(1, CPU_COUNT(&set));
}

// Threads of numeric libraries: without a bound every rank would take every core.
std::string share_cores(int processes, Variables* variables) {
  if (variables->count("OMP_NUM_THREADS") > 0) return "";
  const int cores = usable_cores();
  const int threads = std::max(1, cores / processes);
  (*variables)["OMP_NUM_THREADS"] = std::to_string(threads);
  return "OMP_NUM_THREADS=" + std::to_string(threads) + " for each rank (" + std::to_string(cores) +
         " cores, " + std::to_string(processes) + " ranks); set it to choose another number";
}

void set_place(int rank, int processes, Variables* variables) {
  (*variables)["KHORUS_RANK"] = (*variables)["KHORUS_LOCAL_RANK"] = std::to_string(rank);
  (*variables)["KHORUS_SIZE"] = (*variables)["KHORUS_LOCAL_SIZE"] = std::to_string(processes);
  (*variables)["KHORUS_CROSS_RANK"] = "0";
  (*variables)["KHORUS_CROSS_SIZE"] = "1";
}

std::vector<std::string> entries_of(const Variables& variables) {
  std::vector<std::string> entries;
  for (const auto& [name, value] : variables) entries.push_back(name + "=" + value);
  return entries;
}

// Our terminal, while another process group is reading it, is not ours to read: a shell that
// started us in the background would lose its input to rank 0.
bool may_read_standard_input() {
  const pid_t reader = ::tcgetpgrp(STDIN_FILENO);
  return reader < 0 || reader == ::getpgrp();
}

Status capture_output(RankPlan* rank, RankEnds* ends) {
  Result<Pipe> output = make_pipe(), error = make_pipe();
  if (!output.ok()) return output.status();
  if (!error.ok()) return error.status();
  for (const Descriptor* end : {&output->read, &error->read}) {
    if (::fcntl(end->get(), F_SETFL, O_NONBLOCK) != 0) return failed_call("fcntl");
  }
  rank->standard_output = std::move(output->write);
  rank->standard_error = std::move(error->write);
  ends->standard_output = std::move(output->read);
  ends->standard_error = std::move(error->read);
  return Status();
}

Status give_key(const net::JobKey& key, Descriptor* to) {
  Result<Pipe> pipe = make_pipe();
  if (!pipe.ok()) return pipe.status();
  if (Status status = key.write_to_fd(pipe->write.get()); !status.ok()) return status;
  *to = std::move(pipe->read);
  return Status();
}

Status give_status_page(RankPlan* rank, RankEnds* ends) {
  Result<int> page = base::StatusPage::create_descriptor();
  if (!page.ok()) return page.status();
  ends->status_page = Descriptor(*page);
  rank->status_page = Descriptor(::fcntl(*page, F_DUPFD_CLOEXEC, 0));
  return rank->status_page ? Status() : failed_call("fcntl");
}

// What ranks on other hosts must have of it; mpirun's own host passes everything on.
std::vector<std::string> names_to_forward(const Variables& variables) {
  std::vector<std::string> names;
  for (const auto& [name, value] : variables) {
    if (name.starts_with("KHORUS_") || name.starts_with("HOROVOD_") || name == "OMP_NUM_THREADS" ||
        name == "PYTHONUNBUFFERED" || name == "PYTHONPATH" || name == "LD_LIBRARY_PATH") {
      names.push_back(name);
    }
  }
  return names;
}

Status plan_rank(int rank, const LaunchOptions& options, Variables variables, PreparedJob* job) {
  RankPlan plan;
  RankEnds ends;
  if (!options.mpi) set_place(rank, options.processes, &variables);
  plan.environment = entries_of(variables);
  if (rank > 0 || !may_read_standard_input()) {
    plan.standard_input = Descriptor(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    if (!plan.standard_input) return failed_call("open /dev/null");
  }
  if (job->captured) {
    if (Status status = capture_output(&plan, &ends); !status.ok()) return status;
  }
  if (!options.mpi) {
    if (Status status = give_key(job->key, &plan.key); !status.ok()) return status;
    if (Status status = give_status_page(&plan, &ends); !status.ok()) return status;
  }
  job->plan.ranks.push_back(std::move(plan));
  job->ends.push_back(std::move(ends));
  return Status();
}

// The environment that all ranks share. Errors in it are found here, once, instead of in every
// rank.
Result<Variables> job_environment(const LaunchOptions& options, const std::string& job_id) {
  Variables variables = environment_of_this_process();
  // A job inside a rank of another job is a job of its own; its key comes from here only, but
  // through mpirun from the user's file, if there is one.
  if (!options.mpi) variables.erase("KHORUS_KEY_FILE");
  for (const char* name :
       {"KHORUS_KEY_FD", "KHORUS_STATUS_FD", "KHORUS_STORE", "KHORUS_RANK", "KHORUS_SIZE",
        "KHORUS_LOCAL_RANK", "KHORUS_LOCAL_SIZE", "KHORUS_CROSS_RANK", "KHORUS_CROSS_SIZE"}) {
    variables.erase(name);
  }
  for (const auto& [name, value] : options.environment) variables[name] = value;
  if (options.mpi && variables.count("HOROVOD_CPU_OPERATIONS") == 0) {
    variables.emplace("KHORUS_BACKEND", "mpi");
  }
  variables["KHORUS_JOB_ID"] = job_id;
  if (options.as_horovod) {
    const Result<std::string> names = horovod_names(options.python_package);
    if (!names.ok()) return names.status();
    std::string& path = variables["PYTHONPATH"];
    path = *names + (path.empty() ? "" : ":" + path);
  }
  Variables to_check = variables;
  std::erase_if(to_check, [](const auto& variable) {  // stale places that the ranks' own will hide
    return variable.first.starts_with("HOROVOD_") &&
           (variable.first.ends_with("_RANK") || variable.first.ends_with("_SIZE"));
  });
  const Result<Config> config = Config::from_map(to_check);
  if (!config.ok()) return config.status();
  return variables;
}

}  // namespace

Result<PreparedJob> prepare_job(const LaunchOptions& options) {
  PreparedJob job;
  Result<std::string> job_id = make_job_id();
  if (!job_id.ok()) return job_id.status();
  job.job_id = std::move(*job_id);
  Result<Variables> variables = job_environment(options, job.job_id);
  if (!variables.ok()) return variables.status();
  job.notice = share_cores(options.processes, &*variables);
  Result<Program> program = find_program(options.program);
  if (!program.ok()) return program.status();
  job.captured = options.processes > 1 || options.mpi || !::isatty(STDOUT_FILENO) ||
                 !options.output_directory.empty();
  // A Python that writes to a pipe keeps kilobytes back; what it printed last would die with it.
  if (program->is_python && job.captured) variables->emplace("PYTHONUNBUFFERED", "1");
  if (options.mpi) {
    program = mpirun_program(options, *program, names_to_forward(*variables));
    if (!program.ok()) return program.status();
  }
  job.plan.program = std::move(program->path);
  job.plan.arguments = std::move(program->arguments);
  Result<net::JobKey> key = net::JobKey::generate();
  if (!key.ok()) return key.status();
  job.key = *key;
  const int children = options.mpi ? 1 : options.processes;
  for (int rank = 0; rank < children; ++rank) {
    if (Status status = plan_rank(rank, options, *variables, &job); !status.ok()) return status;
  }
  for (int i = 0; i < options.restarts; ++i) {
    Descriptor& spare = job.plan.spare_keys.emplace_back();
    if (Status status = give_key(job.key, &spare); !status.ok()) return status;
  }
  return job;
}

}  // namespace khorus::launch

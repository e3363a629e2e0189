// Preparing a job before anything runs; see job_plan.h.
#include "core/launch/job_plan.h"

#include <fcntl.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "core/base/status_page.h"
#include "core/launch/agent_protocol.h"
#include "core/launch/environment.h"
#include "core/launch/mpirun.h"
#include "core/launch/nodes.h"
#include "core/launch/program.h"
#include "core/launch/ssh.h"

namespace khorus::launch {
namespace {

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

Result<std::string> make_job_id() {
  uint64_t number = 0;
  if (::getrandom(&number, sizeof(number), 0) != sizeof(number)) return failed_call("getrandom");
  std::array<char, 17> text{};
  std::snprintf(text.data(), text.size(), "%016llx", static_cast<unsigned long long>(number));
  return std::string(text.data());
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

Status give_spare_keys(int count, PreparedJob* job) {
  for (int i = 0; i < count; ++i) {
    Descriptor& spare = job->plan.spare_keys.emplace_back();
    if (Status status = give_key(job->key, &spare); !status.ok()) return status;
  }
  return Status();
}

Status give_status_page(RankPlan* rank, RankEnds* ends) {
  Result<int> page = base::StatusPage::create_descriptor();
  if (!page.ok()) return page.status();
  ends->status_page = Descriptor(*page);
  rank->status_page = Descriptor(::fcntl(*page, F_DUPFD_CLOEXEC, 0));
  return rank->status_page ? Status() : failed_call("fcntl");
}

// A rank of this machine, or mpirun.
Status plan_child(const Variables& variables, bool by_mpirun, bool may_read, PreparedJob* job) {
  RankPlan plan;
  RankEnds ends;
  plan.environment = entries_of(variables);
  if (!may_read) {
    plan.standard_input = Descriptor(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    if (!plan.standard_input) return failed_call("open /dev/null");
  }
  if (job->captured) {
    if (Status status = capture_output(&plan, &ends); !status.ok()) return status;
  }
  if (!by_mpirun) {
    if (Status status = give_key(job->key, &plan.key); !status.ok()) return status;
    if (Status status = give_status_page(&plan, &ends); !status.ok()) return status;
  }
  job->plan.ranks.push_back(std::move(plan));
  job->ends.push_back(std::move(ends));
  return Status();
}

Status plan_rank(const RankPlace& place, Variables variables, PreparedJob* job) {
  set_place(place, &variables);
  const bool may_read = place.rank == 0 && may_read_standard_input();
  return plan_child(variables, false, may_read, job);
}

// All ranks get their ends; those on other hosts come with the agent.
Status plan_all_ranks(const LaunchOptions& options, const Variables& variables, PreparedJob* job) {
  if (options.mpi) return plan_child(variables, true, may_read_standard_input(), job);
  const int hosts = static_cast<int>(job->hosts.size());
  for (int host = 0; host < hosts; ++host) {
    const HostRanks& ranks = job->hosts[static_cast<size_t>(host)];
    for (int i = 0; i < ranks.count; ++i) {
      if (!ranks.host.here) {
        job->ends.emplace_back();
        continue;
      }
      const RankPlace place{options.first_rank() + ranks.first + i,
                            options.world_size(),
                            i,
                            ranks.count,
                            options.node_rank + host,
                            std::max(options.nodes, hosts)};
      if (Status status = plan_rank(place, variables, job); !status.ok()) return status;
    }
  }
  return Status();
}

// The ssh to one other host. It gets this process's environment, in which its own agent is found.
Status plan_carrier(const LaunchOptions& options, const Host& host, PreparedJob* job) {
  std::string launcher = options.ssh.remote_launcher;
  if (launcher.empty()) launcher = std::filesystem::read_symlink("/proc/self/exe").string();
  const auto timeout_s = std::chrono::ceil<std::chrono::seconds>(job->start_timeout).count();
  Result<std::vector<std::string>> command = ssh_command(
      options.ssh, host, launcher, static_cast<int>(std::clamp<int64_t>(timeout_s, 1, 1 << 30)));
  if (!command.ok()) return command.status();
  const Result<Program> program = find_program(*command);
  if (!program.ok()) return program.status();
  Result<Pipe> in = make_pipe(), out = make_pipe(), error = make_pipe();
  for (const Result<Pipe>* pipe : {&in, &out, &error}) {
    if (!pipe->ok()) return pipe->status();
  }
  if (::fcntl(error->read.get(), F_SETFL, O_NONBLOCK) != 0) return failed_call("fcntl");
  RankPlan plan;
  plan.program = program->path;
  plan.arguments = std::move(*command);
  plan.environment = entries_of(inherited_variables());
  plan.standard_input = std::move(in->read);
  plan.standard_output = std::move(out->write);
  plan.standard_error = std::move(error->write);
  job->plan.carriers.push_back(std::move(plan));
  job->carriers.push_back(
      {host, std::move(in->write), std::move(out->read), std::move(error->read)});
  return Status();
}

}  // namespace

Result<PreparedJob> prepare_job(const LaunchOptions& options) {
  PreparedJob job;
  const bool nodes = options.nodes > 1;
  Result<std::string> job_id = nodes ? "nodes-" + options.rendezvous_id : make_job_id();
  if (!job_id.ok()) return job_id.status();
  job.job_id = std::move(*job_id);
  Result<JobEnvironment> environment = job_environment(options, job.job_id);
  if (!environment.ok()) return environment.status();
  Variables& variables = environment->variables;
  job.start_timeout =
      std::chrono::milliseconds(static_cast<int64_t>(environment->config.start_timeout_s * 1000));
  job.network_interface = environment->config.network_interface;
  job.tls = environment->config.tls;
  if (nodes && job.network_interface.empty()) {
    Result<std::string> own = address_towards_node_0(options);
    if (!own.ok()) return own.status();
    variables["KHORUS_NETWORK_INTERFACE"] = std::move(*own);
  }
  job.hosts = place_ranks(options.hosts, options.processes);
  job.captured = options.world_size() > 1 || options.mpi || !::isatty(STDOUT_FILENO) ||
                 !options.output_directory.empty() || job.has_other_hosts();
  // A Python that writes to a pipe keeps kilobytes back; what it printed last would die with it.
  if (job.captured && is_python(options.program)) variables.emplace("PYTHONUNBUFFERED", "1");
  for (const std::string& name : names_to_forward(variables, options.forwarded)) {
    job.forwarded.emplace_back(name, variables[name]);
  }
  Result<net::JobKey> key = nodes ? key_of_nodes() : net::JobKey::generate();
  if (!key.ok()) return key.status();
  job.key = *key;
  for (const HostRanks& ranks : job.hosts) {
    if (ranks.host.here) {
      job.notice = share_cores(ranks.count, &variables);
      Result<Program> program = find_program(options.program);
      if (program.ok() && options.mpi) {
        program = mpirun_program(options, *program, names_to_forward(variables, options.forwarded));
      }
      if (!program.ok()) return program.status();
      job.plan.program = std::move(program->path);
      job.plan.arguments = std::move(program->arguments);
    } else if (Status status = plan_carrier(options, ranks.host, &job); !status.ok()) {
      return status;
    }
  }
  if (Status status = plan_all_ranks(options, variables, &job); !status.ok()) return status;
  if (Status status = give_spare_keys(options.restarts, &job); !status.ok()) return status;
  return job;
}

Result<PreparedJob> prepare_ranks(const AgentPlan& plan, const std::string& network_interface) {
  PreparedJob job;
  job.job_id = plan.job_id;
  job.key = plan.key;
  Variables variables = inherited_variables();
  for (const auto& [name, value] : plan.variables) variables[name] = value;
  if (variables.count("HOROVOD_GLOO_IFACE") == 0) {
    variables.emplace("KHORUS_NETWORK_INTERFACE", network_interface);
  }
  job.notice = share_cores(plan.ranks, &variables);
  Result<Program> program = find_program(plan.program);
  if (!program.ok()) return program.status();
  job.plan.program = std::move(program->path);
  job.plan.arguments = std::move(program->arguments);
  for (int i = 0; i < plan.ranks; ++i) {
    const RankPlace place{plan.first_rank + i, plan.size,       i,
                          plan.ranks,          plan.host_index, plan.hosts};
    if (Status status = plan_rank(place, variables, &job); !status.ok()) return status;
  }
  if (Status status = give_spare_keys(plan.restarts, &job); !status.ok()) return status;
  return job;
}

bool PreparedJob::has_other_hosts() const {
  return std::ranges::any_of(hosts, [](const HostRanks& ranks) { return !ranks.host.here; });
}

}  // namespace khorus::launch

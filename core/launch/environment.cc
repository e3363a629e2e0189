// See environment.h.
#include "core/launch/environment.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <string_view>

#include "core/launch/horovod_names.h"

namespace khorus::launch {
namespace {

// What is equal on all hosts of a cluster, or has to be for a job. Names that end in an underscore
// stand for all that begin so.
constexpr std::string_view kForwarded[] = {"KHORUS_",
                                           "HOROVOD_",
                                           "NCCL_",
                                           "GLOO_",
                                           "UCX_",
                                           "OMP_",
                                           "MKL_",
                                           "PYTHON_",
                                           "TORCH_",
                                           "LC_",
                                           "LANG",
                                           "PATH",
                                           "TZ",
                                           "LD_LIBRARY_PATH",
                                           "PYTHONPATH",
                                           "PYTHONUNBUFFERED",
                                           "PYTHONHASHSEED",
                                           "PYTHONFAULTHANDLER",
                                           "VIRTUAL_ENV",
                                           "CUBLAS_WORKSPACE_CONFIG"};
constexpr std::string_view kSecret[] = {"KHORUS_KEY_FILE", "KHORUS_SECRET_KEY",
                                        "HOROVOD_SECRET_KEY"};

bool is_forwarded(std::string_view name) {
  return std::ranges::any_of(kForwarded, [&](std::string_view allowed) {
    return allowed.ends_with('_') ? name.starts_with(allowed) : name == allowed;
  });
}

// Of another launcher's job: the ranks' own places hide it.
bool is_stale_place(std::string_view name) {
  return name.starts_with("HOROVOD_") && (name.ends_with("_RANK") || name.ends_with("_SIZE"));
}

int usable_cores() {
  cpu_set_t set;
  if (::sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  return std::max(1, CPU_COUNT(&set));
}

}  // namespace

Variables all_variables() {
  Variables variables;
  for (char** entry = environ; entry && *entry; ++entry) {
    const std::string_view text(*entry);
    const size_t equals = text.find('=');
    if (equals == std::string_view::npos) continue;
    variables.emplace(text.substr(0, equals), text.substr(equals + 1));
  }
  return variables;
}

Variables inherited_variables() {
  Variables variables = all_variables();
  for (const char* name : {"KHORUS_KEY_FD", "KHORUS_STATUS_FD", "KHORUS_LAUNCHER", "KHORUS_STORE",
                           "KHORUS_RANK", "KHORUS_SIZE", "KHORUS_LOCAL_RANK", "KHORUS_LOCAL_SIZE",
                           "KHORUS_CROSS_RANK", "KHORUS_CROSS_SIZE"}) {
    variables.erase(name);
  }
  return variables;
}

Result<JobEnvironment> job_environment(const LaunchOptions& options, const std::string& job_id) {
  Variables variables = inherited_variables();
  // A job inside a rank of another job is a job of its own; its key comes from here only, but
  // through mpirun from the user's file, if there is one.
  if (!options.mpi) variables.erase("KHORUS_KEY_FILE");
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
  std::erase_if(to_check, [](const auto& variable) { return is_stale_place(variable.first); });
  Result<Config> config = Config::from_map(to_check);
  if (!config.ok()) return config.status();
  return JobEnvironment{std::move(variables), std::move(*config)};
}

std::vector<std::string> names_to_forward(const Variables& variables,
                                          const std::vector<std::string>& more) {
  std::vector<std::string> names;
  for (const auto& [name, value] : variables) {
    const bool secret = std::ranges::find(kSecret, name) != std::end(kSecret);
    const bool asked = std::ranges::find(more, name) != more.end();
    if (!secret && !is_stale_place(name) && (asked || is_forwarded(name))) names.push_back(name);
  }
  return names;
}

std::string share_cores(int ranks, Variables* variables) {
  if (variables->count("OMP_NUM_THREADS") > 0) return "";
  const int cores = usable_cores();
  const int threads = std::max(1, cores / ranks);
  (*variables)["OMP_NUM_THREADS"] = std::to_string(threads);
  return "OMP_NUM_THREADS=" + std::to_string(threads) + " for each rank (" + std::to_string(cores) +
         " cores, " + std::to_string(ranks) + " ranks); set it to choose another number";
}

void set_place(const RankPlace& place, Variables* variables) {
  (*variables)["KHORUS_RANK"] = std::to_string(place.rank);
  (*variables)["KHORUS_SIZE"] = std::to_string(place.size);
  (*variables)["KHORUS_LOCAL_RANK"] = std::to_string(place.local_rank);
  (*variables)["KHORUS_LOCAL_SIZE"] = std::to_string(place.local_size);
  (*variables)["KHORUS_CROSS_RANK"] = std::to_string(place.host);
  (*variables)["KHORUS_CROSS_SIZE"] = std::to_string(place.hosts);
}

std::vector<std::string> entries_of(const Variables& variables) {
  std::vector<std::string> entries;
  for (const auto& [name, value] : variables) entries.push_back(name + "=" + value);
  return entries;
}

}  // namespace khorus::launch

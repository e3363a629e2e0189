// See launcher_place.h.
#include "core/base/launcher_place.h"

#include <charconv>
#include <initializer_list>

namespace khorus::base {
namespace {

using Variables = std::map<std::string, std::string>;
using Found = Result<std::optional<LauncherPlace>>;

// The variables of one process; remembers the first that should be a number and is none.
class Numbers {
 public:
  explicit Numbers(const Variables& variables) : variables_(variables) {}

  bool has_all(std::initializer_list<const char*> names) const {
    for (const char* name : names) {
      if (text(name).empty()) return false;
    }
    return true;
  }
  std::string text(const char* name) const {
    const auto found = variables_.find(name);
    return found == variables_.end() ? "" : found->second;
  }
  int64_t number(const char* name) { return parse(name, text(name)); }
  int64_t parse(const char* name, std::string_view digits) {
    int64_t value = -1;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    const bool good = error == std::errc() && end == digits.data() + digits.size() && value >= 0 &&
                      value <= INT32_MAX;
    if (!good && problem_.empty()) {
      problem_ = std::string(name) + "=\"" + text(name) + "\": expected a number from 0 on";
    }
    return good ? value : 0;
  }
  const std::string& problem() const { return problem_; }

 private:
  const Variables& variables_;
  std::string problem_;
};

// Hosts of equal numbers of ranks, one after the other, which is what these launchers make unless
// they are told otherwise.
void number_the_hosts(LauncherPlace* place) {
  if (place->local_size < 1) return;  // refused below
  place->cross_size = (place->size + place->local_size - 1) / place->local_size;
  place->cross_rank = place->rank / place->local_size;
}

Found checked(const Numbers& numbers, const LauncherPlace& place) {
  if (!numbers.problem().empty()) {
    return Status(StatusCode::kInvalidArgument, numbers.problem() + " (from " + place.launcher +
                                                    "); set KHORUS_RANK and KHORUS_SIZE instead");
  }
  const bool good = place.rank < place.size && place.local_rank < place.local_size &&
                    place.local_size <= place.size && place.cross_rank < place.cross_size;
  if (good) return std::optional(place);
  const auto part = [](const char* name, int64_t rank, int64_t size) {
    return std::string(name) + " " + std::to_string(rank) + " of " + std::to_string(size);
  };
  return Status(StatusCode::kInvalidArgument,
                "the place that " + place.launcher +
                    " gives does not exist: " + part("rank", place.rank, place.size) + ", " +
                    part("local rank", place.local_rank, place.local_size) + ", " +
                    part("host", place.cross_rank, place.cross_size) +
                    "; set KHORUS_RANK and KHORUS_SIZE instead");
}

Found torchrun(Numbers numbers) {
  LauncherPlace place;
  place.launcher = "torchrun";
  place.rank = numbers.number("RANK");
  place.size = numbers.number("WORLD_SIZE");
  place.local_rank = numbers.number("LOCAL_RANK");
  place.local_size = numbers.number("LOCAL_WORLD_SIZE");
  number_the_hosts(&place);
  // Every run is called "none" unless it is given a name; its agent's port is its own.
  place.job_id = "torchrun-" + numbers.text("TORCHELASTIC_RUN_ID") + "-" +
                 numbers.text("MASTER_PORT") + "-" + numbers.text("TORCHELASTIC_RESTART_COUNT");
  return checked(numbers, place);
}

Found open_mpi(Numbers numbers) {
  LauncherPlace place;
  place.launcher = "mpirun (Open MPI)";
  place.rank = numbers.number("OMPI_COMM_WORLD_RANK");
  place.size = numbers.number("OMPI_COMM_WORLD_SIZE");
  place.local_rank = numbers.number("OMPI_COMM_WORLD_LOCAL_RANK");
  place.local_size = numbers.number("OMPI_COMM_WORLD_LOCAL_SIZE");
  number_the_hosts(&place);
  const std::string name = numbers.text("PMIX_NAMESPACE");
  const std::string number = numbers.text("OMPI_MCA_ess_base_jobid");
  if (!name.empty() || !number.empty()) place.job_id = "openmpi-" + (name.empty() ? number : name);
  return checked(numbers, place);
}

Found mpich(Numbers numbers) {
  LauncherPlace place;
  place.launcher = "mpiexec (MPICH)";
  place.rank = numbers.number("PMI_RANK");
  place.size = numbers.number("PMI_SIZE");
  place.local_rank = numbers.number("MPI_LOCALRANKID");
  place.local_size = numbers.number("MPI_LOCALNRANKS");
  number_the_hosts(&place);
  return checked(numbers, place);
}

// "2(x3),1": ranks by host; what host `index` has, or 0.
int64_t ranks_of_host(Numbers* numbers, const char* name, int64_t index) {
  std::string text = numbers->text(name);
  int64_t begin = 0;
  while (!text.empty()) {
    const std::string part = text.substr(0, text.find(','));
    text.erase(0, part.size() + 1);
    const size_t times = part.find("(x");
    const int64_t count = numbers->parse(name, std::string_view(part).substr(0, times));
    const int64_t hosts = times == std::string::npos || part.back() != ')'
                              ? 1
                              : numbers->parse(name, std::string_view(part).substr(
                                                         times + 2, part.size() - times - 3));
    if (index < begin + hosts) return count;
    begin += hosts;
  }
  return 0;
}

Found slurm(Numbers numbers) {
  LauncherPlace place;
  place.launcher = "srun (Slurm)";
  place.rank = numbers.number("SLURM_PROCID");
  place.size = numbers.number("SLURM_STEP_NUM_TASKS");
  place.local_rank = numbers.number("SLURM_LOCALID");
  place.cross_rank = numbers.number("SLURM_NODEID");
  place.cross_size = numbers.number("SLURM_STEP_NUM_NODES");
  place.local_size = ranks_of_host(&numbers, "SLURM_STEP_TASKS_PER_NODE", place.cross_rank);
  place.job_id = "slurm-" + numbers.text("SLURM_JOB_ID") + "." + numbers.text("SLURM_STEP_ID");
  return checked(numbers, place);
}

}  // namespace

Result<std::optional<LauncherPlace>> find_launcher_place(const Variables& variables) {
  const Numbers numbers(variables);
  if (numbers.has_all(
          {"TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"})) {
    return torchrun(numbers);
  }
  if (numbers.has_all({"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
                       "OMPI_COMM_WORLD_LOCAL_SIZE"})) {
    return open_mpi(numbers);
  }
  if (numbers.has_all({"PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"})) {
    return mpich(numbers);
  }
  // srun sets these for the tasks of a step only: not sbatch's script, nor salloc's shell.
  if (numbers.has_all({"SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_NODES",
                       "SLURM_STEP_TASKS_PER_NODE", "SLURM_PROCID", "SLURM_LOCALID",
                       "SLURM_NODEID"})) {
    return slurm(numbers);
  }
  return std::optional<LauncherPlace>();
}

}  // namespace khorus::base

// See launcher_place.h.
#include "core/base/launcher_place.h"

#include <charconv>
#include <initializer_list>

#include "core/base/slurm_lists.h"

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
  int64_t number(const char* name) {
    const std::string digits = text(name);
    int64_t value = -1;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    const bool good = error == std::errc() && end == digits.data() + digits.size() && value >= 0 &&
                      value <= INT32_MAX;
    if (!good) complain(name, "\"" + digits + "\": expected a number from 0 on");
    return good ? value : 0;
  }
  void complain(const char* name, const std::string& why) {
    if (problem_.empty()) problem_ = std::string(name) + "=" + why;
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

// Beside the port that is PyTorch's: its own store may be there, as torchrun's is.
std::string store_beside_master(Numbers* numbers) {
  const std::string host = numbers->text("MASTER_ADDR");
  const bool v6 = host.find(':') != std::string::npos && host.front() != '[';
  return (v6 ? "[" + host + "]" : host) + ":" + std::to_string(numbers->number("MASTER_PORT") + 1);
}

Found checked(Numbers numbers, LauncherPlace place) {
  if (place.cross_size == 1) place.store.clear();
  if (place.cross_size > 1 && numbers.has_all({"MASTER_ADDR", "MASTER_PORT"})) {
    place.store = store_beside_master(&numbers);
  }
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
  place.error_file = numbers.text("TORCHELASTIC_ERROR_FILE");
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

// What host `index` has, or 0.
int64_t ranks_of_host(Numbers* numbers, const char* name, int64_t index) {
  const auto counts = expand_counts(numbers->text(name));
  if (!counts.ok()) numbers->complain(name, counts.status().message());
  const bool is_there = counts.ok() && index < static_cast<int64_t>(counts->size());
  return is_there ? (*counts)[static_cast<size_t>(index)] : 0;
}

// Rank 0 is on the first node, unless the tasks were distributed in another order. The port is one
// that the system gives to nobody by itself, and differs from step to step.
std::string store_of_step(Numbers* numbers) {
  const std::string list = numbers->text("SLURM_STEP_NODELIST");
  if (list.empty()) return "";
  const auto names = expand_node_list(list);
  if (!names.ok()) {
    numbers->complain("SLURM_STEP_NODELIST", names.status().message());
    return "";
  }
  const int64_t number = 31 * numbers->number("SLURM_JOB_ID") + numbers->number("SLURM_STEP_ID");
  return names->front() + ":" + std::to_string(20000 + number % 10000);
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
  if (place.cross_size > 1) place.store = store_of_step(&numbers);
  place.job_id = "slurm-" + numbers.text("SLURM_JOB_ID") + "." + numbers.text("SLURM_STEP_ID");
  return checked(numbers, place);
}

// What PyTorch's own programs are told: by the Kubeflow trainer's PyTorchJob, or by hand. A process
// is the only one of its host unless it is told otherwise.
Found environment(Numbers numbers) {
  LauncherPlace place;
  place.launcher = "RANK and WORLD_SIZE";
  place.rank = numbers.number("RANK");
  place.size = numbers.number("WORLD_SIZE");
  if (numbers.has_all({"LOCAL_RANK"})) place.local_rank = numbers.number("LOCAL_RANK");
  if (numbers.has_all({"LOCAL_WORLD_SIZE"})) place.local_size = numbers.number("LOCAL_WORLD_SIZE");
  number_the_hosts(&place);
  place.job_id = "environment-" + numbers.text("MASTER_PORT");
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
  if (numbers.has_all({"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"})) {
    return environment(numbers);
  }
  return std::optional<LauncherPlace>();
}

}  // namespace khorus::base

// What other launchers leave in the environment, as they leave it, and what is made of it.
#include "core/base/launcher_place.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "khorus/options.h"

namespace khorus::base {
namespace {

using Variables = std::map<std::string, std::string>;
using ::testing::HasSubstr;

const Variables kOpenMpi = {{"OMPI_COMM_WORLD_RANK", "5"},
                            {"OMPI_COMM_WORLD_SIZE", "8"},
                            {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                            {"OMPI_COMM_WORLD_LOCAL_SIZE", "4"},
                            {"OMPI_MCA_ess_base_jobid", "1140129793"},
                            {"PMIX_NAMESPACE", "1140129793"},
                            {"PMIX_RANK", "5"}};
const Variables kTorchrun = {{"RANK", "1"},
                             {"WORLD_SIZE", "2"},
                             {"LOCAL_RANK", "1"},
                             {"LOCAL_WORLD_SIZE", "2"},
                             {"MASTER_PORT", "29500"},
                             {"TORCHELASTIC_RESTART_COUNT", "0"},
                             {"TORCHELASTIC_RUN_ID", "none"}};
const Variables kMpich = {{"PMI_RANK", "2"},
                          {"PMI_SIZE", "3"},
                          {"PMI_FD", "7"},
                          {"MPI_LOCALNRANKS", "3"},
                          {"MPI_LOCALRANKID", "2"}};
const Variables kSlurm = {{"SLURM_JOB_ID", "77"},        {"SLURM_STEP_ID", "3"},
                          {"SLURM_PROCID", "6"},         {"SLURM_LOCALID", "0"},
                          {"SLURM_NODEID", "3"},         {"SLURM_STEP_NUM_TASKS", "7"},
                          {"SLURM_STEP_NUM_NODES", "4"}, {"SLURM_STEP_TASKS_PER_NODE", "2(x3),1"}};
const Variables kEnvironment = {{"RANK", "3"},
                                {"WORLD_SIZE", "4"},
                                {"MASTER_ADDR", "train-master-0"},
                                {"MASTER_PORT", "23456"}};

std::optional<LauncherPlace> found_in(const Variables& variables) {
  const auto found = find_launcher_place(variables);
  EXPECT_TRUE(found.ok()) << found.status().to_string();
  return found.ok() ? *found : std::nullopt;
}

// "launcher job rank/size local/local cross/cross"
std::string text_of(const Variables& variables) {
  const auto place = found_in(variables);
  if (!place) return "none";
  const auto part = [](int64_t rank, int64_t size) {
    return " " + std::to_string(rank) + "/" + std::to_string(size);
  };
  return place->launcher + " " + place->job_id + part(place->rank, place->size) +
         part(place->local_rank, place->local_size) + part(place->cross_rank, place->cross_size);
}

Variables with(Variables variables, const Variables& more) {
  for (const auto& [name, value] : more) variables[name] = value;
  return variables;
}
Variables without(Variables variables, const std::string& name) {
  variables.erase(name);
  return variables;
}

TEST(LauncherPlace, IsReadAsEachLauncherLeavesIt) {
  EXPECT_EQ(text_of(kOpenMpi), "mpirun (Open MPI) openmpi-1140129793 5/8 1/4 1/2");
  EXPECT_EQ(text_of(kTorchrun), "torchrun torchrun-none-29500-0 1/2 1/2 0/1");
  EXPECT_EQ(text_of(kMpich), "mpiexec (MPICH)  2/3 2/3 0/1");
  EXPECT_EQ(text_of(kSlurm), "srun (Slurm) slurm-77.3 6/7 0/1 3/4");
  EXPECT_EQ(text_of(with(kSlurm, {{"SLURM_NODEID", "2"}, {"SLURM_PROCID", "4"}})),
            "srun (Slurm) slurm-77.3 4/7 0/2 2/4");
}

TEST(LauncherPlace, OlderOpenMpiNamesTheJobElsewhere) {
  EXPECT_EQ(text_of(without(kOpenMpi, "PMIX_NAMESPACE")),
            "mpirun (Open MPI) openmpi-1140129793 5/8 1/4 1/2");
}

TEST(LauncherPlace, PlainVariablesOfPyTorch) {
  EXPECT_EQ(text_of(kEnvironment), "RANK and WORLD_SIZE environment-23456 3/4 0/1 3/4");
  const Variables local = {{"LOCAL_RANK", "1"}, {"LOCAL_WORLD_SIZE", "2"}};
  EXPECT_EQ(text_of(with(kEnvironment, local)),
            "RANK and WORLD_SIZE environment-23456 3/4 1/2 1/2");
  EXPECT_EQ(text_of(without(kEnvironment, "MASTER_ADDR")), "none");
  EXPECT_THAT(text_of(with(kEnvironment, kSlurm)), HasSubstr("Slurm"));
}

TEST(LauncherPlace, WhereSeveralHostsMeet) {
  const auto store_of = [](const Variables& variables) { return found_in(variables)->store; };
  EXPECT_EQ(store_of(kEnvironment), "train-master-0:23457");
  EXPECT_EQ(store_of(with(kEnvironment, {{"MASTER_ADDR", "fd00::7"}})), "[fd00::7]:23457");
  const Variables nodes = with(kSlurm, {{"SLURM_STEP_NODELIST", "gpu[07-09],login"}});
  EXPECT_EQ(store_of(nodes), "gpu07:22390");
  EXPECT_EQ(store_of(with(nodes, kEnvironment)), "train-master-0:23457");
  // One host needs none; and what nobody named is not guessed.
  EXPECT_EQ(store_of(kTorchrun), "");
  EXPECT_EQ(store_of(kSlurm), "");
  EXPECT_EQ(store_of(kOpenMpi), "");
}

TEST(LauncherPlace, NothingWithoutALauncher) {
  EXPECT_EQ(text_of({}), "none");
  // Names that many programs use, without torchrun's own.
  EXPECT_EQ(text_of(without(kTorchrun, "TORCHELASTIC_RUN_ID")), "none");
  // The shell of salloc and the script of sbatch are no step, whatever else they know.
  EXPECT_EQ(text_of(without(kSlurm, "SLURM_STEP_ID")), "none");
  EXPECT_EQ(text_of(without(kOpenMpi, "OMPI_COMM_WORLD_SIZE")), "none");
}

TEST(LauncherPlace, TheInnerLauncherCounts) {
  EXPECT_THAT(text_of(with(kSlurm, kOpenMpi)), HasSubstr("Open MPI"));
  EXPECT_THAT(text_of(with(kSlurm, kTorchrun)), HasSubstr("torchrun"));
  EXPECT_THAT(text_of(with(kSlurm, kMpich)), HasSubstr("MPICH"));
  // srun with PMI-2 sets PMI_RANK too.
  EXPECT_THAT(text_of(with(kSlurm, {{"PMI_RANK", "6"}, {"PMI_SIZE", "7"}})), HasSubstr("Slurm"));
}

TEST(LauncherPlace, WhatCannotBeIsAnError) {
  const auto error_of = [](const Variables& variables) {
    const auto found = find_launcher_place(variables);
    return found.ok() ? "no error" : found.status().to_string();
  };
  const std::string text = error_of(with(kOpenMpi, {{"OMPI_COMM_WORLD_RANK", "two"}}));
  EXPECT_THAT(text, HasSubstr("invalid argument: OMPI_COMM_WORLD_RANK=\"two\""));
  EXPECT_THAT(text, HasSubstr("KHORUS_RANK"));
  EXPECT_THAT(error_of(with(kOpenMpi, {{"OMPI_COMM_WORLD_RANK", "8"}})), HasSubstr("rank 8 of 8"));
  EXPECT_THAT(error_of(with(kOpenMpi, {{"OMPI_COMM_WORLD_LOCAL_SIZE", "0"}})),
              HasSubstr("local rank 1 of 0"));
  EXPECT_THAT(error_of(with(kTorchrun, {{"WORLD_SIZE", "-2"}})), HasSubstr("WORLD_SIZE=\"-2\""));
  EXPECT_THAT(error_of(with(kSlurm, {{"SLURM_STEP_TASKS_PER_NODE", "many"}})),
              HasSubstr("SLURM_STEP_TASKS_PER_NODE"));
  EXPECT_THAT(error_of(with(kSlurm, {{"SLURM_STEP_TASKS_PER_NODE", "2(x"}})),
              HasSubstr("invalid argument"));
  EXPECT_THAT(error_of(with(kSlurm, {{"SLURM_STEP_NODELIST", "n[3-"}})),
              HasSubstr("SLURM_STEP_NODELIST=\"n[3-\": a \"[\" has no \"]\""));
  EXPECT_THAT(error_of(with(kEnvironment, {{"MASTER_PORT", "http"}})),
              HasSubstr("MASTER_PORT=\"http\""));
}

TEST(LauncherPlace, OurOwnVariablesWin) {
  const auto config = Config::from_map(
      with(kOpenMpi, {{"KHORUS_RANK", "1"}, {"KHORUS_SIZE", "2"}, {"KHORUS_JOB_ID", "mine"}}));
  ASSERT_TRUE(config.ok());
  EXPECT_EQ(config->rank, 1);
  EXPECT_EQ(config->size, 2);
  EXPECT_EQ(config->local_size, -1);
  EXPECT_EQ(config->launcher, "");
  EXPECT_EQ(config->job_id, "mine");
}

TEST(LauncherPlace, FillsTheConfig) {
  const auto config = Config::from_map(with(kOpenMpi, {{"KHORUS_JOB_ID", "mine"}}));
  ASSERT_TRUE(config.ok());
  EXPECT_EQ(config->rank, 5);
  EXPECT_EQ(config->size, 8);
  EXPECT_EQ(config->local_rank, 1);
  EXPECT_EQ(config->cross_size, 2);
  EXPECT_EQ(config->launcher, "mpirun (Open MPI)");
  EXPECT_EQ(config->job_id, "mine");
}

}  // namespace
}  // namespace khorus::base

// What khorusrun takes from where it runs: a Slurm allocation, and torchrun's variables.
#include "core/launch/allocation.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "core/launch/ssh.h"

namespace khorus::launch {
namespace {

using Variables = std::map<std::string, std::string>;
using Words = std::vector<std::string>;

const Variables kSlurm = {{"SLURM_JOB_ID", "7"},
                          {"SLURM_JOB_NODELIST", "gpu[08-10]"},
                          {"SLURM_TASKS_PER_NODE", "2(x2),1"},
                          {"SLURM_JOB_CPUS_PER_NODE", "4(x3)"}};
const Variables kTorch = {{"PET_NNODES", "2"},
                          {"PET_NPROC_PER_NODE", "3"},
                          {"PET_NODE_RANK", "1"},
                          {"PET_MASTER_ADDR", "job-node-0-0.job"},
                          {"PET_MASTER_PORT", "29400"}};

Variables with(Variables variables, const Variables& more) {
  for (const auto& [name, value] : more) variables[name] = value;
  return variables;
}

// "host:slots host:slots", or why not
std::string hosts_in(const Variables& variables) {
  const auto hosts = slurm_hosts(variables);
  if (!hosts.ok()) return hosts.status().message();
  std::string text;
  for (const Host& host : *hosts) {
    text += (text.empty() ? "" : " ") + host.name + ":" + std::to_string(host.slots);
  }
  return text;
}

Result<LaunchOptions> parsed(Words words, const Variables& variables) {
  words.push_back("prog");
  return parse_options(words, variables);
}

TEST(Allocation, TheNodesOfASlurmJob) {
  EXPECT_EQ(hosts_in(kSlurm), "gpu08:2 gpu09:2 gpu10:1");
  EXPECT_EQ(hosts_in(with(kSlurm, {{"SLURM_TASKS_PER_NODE", ""}})), "gpu08:4 gpu09:4 gpu10:4");
  EXPECT_EQ(hosts_in(with(kSlurm, {{"SLURMD_NODENAME", "gpu09"}})), "gpu08:2 localhost:2 gpu10:1");
  // A shell that is a step of its own, and a program that Slurm has started many times.
  EXPECT_EQ(hosts_in(with(kSlurm, {{"SLURM_STEP_NUM_TASKS", "1"}})), "gpu08:2 gpu09:2 gpu10:1");
  EXPECT_EQ(hosts_in(with(kSlurm, {{"SLURM_STEP_NUM_TASKS", "5"}})), "");
  EXPECT_EQ(hosts_in({}), "");
}

TEST(Allocation, WhatCannotBe) {
  EXPECT_EQ(hosts_in(with(kSlurm, {{"SLURM_TASKS_PER_NODE", "2"}})),
            "SLURM_TASKS_PER_NODE=\"2\": expected a number for each of 3 nodes; -H names the hosts "
            "instead");
  EXPECT_EQ(hosts_in(with(kSlurm, {{"SLURM_TASKS_PER_NODE", "2(x2),0"}})).substr(0, 20),
            "SLURM_TASKS_PER_NODE");
  EXPECT_EQ(hosts_in(with(kSlurm, {{"SLURM_JOB_NODELIST", "gpu[8"}})),
            "SLURM_JOB_NODELIST=\"gpu[8\": a \"[\" has no \"]\"; -H names the hosts instead");
}

TEST(Allocation, KhorusrunTakesItsNodes) {
  const auto options = parsed({}, kSlurm);
  ASSERT_TRUE(options.ok()) << options.status().to_string();
  EXPECT_EQ(options->processes, 5);
  EXPECT_EQ(options->hosts.size(), 3u);
  EXPECT_TRUE(options->ssh.by_srun);
  const auto fewer = parsed({"-np", "3"}, kSlurm);
  ASSERT_TRUE(fewer.ok());
  EXPECT_EQ(place_ranks(fewer->hosts, fewer->processes).size(), 2u);
  EXPECT_FALSE(parsed({"-np", "6"}, kSlurm).ok());
}

TEST(Allocation, TheCommandLineComesFirst) {
  const auto named = parsed({"-H", "localhost:2"}, kSlurm);
  ASSERT_TRUE(named.ok());
  EXPECT_EQ(named->hosts.size(), 1u);
  EXPECT_FALSE(named->ssh.by_srun);
  const auto by_ssh = parsed({"--ssh-command", "ssh -F file"}, kSlurm);
  ASSERT_TRUE(by_ssh.ok());
  EXPECT_EQ(by_ssh->hosts.size(), 3u);
  EXPECT_FALSE(by_ssh->ssh.by_srun);
}

TEST(Allocation, OneNodeMayHaveMoreRanksThanTasks) {
  const Variables one =
      with(kSlurm, {{"SLURM_JOB_NODELIST", "localhost"}, {"SLURM_TASKS_PER_NODE", "1"}});
  const auto options = parsed({"-np", "4"}, one);
  ASSERT_TRUE(options.ok()) << options.status().to_string();
  EXPECT_EQ(options->processes, 4);
  EXPECT_EQ(options->hosts[0].slots, 4);
}

TEST(Allocation, MpirunAsksSlurmItself) {
  const auto options = parsed({"--mpi"}, kSlurm);
  ASSERT_TRUE(options.ok()) << options.status().to_string();
  EXPECT_EQ(options->processes, 5);
  EXPECT_TRUE(options->hosts.empty());
}

TEST(Allocation, SrunStartsTheAgent) {
  SshOptions options;
  options.by_srun = true;
  const Host host{.user = "", .name = "gpu09", .slots = 1, .here = false};
  const auto words = ssh_command(options, host, "/usr/bin/khorusrun", 30);
  ASSERT_TRUE(words.ok());
  EXPECT_EQ(words->front(), "srun");
  EXPECT_NE(std::find(words->begin(), words->end(), "--nodelist=gpu09"), words->end());
  EXPECT_EQ((Words{words->end() - 3, words->end()}),
            (Words{"/usr/bin/khorusrun", "--agent", "30"}));
}

TEST(Allocation, VariablesOfTorchrun) {
  const auto options = parsed({}, kTorch);
  ASSERT_TRUE(options.ok()) << options.status().to_string();
  EXPECT_EQ(options->nodes, 2);
  EXPECT_EQ(options->node_rank, 1);
  EXPECT_EQ(options->processes, 3);
  EXPECT_EQ(options->rendezvous, "job-node-0-0.job:29400");
  const auto flags = parsed({"-np", "1", "--node-rank", "0", "--rdzv-endpoint", "a:1"}, kTorch);
  ASSERT_TRUE(flags.ok()) << flags.status().to_string();
  EXPECT_EQ(flags->node_rank, 0);
  EXPECT_EQ(flags->processes, 1);
  EXPECT_EQ(flags->rendezvous, "a:1");
  // -H is another way to say where to run.
  const auto hosts = parsed({"-H", "localhost:2"}, kTorch);
  ASSERT_TRUE(hosts.ok()) << hosts.status().to_string();
  EXPECT_EQ(hosts->nodes, 1);
}

TEST(Allocation, VariablesOfTorchrunThatSayTooLittle) {
  const auto automatic = parsed({}, with(kTorch, {{"PET_NPROC_PER_NODE", "auto"}}));
  ASSERT_FALSE(automatic.ok());
  EXPECT_EQ(automatic.status().message(), "how many ranks? Give -np N");
  const auto elastic = parsed({}, with(kTorch, {{"PET_NNODES", "1:2"}}));
  ASSERT_FALSE(elastic.ok());
  EXPECT_EQ(elastic.status().message(),
            "PET_NNODES \"1:2\": expected a whole number from 1 to 8192");
  // Without PET_NNODES the others mean nothing.
  EXPECT_EQ(parsed({"-np", "2"}, {{"PET_NODE_RANK", "7"}})->node_rank, 0);
}

}  // namespace
}  // namespace khorus::launch

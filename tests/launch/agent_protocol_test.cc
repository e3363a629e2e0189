// What launcher and agents say arrives as it was said, and nothing else is taken for it.
#include "core/launch/agent_protocol.h"

#include <gtest/gtest.h>

namespace khorus::launch {
namespace {

AgentPlan a_plan() {
  AgentPlan plan;
  plan.job_id = "job";
  plan.key = *net::JobKey::generate();
  plan.store = "10.0.0.1:4711";
  plan.directory = "/tmp";
  plan.variables = {{"A", "two\nlines '$x'"}, {"B", ""}};
  plan.program = {"prog", "", "a b"};
  plan.first_rank = 2;
  plan.ranks = 3;
  plan.size = 5;
  plan.host_index = 1;
  plan.hosts = 2;
  plan.start_timeout_ms = 1500;
  plan.host_silence_s = 15;
  return plan;
}

TEST(AgentProtocol, APlanArrivesWhole) {
  const AgentPlan plan = a_plan();
  const auto message = decode_launcher_message(encode(LauncherMessage(plan)));
  ASSERT_TRUE(message);
  const AgentPlan& there = std::get<AgentPlan>(*message);
  EXPECT_TRUE(there.key == plan.key);
  EXPECT_EQ(there.store, plan.store);
  EXPECT_EQ(there.directory, plan.directory);
  EXPECT_EQ(there.variables, plan.variables);
  EXPECT_EQ(there.program, plan.program);
  EXPECT_EQ(there.first_rank, 2);
  EXPECT_EQ(there.ranks, 3);
  EXPECT_EQ(there.size, 5);
  EXPECT_EQ(there.host_index, 1);
  EXPECT_EQ(there.hosts, 2);
  EXPECT_EQ(there.start_timeout_ms, 1500);
}

TEST(AgentProtocol, AgentsMessagesArriveWhole) {
  AgentPage page;
  page.rank = 3;
  page.contents = {"allreduce \"w\"", 12, "peer lost", 2};
  const auto message = decode_agent_message(encode(AgentMessage(page)));
  ASSERT_TRUE(message);
  const AgentPage& there = std::get<AgentPage>(*message);
  EXPECT_EQ(there.rank, 3);
  EXPECT_EQ(there.contents.last_operation, "allreduce \"w\"");
  EXPECT_EQ(there.contents.operations, 12u);
  EXPECT_EQ(there.contents.lost_rank, 2);
  const auto output =
      decode_agent_message(encode(AgentMessage(AgentOutput{1, true, std::string("a\0b\n", 4)})));
  ASSERT_TRUE(output);
  EXPECT_EQ(std::get<AgentOutput>(*output).bytes, std::string("a\0b\n", 4));
  EXPECT_TRUE(std::get<AgentOutput>(*output).is_error);
}

TEST(AgentProtocol, EveryTruncationAndAddedByteIsRefused) {
  std::vector<std::byte> bytes = encode(LauncherMessage(a_plan()));
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_FALSE(decode_launcher_message(std::span(bytes).first(size))) << size;
  }
  bytes.push_back(std::byte{0});
  EXPECT_FALSE(decode_launcher_message(bytes));
  EXPECT_FALSE(decode_agent_message(std::vector<std::byte>(1, std::byte{77})));
}

TEST(AgentProtocol, PlacesThatDoNotExistAreRefused) {
  const auto refused = [](auto change) {
    AgentPlan plan = a_plan();
    change(&plan);
    return !decode_launcher_message(encode(LauncherMessage(plan)));
  };
  EXPECT_FALSE(refused([](AgentPlan*) {}));
  EXPECT_TRUE(refused([](AgentPlan* plan) { plan->ranks = 4; }));
  EXPECT_TRUE(refused([](AgentPlan* plan) { plan->ranks = 0; }));
  EXPECT_TRUE(refused([](AgentPlan* plan) { plan->first_rank = -1; }));
  EXPECT_TRUE(refused([](AgentPlan* plan) { plan->host_index = 2; }));
  EXPECT_TRUE(refused([](AgentPlan* plan) { plan->program.clear(); }));
}

}  // namespace
}  // namespace khorus::launch

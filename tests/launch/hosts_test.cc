// Which hosts a command line names, which ranks they get, and the ssh that reaches them.
#include "core/launch/hosts.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "core/launch/ssh.h"

namespace khorus::launch {
namespace {

std::string described(const Result<std::vector<Host>>& hosts) {
  if (!hosts.ok()) return "refused: " + hosts.status().message();
  std::string text;
  for (const Host& host : *hosts) {
    text += host.user + "|" + host.name + "|" + std::to_string(host.slots) + " ";
  }
  return text;
}

TEST(Hosts, AllForms) {
  EXPECT_EQ(described(parse_hosts("node1")), "|node1|1 ");
  EXPECT_EQ(described(parse_hosts("node1:4,alice@node2:2")), "|node1|4 alice|node2|2 ");
  EXPECT_EQ(described(parse_hosts("[fe80::1]:2,bob@[::1]")), "|fe80::1|2 bob|::1|1 ");
}

TEST(Hosts, WhatIsRefused) {
  for (const char* text : {"", "node1:0", "node1:x", "node1:", ":2", "-oProxyCommand=x:2", "@a:1",
                           "-x@a:1", "fe80::1", "a b:1", "node1:99999"}) {
    EXPECT_EQ(described(parse_hosts(text)).substr(0, 8), "refused:") << text;
  }
}

TEST(Hosts, ThisMachineIsKnownByItsAddressesAndNames) {
  EXPECT_TRUE(is_this_machine("localhost"));
  EXPECT_TRUE(is_this_machine("127.0.0.1"));
  EXPECT_TRUE(is_this_machine("127.3.2.1"));
  EXPECT_TRUE(is_this_machine(host_name()));
  EXPECT_FALSE(is_this_machine("192.0.2.1"));  // TEST-NET-1 of RFC 5737
}

TEST(Hosts, NamedTwiceIsOne) {
  const auto hosts = merge_hosts(*parse_hosts("localhost:2,192.0.2.1:1,127.0.0.1:3,192.0.2.1:4"));
  ASSERT_EQ(hosts.size(), 2u);
  EXPECT_TRUE(hosts[0].here);
  EXPECT_EQ(hosts[0].slots, 5);
  EXPECT_FALSE(hosts[1].here);
  EXPECT_EQ(hosts[1].slots, 5);
}

TEST(Hosts, AreFilledInTheirOrder) {
  const auto placed = place_ranks(*parse_hosts("a:2,b:3,c:1"), 4);
  ASSERT_EQ(placed.size(), 2u);
  EXPECT_EQ(placed[0].first, 0);
  EXPECT_EQ(placed[0].count, 2);
  EXPECT_EQ(placed[1].first, 2);
  EXPECT_EQ(placed[1].count, 2);
  const auto here = place_ranks({}, 3);
  ASSERT_EQ(here.size(), 1u);
  EXPECT_TRUE(here[0].host.here);
  EXPECT_EQ(here[0].count, 3);
}

TEST(Ssh, OptionsComeBeforeTheHostAndOneWordAfterIt) {
  SshOptions options;
  options.command = "ssh -F 'my config'";
  options.port = 2222;
  options.identity_file = "id file";
  options.user = "bob";
  const auto command = ssh_command(options, Host{"", "node1", 1, false}, "/it's/khorusrun", 30);
  ASSERT_TRUE(command.ok());
  const std::vector<std::string>& words = *command;
  EXPECT_EQ(words[0], "ssh");
  EXPECT_EQ(words[2], "my config");
  EXPECT_EQ(words.back(), "exec '/it'\\''s/khorusrun' --agent 30");
  EXPECT_EQ(words[words.size() - 2], "node1");
  const auto has = [&](const std::string& flag, const std::string& value) {
    const auto at = std::ranges::find(words, flag);
    return at != words.end() && *(at + 1) == value;
  };
  EXPECT_TRUE(has("-p", "2222"));
  EXPECT_TRUE(has("-i", "id file"));
  EXPECT_TRUE(has("-l", "bob"));
  options.command = "ssh 'open";
  EXPECT_FALSE(ssh_command(options, Host{"", "node1", 1, false}, "khorusrun", 30).ok());
}

TEST(Ssh, AHostsOwnUserWins) {
  SshOptions options;
  options.user = "bob";
  const auto command = ssh_command(options, Host{"alice", "node1", 1, false}, "khorusrun", 30);
  ASSERT_TRUE(command.ok());
  EXPECT_NE(std::ranges::find(*command, "alice"), command->end());
  EXPECT_EQ(std::ranges::find(*command, "bob"), command->end());
}

}  // namespace
}  // namespace khorus::launch

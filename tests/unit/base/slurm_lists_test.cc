// Slurm's lists of nodes and of numbers, in the forms that Slurm writes, and in others.
#include "core/base/slurm_lists.h"

#include <gtest/gtest.h>

namespace khorus::base {
namespace {

std::string names_of(const std::string& text) {
  const auto names = expand_node_list(text);
  if (!names.ok()) return "refused";
  std::string all;
  for (const std::string& name : *names) all += (all.empty() ? "" : " ") + name;
  return all;
}

std::string counts_of(const std::string& text) {
  const auto counts = expand_counts(text);
  if (!counts.ok()) return "refused";
  std::string all;
  for (const int64_t count : *counts) all += (all.empty() ? "" : " ") + std::to_string(count);
  return all;
}

TEST(SlurmLists, Names) {
  EXPECT_EQ(names_of("vm"), "vm");
  EXPECT_EQ(names_of("a,b.example.com,c-3"), "a b.example.com c-3");
  EXPECT_EQ(names_of("node[1-3]"), "node1 node2 node3");
  EXPECT_EQ(names_of("node[1-2,5,9-10]"), "node1 node2 node5 node9 node10");
  EXPECT_EQ(names_of("node[7]"), "node7");
  EXPECT_EQ(names_of("login,gpu[1-2],cpu9"), "login gpu1 gpu2 cpu9");
  EXPECT_EQ(names_of("10.0.0.[1-2]"), "10.0.0.1 10.0.0.2");
}

TEST(SlurmLists, LeadingZerosStay) {
  EXPECT_EQ(names_of("n[08-11]"), "n08 n09 n10 n11");
  EXPECT_EQ(names_of("n[098-101,7]"), "n098 n099 n100 n101 n7");
}

TEST(SlurmLists, SeveralRangesInOneName) {
  EXPECT_EQ(names_of("r[1-2]n[0-1]"), "r1n0 r1n1 r2n0 r2n1");
  EXPECT_EQ(names_of("r[1,3]n[0-1]-ib"), "r1n0-ib r1n1-ib r3n0-ib r3n1-ib");
  EXPECT_EQ(names_of("[1-2]"), "1 2");
}

TEST(SlurmLists, NamesThatAreNone) {
  for (const char* text : {"",           ",",
                           "a,",         ",a",
                           "a,,b",       "n[",
                           "n[1",        "n[]",
                           "n[1-]",      "n[-1]",
                           "n[3-1]",     "n[a]",
                           "n]",         "n[1-2",
                           "n[[1]]",     "n[1,]x]",
                           "a b",        "n[1-99999999999]",
                           "n[1-70000]", "a[1-1000]b[1-1000]",
                           "n[1--2]",    "n[+1]"}) {
    EXPECT_EQ(names_of(text), "refused") << text;
  }
  EXPECT_EQ(expand_node_list("n[3-1]").status().message(),
            "\"n[3-1]\": expected ranges such as [1-4,07]");
}

TEST(SlurmLists, Counts) {
  EXPECT_EQ(counts_of("2"), "2");
  EXPECT_EQ(counts_of("2(x3)"), "2 2 2");
  EXPECT_EQ(counts_of("2(x3),1"), "2 2 2 1");
  EXPECT_EQ(counts_of("16,8(x2),4"), "16 8 8 4");
  EXPECT_EQ(counts_of("0"), "0");
}

TEST(SlurmLists, CountsThatAreNone) {
  for (const char* text : {"", "many", "2(x", "2(x)", "2(3)", "2(x0)", "-1", "2(x70000)", "2,,1",
                           "2(x3),", "2 ", "2(x3)1", "99999999999"}) {
    EXPECT_EQ(counts_of(text), "refused") << text;
  }
}

}  // namespace
}  // namespace khorus::base

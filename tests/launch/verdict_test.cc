// Who is named as the first to fail, with which exit code.
#include "core/launch/verdict.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

namespace khorus::launch {
namespace {

RankOutcome ended(int code, int signal, int order) {
  RankOutcome rank;
  rank.pid = 100 + order;
  rank.wait_status = W_EXITCODE(code, signal);
  rank.order = order;
  return rank;
}

std::string all_lines(const Verdict& verdict) {
  std::string text;
  for (const std::string& line : verdict.lines) text += line + "\n";
  return text;
}

TEST(Verdict, SuccessSaysNothing) {
  JobOutcome job;
  job.ranks = {ended(0, 0, 0), ended(0, 0, 1)};
  const Verdict verdict = judge(job);
  EXPECT_EQ(verdict.exit_code, 0);
  EXPECT_TRUE(verdict.lines.empty());
}

TEST(Verdict, AllThatIsKnownInSixLinesAtMost) {
  JobOutcome job;
  job.host = "node1";
  job.logs = "out/rank.*/stdout and stderr";
  job.ranks = {ended(1, 0, 2), ended(0, SIGKILL, 0), ended(0, SIGTERM, 3), ended(0, SIGKILL, 4),
               ended(1, 0, 1)};
  job.ranks[1].last_words = "Traceback\tand more";
  job.ranks[1].page.last_operation = "allreduce \"w\"";
  job.ranks[1].page.operations = 12;
  job.ranks[2].stopped_with = SIGTERM;
  job.ranks[3].stopped_with = SIGKILL;
  const Verdict verdict = judge(job);
  EXPECT_EQ(verdict.exit_code, 137);
  EXPECT_LE(verdict.lines.size(), 6u);
  EXPECT_EQ(all_lines(verdict),
            "khorusrun: rank 1 failed first: killed by signal 9 (SIGKILL) (pid 100 on node1)\n"
            "khorusrun:   its last words: Traceback and more\n"
            "khorusrun:   its last operation: allreduce \"w\", number 12\n"
            "khorusrun:   because of it: ranks 0,4 failed after it; rank 2 stopped with SIGTERM; "
            "rank 3 killed\n"
            "khorusrun:   logs: out/rank.*/stdout and stderr\n");
}

// A rank that noticed another's end may itself be reaped first.
TEST(Verdict, BlameLeadsToTheCulprit) {
  JobOutcome job;
  job.ranks = {ended(1, 0, 0), ended(1, 0, 1), ended(7, 0, 2)};
  job.ranks[0].page.lost_rank = 1;
  job.ranks[1].page.lost_rank = 2;
  EXPECT_EQ(judge(job).exit_code, 7);
}

TEST(Verdict, BlameOfARankThatDidNotFailIsNotFollowed) {
  JobOutcome job;
  job.ranks = {ended(3, 0, 1), ended(0, 0, 0)};
  job.ranks[0].page.lost_rank = 1;
  EXPECT_EQ(judge(job).exit_code, 3);
  job.ranks[0].page.lost_rank = 99;  // the page is not believed
  EXPECT_EQ(judge(job).exit_code, 3);
}

TEST(Verdict, MutualBlameEnds) {
  JobOutcome job;
  job.ranks = {ended(3, 0, 0), ended(4, 0, 1)};
  job.ranks[0].page.lost_rank = 1;
  job.ranks[1].page.lost_rank = 0;
  EXPECT_NE(judge(job).exit_code, 0);
}

TEST(Verdict, InterruptionIsNobodysFailure) {
  JobOutcome job;
  job.interrupted_by = SIGINT;
  job.ranks = {ended(0, SIGINT, 0), ended(0, SIGKILL, 1)};
  job.ranks[1].stopped_with = SIGKILL;
  const Verdict verdict = judge(job);
  EXPECT_EQ(verdict.exit_code, 130);
  EXPECT_EQ(all_lines(verdict), "khorusrun: interrupted by SIGINT: rank 0 ended; rank 1 killed\n");
  job.ranks = {ended(0, 0, 0), ended(0, 0, 1)};
  EXPECT_EQ(judge(job).exit_code, 0) << "all ended well after it";
}

TEST(Verdict, RanksAreListedShortly) {
  EXPECT_EQ(describe_ranks({3}), "rank 3");
  EXPECT_EQ(describe_ranks({0, 1, 2, 5, 7, 8}), "ranks 0-2,5,7-8");
}

TEST(Verdict, OfMpirunOnlyItsOwnEndIsKnown) {
  JobOutcome job;
  job.by_mpirun = true;
  job.host = "node1";
  job.ranks = {ended(0, 0, 0)};
  EXPECT_EQ(judge(job).exit_code, 0);
  job.ranks = {ended(3, 0, 0)};
  job.ranks[0].last_words = "no data";
  EXPECT_EQ(judge(job).exit_code, 3);
  EXPECT_EQ(all_lines(judge(job)),
            "khorusrun: mpirun failed: exit code 3 (pid 100 on node1)\n"
            "khorusrun:   last words of a rank: no data\n"
            "khorusrun:   logs: not kept; --output-filename DIR keeps them\n");
  job.interrupted_by = SIGINT;
  EXPECT_EQ(judge(job).exit_code, 128 + SIGINT);
  EXPECT_EQ(all_lines(judge(job)), "khorusrun: interrupted by SIGINT: mpirun ended\n");
}

}  // namespace
}  // namespace khorus::launch

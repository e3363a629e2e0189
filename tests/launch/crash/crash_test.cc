// SIGKILL or SIGSTOP to any rank at any moment: every other rank ends by itself within a second,
// with an error that names the victim, and nothing is left behind. Real processes, real sockets and
// shared memory (shm is the default; every fourth job uses gloo, where it was built); the ranks'
// forked children (data-loader workers) outlive the kill.
//
// Which rank, how many, and when follow from a seed, which a failure prints; KHORUS_CRASH_SEED
// repeats one. 100 kills and 10 stops, 2000 and 300 with KHORUS_TEST_SOAK=1.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "khorus/status.h"
#include "tests/launch/crash/crash_job.h"
#include "tests/support/starvation.h"

namespace khorus::test {
namespace {

namespace fs = std::filesystem;

constexpr milliseconds kBound{1000};
constexpr std::chrono::seconds kPatience{30};  // after which the test itself kills everything

Plan plan_of(unsigned seed) {
  std::mt19937 engine(seed);
  const auto random = [&engine] { return static_cast<unsigned>(engine()); };
  Plan plan{};
  plan.size = 2 + static_cast<int>(random() % 3);
  plan.victim = static_cast<int>(random() % static_cast<unsigned>(plan.size));
  const unsigned kind = random() % 10;
  plan.from_start = kind == 0;
  plan.steps = kind < 3 ? static_cast<int>(random() % 20) : -1;
  plan.delay = milliseconds(random() % (plan.from_start ? 60 : 40));
  plan.seed = seed;
  return plan;
}

// Every second one while the data plane is busy, else while nothing moves at all.
Plan stop_plan_of(unsigned seed) {
  Plan plan = plan_of(seed);
  plan.from_start = false;
  plan.idle = seed % 2 == 0;
  plan.steps = plan.idle ? 3 : -1;
  return plan;
}

// The temporary folder of the jobs: what others of this machine do in theirs is not looked at.
class OwnFolder : public ::testing::Environment {
 public:
  void SetUp() override {
    std::string path = (fs::temp_directory_path() / "crash.XXXXXX").string();
    ASSERT_NE(::mkdtemp(path.data()), nullptr);
    folder_ = path;
    ::setenv("TMPDIR", path.c_str(), 1);
  }
  void TearDown() override { fs::remove_all(folder_); }

 private:
  fs::path folder_;
};
[[maybe_unused]] const auto* const own_folder =
    ::testing::AddGlobalTestEnvironment(new OwnFolder);  // GoogleTest deletes it

// Files that a crashed job could leave behind.
std::set<std::string> files() {
  std::set<std::string> names;
  for (const fs::path& folder : {fs::path("/dev/shm"), fs::temp_directory_path()}) {
    std::error_code ignored;
    for (const fs::directory_entry& file : fs::directory_iterator(folder, ignored)) {
      const std::string name = file.path().string();
      if (name.find("khorus") != std::string::npos) names.insert(name);
    }
  }
  return names;
}

void expect_survivor_names_victim(const Plan& plan, const Rank& rank) {
  if (rank.has_said("done\n")) {
    // The job was over before the kill; only short ones can be.
    EXPECT_GE(plan.steps, 0);
    EXPECT_TRUE(WIFEXITED(rank.exit_status) && WEXITSTATUS(rank.exit_status) == 0);
    return;
  }
  EXPECT_TRUE(WIFEXITED(rank.exit_status) && WEXITSTATUS(rank.exit_status) == 3)
      << "wait status " << rank.exit_status << ", said: " << rank.said;
  const size_t at = rank.said.find("failed ");
  ASSERT_NE(at, std::string::npos) << "it said: " << rank.said;
  int code = 0, lost = -1;
  std::string message;
  std::istringstream line(rank.said.substr(at + 7));
  line >> code >> lost;
  std::getline(line, message);
  EXPECT_EQ(code, static_cast<int>(StatusCode::kPeerLost)) << message;
  EXPECT_EQ(lost, plan.victim) << message;
  EXPECT_NE(message.find("rank " + std::to_string(plan.victim)), std::string::npos) << message;
}

// How long survivors took to fail, from the kill on.
std::vector<milliseconds>& known_after() {
  static std::vector<milliseconds> times;
  return times;
}

void report_known_after() {
  std::vector<milliseconds>& times = known_after();
  if (times.empty()) return;
  std::ranges::sort(times);
  const auto at = [&](double part) {
    return times[static_cast<size_t>(part * static_cast<double>(times.size() - 1))].count();
  };
  std::printf("a death is known after (ms): median %ld, p99 %ld, longest %ld, of %zu\n",
              static_cast<long>(at(0.5)), static_cast<long>(at(0.99)), static_cast<long>(at(1)),
              times.size());
  times.clear();
}

void run(unsigned seed) {
  const Plan plan = plan_of(seed);
  SCOPED_TRACE("KHORUS_CRASH_SEED=" + std::to_string(seed) + ": rank " +
               std::to_string(plan.victim) + " of " + std::to_string(plan.size) + " killed " +
               std::to_string(plan.delay.count()) + " ms after " +
               (plan.from_start ? "its start" : "all were ready") + ", steps " +
               std::to_string(plan.steps));
  const std::set<std::string> files_before = files();
  Job job(plan);
  const Clock::time_point patience = Clock::now() + kPatience;
  if (!plan.from_start) {
    ASSERT_TRUE(job.wait_until([&] { return job.all_ready(); }, patience)) << job.rank(0).said;
  }
  const Clock::time_point kill_at = Clock::now() + plan.delay;
  Rank& victim = job.rank(plan.victim);
  job.wait_until([&] { return victim.ended; }, kill_at);
  const bool all_were_ready = job.all_ready();
  if (!victim.ended) kill(victim.pid, SIGKILL);
  const Clock::time_point killed = Clock::now();
  const milliseconds waited_before = waited_for_processors();
  ASSERT_TRUE(job.wait_until([&] { return job.all_ended(); }, patience)) << "a rank hangs";
  const milliseconds starved = waited_for_processors() - waited_before;
  for (int r = 0; r < plan.size; ++r) {
    if (r == plan.victim) continue;
    SCOPED_TRACE("rank " + std::to_string(r));
    if (all_were_ready) {
      EXPECT_LT(job.rank(r).ended_at - killed, kBound + starved) << job.rank(r).said;
      expect_survivor_names_victim(plan, job.rank(r));
      if (job.rank(r).has_said("failed ")) {
        known_after().push_back(
            std::chrono::duration_cast<milliseconds>(job.rank(r).failed_at - killed));
      }
    } else {
      // Ranks that have not met yet learn it from the start timeout at the latest.
      EXPECT_LT(job.rank(r).ended_at - killed, kBound + starved + std::chrono::seconds(3));
      EXPECT_TRUE(job.rank(r).has_said("failed ") || job.rank(r).has_said("done\n"));
    }
  }
  job.expect_children_without_sockets();
  EXPECT_TRUE(job.end_children());
  EXPECT_EQ(files(), files_before);
}

void run_stop(unsigned seed) {
  const Plan plan = stop_plan_of(seed);
  SCOPED_TRACE("KHORUS_CRASH_SEED=" + std::to_string(seed) + ": rank " +
               std::to_string(plan.victim) + " of " + std::to_string(plan.size) + " stopped " +
               std::to_string(plan.delay.count()) + " ms after all were ready, " +
               (plan.idle ? "idle" : "busy"));
  Job job(plan);
  const Clock::time_point patience = Clock::now() + kPatience;
  ASSERT_TRUE(job.wait_until([&] { return job.all_ready(); }, patience)) << job.rank(0).said;
  Rank& victim = job.rank(plan.victim);
  job.wait_until([&] { return victim.ended; }, Clock::now() + plan.delay);
  ASSERT_FALSE(victim.ended) << victim.said;
  kill(victim.pid, SIGSTOP);
  const Clock::time_point stopped = Clock::now();
  const milliseconds waited_before = waited_for_processors();
  const auto others_ended = [&] {
    return std::ranges::all_of(job.ranks(),
                               [&](const Rank& rank) { return &rank == &victim || rank.ended; });
  };
  ASSERT_TRUE(job.wait_until(others_ended, patience)) << "a rank hangs";
  const milliseconds starved = waited_for_processors() - waited_before;
  for (int r = 0; r < plan.size; ++r) {
    if (r == plan.victim) continue;
    SCOPED_TRACE("rank " + std::to_string(r));
    EXPECT_LT(job.rank(r).ended_at - stopped, kBound + starved) << job.rank(r).said;
    expect_survivor_names_victim(plan, job.rank(r));
  }
  kill(victim.pid, SIGKILL);
  ASSERT_TRUE(job.wait_until([&] { return victim.ended; }, patience));
  EXPECT_TRUE(job.end_children());
}

// All ranks of a job stop and go on, one after the other as a shell does it: nobody is lost.
TEST(Crash, AJobThatStopsAsAWholeGoesOn) {
  ASSERT_EQ(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
  for (const bool idle : {false, true}) {
    Plan plan = stop_plan_of(idle ? 2 : 1);
    plan.idle = idle;
    plan.steps = idle ? 3 : -1;
    SCOPED_TRACE(idle ? "idle" : "busy");
    Job job(plan);
    const auto one_ended = [&] {
      return std::ranges::any_of(job.ranks(), [](const Rank& rank) { return rank.ended; });
    };
    ASSERT_TRUE(job.wait_until([&] { return job.all_ready(); }, Clock::now() + kPatience));
    for (const Rank& rank : job.ranks()) kill(rank.pid, SIGSTOP);
    job.wait_until(one_ended, Clock::now() + 2 * kBound);
    for (const Rank& rank : job.ranks()) kill(rank.pid, SIGCONT);
    job.wait_until(one_ended, Clock::now() + 2 * kBound);
    for (const Rank& rank : job.ranks()) EXPECT_FALSE(rank.ended) << rank.said;
    for (const Rank& rank : job.ranks()) kill(rank.pid, SIGKILL);
    ASSERT_TRUE(job.wait_until([&] { return job.all_ended(); }, Clock::now() + kPatience));
    EXPECT_TRUE(job.end_children());
  }
}

void run_seeds(void (*run_one)(unsigned), unsigned count, unsigned count_in_soak) {
  // Grandchildren whose parents were killed become children of this process: it can count them.
  ASSERT_EQ(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
  if (const char* seed = std::getenv("KHORUS_CRASH_SEED")) {
    run_one(static_cast<unsigned>(std::atoi(seed)));
    return;
  }
  const char* soak = std::getenv("KHORUS_TEST_SOAK");
  if (soak != nullptr && std::strcmp(soak, "1") == 0) count = count_in_soak;
  for (unsigned seed = 1; seed <= count && !testing::Test::HasFatalFailure(); ++seed) run_one(seed);
  report_known_after();
}

TEST(Crash, WhenOneIsKilledEveryOtherRankEndsAndNamesIt) { run_seeds(run, 100, 2000); }

TEST(Crash, WhenOneIsStoppedEveryOtherRankEndsAndNamesIt) { run_seeds(run_stop, 10, 300); }

}  // namespace
}  // namespace khorus::test

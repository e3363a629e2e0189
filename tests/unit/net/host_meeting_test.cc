// The meeting of the ranks of one host: in every order of arrival, with ranks that are missing,
// come twice, belong to another job or another user.
#include "core/net/host_meeting.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <latch>
#include <optional>
#include <thread>

#include "tests/unit/net/support.h"

namespace khorus::net {
namespace {

using std::chrono::milliseconds;
using ::testing::AllOf;
using ::testing::HasSubstr;

// A job of its own for every test and every process that runs it.
HostMeetingOptions meeting_of(const std::string& job, int rank, int size) {
  HostMeetingOptions options;
  options.job_id = job + "-" + std::to_string(::getpid());
  options.rank = rank;
  options.size = size;
  return options;
}

HostInvitation invitation() { return {"127.0.0.1:4711", testing::test_key()}; }

// What rank `rank` gets, as rank 0 or as another.
Result<HostInvitation> meet(const HostMeetingOptions& options) {
  if (options.rank != 0) return attend(options);
  const Status status = invite(options, invitation());
  if (!status.ok()) return status;
  return invitation();
}

// All ranks as threads, each started when the one before in `order` is about to call.
std::vector<Result<HostInvitation>> meet_in_order(const std::vector<HostMeetingOptions>& order) {
  std::vector<std::optional<Result<HostInvitation>>> results(order.size());
  {
    std::vector<std::jthread> threads;
    for (size_t i = 0; i < order.size(); ++i) {
      std::latch begun(1);
      threads.emplace_back([&, i] {
        begun.count_down();
        results[i].emplace(meet(order[i]));
      });
      begun.wait();
    }
  }
  std::vector<Result<HostInvitation>> out;
  for (auto& result : results) out.push_back(std::move(*result));
  return out;
}

TEST(HostMeeting, EverybodyGetsTheInvitation) {
  const int rounds = testing::soak() ? 400 : 40;
  for (int round = 0; round < rounds; ++round) {
    const int size = 2 + round % 5;
    std::vector<HostMeetingOptions> order;
    for (int i = 0; i < size; ++i) {
      order.push_back(meeting_of("order", (i + round) % size, size));
      order.back().generation = static_cast<uint64_t>(round);
    }
    for (const auto& result : meet_in_order(order)) {
      ASSERT_TRUE(result.ok()) << result.status().to_string();
      EXPECT_EQ(result->store, "127.0.0.1:4711");
      EXPECT_TRUE(result->key == testing::test_key());
    }
  }
}

TEST(HostMeeting, OneRankNeedsNobody) {
  EXPECT_TRUE(invite(meeting_of("alone", 0, 1), invitation()).ok());
}

TEST(HostMeeting, JobsAndGenerationsDoNotMeet) {
  std::vector<HostMeetingOptions> order;
  for (const int rank : {0, 1}) {
    for (const uint64_t generation : {uint64_t{1}, uint64_t{2}}) {
      order.push_back(meeting_of("a", rank, 2));
      order.back().generation = generation;
      order.push_back(meeting_of("b", rank, 2));
      order.back().generation = generation;
    }
  }
  for (const auto& result : meet_in_order(order)) EXPECT_TRUE(result.ok());
}

// Names have at most 107 bytes, and what differs may be what is cut off.
TEST(HostMeeting, LongJobIdsDiffer) {
  std::vector<HostMeetingOptions> order;
  for (const char last : {'a', 'b'}) {
    for (const int rank : {0, 1}) {
      order.push_back(meeting_of("long", rank, 2));
      order.back().job_id += std::string(300, 'x') + last;
    }
  }
  for (const auto& result : meet_in_order(order)) EXPECT_TRUE(result.ok());
}

TEST(HostMeeting, MissingRanksAreNamedEverywhere) {
  HostMeetingOptions first = meeting_of("missing", 0, 4);
  first.timeout = milliseconds(200);
  const auto results = meet_in_order({meeting_of("missing", 2, 4), first});
  for (const auto& result : results) {
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(result.status().code(), StatusCode::kTimeout);
    EXPECT_THAT(result.status().message(),
                AllOf(HasSubstr("ranks 1,3 did not come"), HasSubstr("within 0.2 s"),
                      HasSubstr("KHORUS_START_TIMEOUT")));
  }
}

TEST(HostMeeting, WithoutRank0TheOthersSaySo) {
  HostMeetingOptions options = meeting_of("headless", 1, 2);
  options.timeout = milliseconds(100);
  const auto result = attend(options);
  EXPECT_EQ(result.status().code(), StatusCode::kTimeout);
  EXPECT_THAT(result.status().message(), HasSubstr("rank 0 did not come"));
}

TEST(HostMeeting, WhoHadComeAndLeavesEndsItForAll) {
  HostMeetingOptions hasty = meeting_of("hasty", 1, 4);
  hasty.timeout = milliseconds(500);
  const auto before = std::chrono::steady_clock::now();
  const auto results = meet_in_order({meeting_of("hasty", 0, 4), meeting_of("hasty", 2, 4), hasty});
  EXPECT_LT(std::chrono::steady_clock::now() - before, milliseconds(20'000));
  EXPECT_THAT(results[2].status().message(), HasSubstr("some other rank did not come"));
  for (const size_t other : {0, 1}) {
    EXPECT_EQ(results[other].status().code(), StatusCode::kPeerLost);
    EXPECT_THAT(results[other].status().message(), HasSubstr("rank 1 had come to the meeting"));
  }
  EXPECT_EQ(results[0].status().lost_rank(), 1);
}

TEST(HostMeeting, TheSameRankTwiceIsRefused) {
  const HostMeetingOptions twin = meeting_of("twins", 1, 3);
  HostMeetingOptions first = meeting_of("twins", 0, 3);
  first.timeout = milliseconds(300);
  // One of the two finds the name of rank 1 taken.
  const auto results = meet_in_order({twin, twin, first});
  EXPECT_THAT(results[0].status().message() + results[1].status().message(),
              AllOf(HasSubstr("is taken by process " + std::to_string(::getpid())),
                    HasSubstr("started twice")));
  EXPECT_THAT(results[2].status().message(), HasSubstr("rank 2 did not come"));
}

TEST(HostMeeting, AnotherWorldSizeIsRefused) {
  HostMeetingOptions first = meeting_of("sizes", 0, 2);
  first.timeout = milliseconds(300);
  const auto results = meet_in_order({meeting_of("sizes", 1, 3), first});
  EXPECT_EQ(results[0].status().code(), StatusCode::kPermissionDenied);
  EXPECT_THAT(results[0].status().message(), HasSubstr("rank 1 of 3 came to rank 0 of 2"));
  EXPECT_EQ(results[1].status().code(), StatusCode::kTimeout);
}

sockaddr_un abstract_address(const std::string& name, socklen_t* length) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  name.copy(address.sun_path + 1, sizeof(address.sun_path) - 1);
  *length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  return address;
}

// A process of another user that waits in rank 0's place; needs root, to become somebody else.
class Squatter {
 public:
  explicit Squatter(const std::string& name) {
    int ready[2];
    EXPECT_EQ(::pipe(ready), 0);
    pid_ = ::fork();
    if (pid_ == 0) {
      socklen_t length = 0;
      const sockaddr_un address = abstract_address(name, &length);
      const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
      const bool good = ::setuid(65534) == 0 &&
                        ::bind(fd, reinterpret_cast<const sockaddr*>(&address), length) == 0 &&
                        ::listen(fd, 1) == 0;
      if (::write(ready[1], good ? "y" : "n", 1) != 1) ::_exit(1);
      ::alarm(60);
      for (;;) ::pause();
    }
    char answer = 'n';
    EXPECT_EQ(::read(ready[0], &answer, 1), 1);
    EXPECT_EQ(answer, 'y');
    ::close(ready[0]);
    ::close(ready[1]);
  }
  ~Squatter() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = -1;
};

TEST(HostMeeting, AnotherUsersProcessIsNotRank0) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root, to start a process of another user";
  const HostMeetingOptions options = meeting_of("squatter", 1, 2);
  const Squatter squatter("khorus/0/" + options.job_id + "/1/0");
  const std::string who = "process " + std::to_string(squatter.pid()) + " of user 65534";
  const auto result = attend(options);
  EXPECT_EQ(result.status().code(), StatusCode::kPermissionDenied);
  EXPECT_THAT(result.status().message(), AllOf(HasSubstr(who), HasSubstr("KHORUS_JOB_ID")));
  const Status invited = invite(meeting_of("squatter", 0, 2), invitation());
  EXPECT_EQ(invited.code(), StatusCode::kUnavailable);
  EXPECT_THAT(invited.message(), HasSubstr("is taken by " + who));
}

// A connection of our own user that says nothing, or nonsense, holds up nobody.
TEST(HostMeeting, StrangersHoldUpNobody) {
  const HostMeetingOptions first = meeting_of("strangers", 0, 2);
  const std::string name = "khorus/" + std::to_string(::geteuid()) + "/" + first.job_id + "/1/";
  // Rank 0 rings at the doorbell of rank 1 once it listens itself.
  const int doorbell = ::socket(AF_UNIX, SOCK_STREAM, 0);
  socklen_t length = 0;
  sockaddr_un address = abstract_address(name + "1", &length);
  const auto* to = reinterpret_cast<const sockaddr*>(&address);
  ASSERT_EQ(::bind(doorbell, to, length), 0);
  ASSERT_EQ(::listen(doorbell, 1), 0);
  std::optional<Status> invited;
  std::jthread host([&] { invited.emplace(invite(first, invitation())); });
  const int rung = ::accept(doorbell, nullptr, nullptr);
  ASSERT_GE(rung, 0);
  ::close(rung);
  ::close(doorbell);
  address = abstract_address(name + "0", &length);
  const int silent = ::socket(AF_UNIX, SOCK_STREAM, 0);
  const int loud = ::socket(AF_UNIX, SOCK_STREAM, 0);
  ASSERT_EQ(::connect(silent, to, length), 0);
  ASSERT_EQ(::connect(loud, to, length), 0);
  const std::string nonsense(16, 'x');
  ASSERT_EQ(::send(loud, nonsense.data(), nonsense.size(), MSG_NOSIGNAL), 16);
  const auto result = attend(meeting_of("strangers", 1, 2));
  EXPECT_TRUE(result.ok()) << result.status().to_string();
  host.join();
  EXPECT_TRUE(invited->ok()) << invited->to_string();
  ::close(silent);
  ::close(loud);
}

TEST(HostMeeting, ProcessesOfOneParentShareAJobId) {
  int results[2];
  ASSERT_EQ(::pipe(results), 0);
  const std::string here = job_id_from_parent();
  EXPECT_THAT(here, HasSubstr("parent-" + std::to_string(::getppid()) + "-"));
  std::vector<std::string> ids;
  for (int i = 0; i < 2; ++i) {
    const pid_t child = ::fork();
    if (child == 0) {
      const std::string id = job_id_from_parent();
      ::_exit(::write(results[1], id.data(), id.size()) > 0 ? 0 : 1);
    }
    ::waitpid(child, nullptr, 0);
    char text[128];
    const ssize_t size = ::read(results[0], text, sizeof(text));
    ids.emplace_back(text, static_cast<size_t>(size > 0 ? size : 0));
  }
  EXPECT_EQ(ids[0], ids[1]);
  EXPECT_NE(ids[0], here);
  EXPECT_THAT(ids[0], HasSubstr("parent-" + std::to_string(::getpid()) + "-"));
  ::close(results[0]);
  ::close(results[1]);
}

}  // namespace
}  // namespace khorus::net

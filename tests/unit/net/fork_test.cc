// Forked children: data-loader workers keep none of our sockets, so that the death of their parent
// is seen at once; and frames sent just before a process ends arrive.
#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>

#include "core/base/fork_guard.h"
#include "core/net/store_server.h"
#include "core/net/tcp_store.h"
#include "tests/unit/net/support.h"

namespace khorus::net {
namespace {

using testing::Clock;
using testing::collect;
using testing::seconds;
using testing::test_key;
using testing::tree_options;

// Runs `body` in a forked child, which then ends without any clean-up.
class Child {
 public:
  explicit Child(const std::function<int()>& body) : pid_(::fork()) {
    if (pid_ == 0) ::_exit(body());
  }
  ~Child() { join(); }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  // The exit code, or 128 + signal.
  int join() {
    if (pid_ <= 0) return result_;
    int status = 0;
    ::waitpid(std::exchange(pid_, -1), &status, 0);
    return result_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

 private:
  pid_t pid_;
  int result_ = -1;
};

int count_sockets() {
  DIR* folder = ::opendir("/proc/self/fd");
  int count = 0;
  while (const dirent* entry = ::readdir(folder)) {
    struct stat info {};
    const int fd = std::atoi(entry->d_name);
    if (entry->d_name[0] != '.' && ::fstat(fd, &info) == 0 && S_ISSOCK(info.st_mode)) ++count;
  }
  ::closedir(folder);
  return count;
}

TEST(ForkGuard, TheChildKeepsNoneOfOurSockets) {
  auto channels = testing::connect_whole_tree(3, 2);
  StoreServerOptions options;
  options.key = test_key();
  const auto server = StoreServer::start(options);
  ASSERT_TRUE(server.ok());
  EXPECT_GE(count_sockets(), 5);
  Child child([&] {
    if (count_sockets() != 0) return 1;
    // What the child inherited does nothing, and its end touches nothing of the child's own.
    channels[0].value()->send(1, bytes_of("from a child"));
    channels[0].value()->wake();
    std::vector<ChannelEvent> events;
    channels[0].value()->poll(Clock::time_point::max(), &events);
    channels.clear();
    const int own = ::open("/dev/null", O_RDONLY);
    server.value()->stop();
    return ::fcntl(own, F_GETFD) >= 0 ? 0 : 2;
  });
  EXPECT_EQ(child.join(), 0);
  for (auto& channel : channels) ASSERT_TRUE(channel.ok());
  channels[0].value()->send(1, bytes_of("the parent goes on"));
  EXPECT_EQ(text_of(collect(channels[1].value().get(), 1).at(0).frame), "the parent goes on");
}

TEST(ForkGuard, RegisteredDescriptorsAreReplacedAndOthersKept) {
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  {
    const base::ForkLock lock;
    ASSERT_TRUE(base::fork_guard_add(ends[0], lock));
    EXPECT_FALSE(base::fork_guard_add(1 << 20, lock));
    EXPECT_FALSE(base::fork_guard_add(-1, lock));
  }
  const uint64_t generation = base::fork_generation();
  const auto in_child = [&] {
    struct stat first {};
    struct stat second {};
    if (::fstat(ends[0], &first) != 0 || ::fstat(ends[1], &second) != 0) return 1;
    if (!S_ISCHR(first.st_mode) || !S_ISSOCK(second.st_mode)) return 2;
    return base::fork_generation() == generation + 1 ? 0 : 3;
  };
  EXPECT_EQ(Child(in_child).join(), 0);
  {
    const base::ForkLock lock;
    base::fork_guard_remove(ends[0], lock);
  }
  EXPECT_EQ(Child(in_child).join(), 2) << "removed: the child has the socket";
  EXPECT_EQ(base::fork_generation(), generation);
  ::close(ends[0]);
  ::close(ends[1]);
}

TEST(ForkGuard, ANumberThatMeansSomethingElseByNowIsKept) {
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  {
    const base::ForkLock lock;
    ASSERT_TRUE(base::fork_guard_add(ends[0], lock));
  }
  ASSERT_EQ(::dup2(ends[1], ends[0]), ends[0]);  // closed by a library, and opened by somebody
  const auto in_child = [&] {
    struct stat status {};
    return ::fstat(ends[0], &status) == 0 && S_ISSOCK(status.st_mode) ? 0 : 1;
  };
  EXPECT_EQ(Child(in_child).join(), 0);
  {
    const base::ForkLock lock;
    base::fork_guard_remove(ends[0], lock);
  }
  ::close(ends[0]);
  ::close(ends[1]);
}

// A rank in a process of its own, connected through a store server.
class ForkedRank : public ::testing::Test {
 protected:
  void SetUp() override {
    StoreServerOptions options;
    options.key = test_key();
    options.job_id = "test";
    auto started = StoreServer::start(options);
    ASSERT_TRUE(started.ok());
    server_ = std::move(*started);
  }

  // In whichever process calls it.
  Result<testing::Channel> connect(int rank) {
    TcpStoreOptions options;
    options.address = server_->address();
    options.key = test_key();
    options.job_id = "test";
    options.rank = rank;
    const auto store = TcpStore::connect(options);
    if (!store.ok()) return store.status();
    return connect_tree(tree_options(rank, 2, 1, store->get()));
  }

  std::unique_ptr<StoreServer> server_;
};

TEST_F(ForkedRank, AFrameSentJustBeforeTheExitArrives) {
  Child child([&] {
    const auto channel = connect(1);
    if (!channel.ok()) return 1;
    (*channel)->send(0, bytes_of("the reason"));
    ::_exit(0);
    return 2;
  });
  const auto root = connect(0);
  ASSERT_TRUE(root.ok()) << root.status().to_string();
  const auto events = collect(root->get(), 2);
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(text_of(events[0].frame), "the reason");
  EXPECT_EQ(events[1].kind, ChannelEvent::Kind::kClosed);
  EXPECT_EQ(child.join(), 0);
}

TEST_F(ForkedRank, AKilledRankIsSeenWhileItsDataLoaderLives) {
  int alive[2];  // the worker holds the write end; its end would show as end of file
  int release[2];
  ASSERT_EQ(::pipe2(alive, O_CLOEXEC), 0);
  ASSERT_EQ(::pipe2(release, O_CLOEXEC), 0);
  Child child([&] {
    const auto channel = connect(1);
    if (!channel.ok()) return 1;
    if (::fork() == 0) {  // the worker: waits for the test's end
      ::close(release[1]);
      char byte = 0;
      static_cast<void>(::write(alive[1], "w", 1));
      static_cast<void>(::read(release[0], &byte, 1));
      ::_exit(0);
    }
    ::close(alive[1]);
    char byte = 0;
    static_cast<void>(::read(alive[0], &byte, 1));  // the worker runs
    ::kill(::getpid(), SIGKILL);
    return 2;
  });
  ::close(alive[1]);
  const auto root = connect(0);
  ASSERT_TRUE(root.ok()) << root.status().to_string();
  const auto events = collect(root->get(), 1);
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].kind, ChannelEvent::Kind::kClosed);
  EXPECT_EQ(child.join(), 128 + SIGKILL);
  ::fcntl(alive[0], F_SETFL, O_NONBLOCK);
  char byte = 0;
  EXPECT_EQ(::read(alive[0], &byte, 1), -1) << "the worker must still live";
  ::close(release[1]);
  ::fcntl(alive[0], F_SETFL, 0);
  EXPECT_EQ(::read(alive[0], &byte, 1), 0) << "and end now";
  ::close(alive[0]);
  ::close(release[0]);
}

}  // namespace
}  // namespace khorus::net

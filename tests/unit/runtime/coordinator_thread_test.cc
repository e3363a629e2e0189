// The coordinator thread alone, with the test as its parent in the control tree.
#include "core/runtime/coordinator_thread.h"

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <thread>
#include <vector>

#include "core/net/in_process_channel.h"

namespace khorus::runtime {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::seconds;

class Alone {
 public:
  Alone() : world_(2), parent_(world_.connect(0, -1, {1})) {
    CoordinatorThread::Options options;
    options.node.rank = 1;
    options.node.size = 2;
    options.channel = world_.connect(1, 0, {});
    options.groups = &groups_;
    options.observer = &observer_;
    options.logger = &logger_;
    options.status_page = &status_page_;
    thread_ = std::make_unique<CoordinatorThread>(std::move(options));
    thread_->start();
  }
  ~Alone() {
    thread_->end_now(Status(StatusCode::kShutdown, "the test is over"));
    thread_->join();
  }

  CoordinatorThread& thread() { return *thread_; }
  net::ControlChannel& parent() { return *parent_; }
  void wait_for_frame() {
    std::vector<net::ChannelEvent> events;
    while (events.empty()) parent_->poll(Clock::now() + seconds(10), &events);
  }

 private:
  InProcessWorld world_;
  std::unique_ptr<net::ControlChannel> parent_;
  ProcessGroups groups_;
  const Config config_;
  base::Logger logger_{base::Logger::Options{}};
  Observer observer_{
      {.place = {.rank = 1, .size = 2}, .host = "here", .config = &config_, .logger = &logger_}};
  base::StatusPage status_page_;
  std::unique_ptr<CoordinatorThread> thread_;
};

TEST(CoordinatorThread, EndsWhenTheParentDiesBeforeTheGoodbye) {
  Alone rank;
  rank.thread().leave("shutdown() was called");
  rank.wait_for_frame();  // it has told the parent, and waits for its decision
  rank.parent().close(Clock::now());
  EXPECT_TRUE(rank.thread().wait_ended(Clock::now() + seconds(10)));
}

TEST(CoordinatorThread, EndsWhenItLeavesAfterTheParentDied) {
  Alone rank;
  rank.parent().close(Clock::now());
  while (rank.thread().health().ok()) std::this_thread::yield();
  EXPECT_FALSE(rank.thread().wait_ended(Clock::now()));
  rank.thread().leave("shutdown() was called");
  EXPECT_TRUE(rank.thread().wait_ended(Clock::now() + seconds(10)));
}

}  // namespace
}  // namespace khorus::runtime

// The status page: what was noted is read, also by another mapping, and foreign bytes do no harm.
#include "core/base/status_page.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <string>

namespace khorus::base {
namespace {

class StatusPageTest : public testing::Test {
 protected:
  void SetUp() override {
    const Result<int> descriptor = StatusPage::create_descriptor();
    ASSERT_TRUE(descriptor.ok()) << descriptor.status().to_string();
    descriptor_ = *descriptor;
  }
  void TearDown() override { ::close(descriptor_); }

  StatusPage mapped() {
    Result<StatusPage> page = StatusPage::map(descriptor_);
    EXPECT_TRUE(page.ok()) << page.status().to_string();
    return page.ok() ? std::move(*page) : StatusPage();
  }

  int descriptor_ = -1;
};

TEST_F(StatusPageTest, ReaderSeesTheLastOperationAndTheFirstFailure) {
  StatusPage writer = mapped();
  const StatusPage reader = mapped();
  EXPECT_EQ(reader.read().last_operation, "");
  writer.note_operation("allreduce \"a\"");
  writer.note_operation("allreduce \"b\"");
  writer.note_operation("broadcast \"c\"");
  EXPECT_EQ(reader.read().last_operation, "broadcast \"c\"");
  EXPECT_EQ(reader.read().operations, 3u);
  EXPECT_EQ(reader.read().lost_rank, -1);
  writer.note_failure(Status());
  EXPECT_EQ(reader.read().failure, "");
  writer.note_failure(Status(StatusCode::kPeerLost, "rank 2 is gone", 2));
  writer.note_failure(Status(StatusCode::kShutdown, "later"));
  EXPECT_EQ(reader.read().failure, "rank 2 is gone");
  EXPECT_EQ(reader.read().lost_rank, 2);
}

TEST_F(StatusPageTest, LongAndUnprintableTextIsCut) {
  StatusPage writer = mapped();
  writer.note_operation(std::string(1000, 'x'));
  EXPECT_EQ(writer.read().last_operation, std::string(255, 'x'));
  writer.note_operation("a\x1b[31mb");
  EXPECT_EQ(writer.read().last_operation, "a [31mb");
}

// The rank's program can write anything there: texts without an end, any count.
TEST_F(StatusPageTest, GarbageIsReadWithinBounds) {
  const std::string garbage(4088, '\xff');
  ASSERT_EQ(::pwrite(descriptor_, garbage.data(), garbage.size(), 8), 4088);
  const StatusPageContents contents = mapped().read();
  EXPECT_LE(contents.last_operation.size(), 256u);
  EXPECT_LE(contents.failure.size(), 512u);
}

TEST_F(StatusPageTest, OtherFilesAreRefused) {
  const int null = ::open("/dev/null", O_RDWR);
  EXPECT_EQ(StatusPage::map(null).status().code(), StatusCode::kInvalidArgument);
  ::close(null);
  const int unsealed = ::memfd_create("test", 0);
  ASSERT_EQ(::ftruncate(unsealed, 4096), 0);
  EXPECT_EQ(StatusPage::map(unsealed).status().code(), StatusCode::kInvalidArgument);
  ::close(unsealed);
  EXPECT_FALSE(StatusPage::map(-1).ok());
}

TEST(StatusPage, WithoutAPageNotesGoNowhere) {
  StatusPage none;
  none.note_operation("allreduce \"a\"");
  none.note_failure(Status(StatusCode::kAborted, "x"));
  EXPECT_FALSE(none);
  EXPECT_EQ(none.read().operations, 0u);
}

}  // namespace
}  // namespace khorus::base

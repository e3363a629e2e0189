// LineSplitter: where lines end, and that no byte is lost.
#include "core/launch/line_splitter.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace khorus::launch {
namespace {

using Lines = std::vector<std::string>;

// Feeds `text` in pieces of `step` bytes.
Lines split(std::string_view text, size_t step, size_t max_line_bytes = 1 << 20) {
  Lines lines;
  LineSplitter splitter(max_line_bytes);
  const auto sink = [&](std::string_view line) { lines.emplace_back(line); };
  for (size_t at = 0; at < text.size(); at += step) splitter.feed(text.substr(at, step), sink);
  splitter.finish(sink);
  return lines;
}

TEST(LineSplitter, CutsTheSameHoweverTheBytesArrive) {
  using namespace std::string_literals;
  const std::string text = "one\n\ntwo\r\n 10%\r 20%\r\rnul \0 and \xff\nlast"s;
  const Lines expected = {"one\n", "\n", "two\r\n", " 10%\r", " 20%\r", "\r", "nul \0 and \xff\n"s,
                          "last\n"};
  for (size_t step = 1; step <= text.size(); ++step) {
    EXPECT_EQ(split(text, step), expected) << "in pieces of " << step;
  }
}

TEST(LineSplitter, CarriageReturnAtTheEndIsKept) {
  EXPECT_EQ(split("100%\r", 1), (Lines{"100%\r"}));
}

TEST(LineSplitter, NothingGivesNothing) { EXPECT_TRUE(split("", 1).empty()); }

TEST(LineSplitter, CutsALineThatNeverEnds) {
  const Lines lines = split(std::string(25, 'x'), 1, 10);
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_EQ(lines[0], std::string(10, 'x') + "\n");
  EXPECT_EQ(lines[2], std::string(5, 'x') + "\n");
}

}  // namespace
}  // namespace khorus::launch

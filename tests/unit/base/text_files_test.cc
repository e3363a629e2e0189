// JSON text of any name, and files that appear whole or not at all.
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "core/base/json.h"
#include "core/base/rank_file.h"

namespace khorus::base {
namespace {

namespace fs = std::filesystem;

class Folder {
 public:
  Folder() {
    std::string pattern = fs::temp_directory_path() / "khorus_files_XXXXXX";
    path_ = mkdtemp(pattern.data());
  }
  ~Folder() { fs::remove_all(path_); }
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }
  size_t files() const {
    return static_cast<size_t>(std::distance(fs::directory_iterator(path_), {}));
  }

 private:
  fs::path path_;
};

std::string contents(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

TEST(JsonQuoted, KeepsUtf8AndEscapesTheRest) {
  EXPECT_EQ(json_quoted("layers.3"), R"("layers.3")");
  EXPECT_EQ(json_quoted("a\"b\\c\n"), R"("a\"b\\c\u000a")");
  EXPECT_EQ(json_quoted("\xC3\xA4 \xE2\x82\xAC \xF0\x9F\x8E\xB5"),
            "\"\xC3\xA4 \xE2\x82\xAC \xF0\x9F\x8E\xB5\"");
  EXPECT_EQ(json_quoted("\xFF"), R"("\u00ff")");
  EXPECT_EQ(json_quoted("\xC3"), R"("\u00c3")");                      // cut off
  EXPECT_EQ(json_quoted("\xC0\xAF"), R"("\u00c0\u00af")");            // overlong
  EXPECT_EQ(json_quoted("\xED\xA0\x80"), R"("\u00ed\u00a0\u0080")");  // a surrogate
  EXPECT_EQ(json_quoted("\xF4\x90\x80\x80"), R"("\u00f4\u0090\u0080\u0080")");
  EXPECT_EQ(json_quoted(std::string("\0x", 2)), R"("\u0000x")");
}

TEST(RankFile, PathOfRank) {
  EXPECT_EQ(path_of_rank("m.prom", 0), "m.prom");
  EXPECT_EQ(path_of_rank("m.prom", 3), "m.prom.3");
  EXPECT_EQ(path_of_rank("m_{rank}.prom", 0), "m_0.prom");
  EXPECT_EQ(path_of_rank("m_{rank}.prom", 12), "m_12.prom");
}

TEST(RankFile, ReplacesAndAppends) {
  const Folder folder;
  const std::string path = folder / "file";
  ASSERT_TRUE(replace_file(path, "one").ok());
  ASSERT_TRUE(replace_file(path, "two").ok());
  EXPECT_EQ(contents(path), "two");
  ASSERT_TRUE(append_to_file(path, "three").ok());
  EXPECT_EQ(contents(path), "twothree");
  EXPECT_EQ(folder.files(), 1U);  // nothing is left beside it
}

TEST(RankFile, FailuresNameThePathAndLeaveNothing) {
  const Folder folder;
  const Status missing = replace_file(folder / "no/such", "x");
  EXPECT_EQ(missing.code(), StatusCode::kUnavailable);
  EXPECT_NE(missing.message().find("no/such"), std::string::npos) << missing.message();
  fs::create_directory(folder / "taken");
  EXPECT_FALSE(replace_file(folder / "taken", "x").ok());
  EXPECT_FALSE(append_to_file(folder / "taken", "x").ok());
  EXPECT_EQ(folder.files(), 1U);
}

}  // namespace
}  // namespace khorus::base

// The examples of core/wire/FORMAT.md, encoded by the real codec: the page cannot go out of date
// unseen. One thread; reads one file of the source tree.
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <sstream>
#include <string>

#include "core/wire/codec.h"

namespace khorus::wire {
namespace {

std::string hex(const Bytes& bytes) {
  std::string text;
  for (std::byte byte : bytes) {
    constexpr char kDigits[] = "0123456789abcdef";
    text += kDigits[std::to_integer<unsigned>(byte) >> 4];
    text += kDigits[std::to_integer<unsigned>(byte) & 15U];
    text += ' ';
  }
  return text;
}

// The hex pairs at the start of each line of each named block.
std::map<std::string, std::string> documented() {
  std::ifstream file(KHORUS_FORMAT_PAGE);
  std::map<std::string, std::string> blocks;
  std::string* block = nullptr;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("```")) {
      block = line.size() > 3 ? &blocks[line.substr(3)] : nullptr;
    } else if (block != nullptr) {
      std::istringstream words(line);
      for (std::string word; words >> word && word.size() == 2;) {
        if (word.find_first_not_of("0123456789abcdef") != std::string::npos) break;
        *block += word + ' ';
      }
    }
  }
  return blocks;
}

TEST(FormatPage, ExamplesAreWhatTheCodecWrites) {
  Report fresh;
  fresh.applied_sequence = 7;
  Contribution contribution;
  contribution.request.op = ReduceOp::kAverage;
  contribution.request.name = "w";
  contribution.request.shape = {4096, 1024};
  contribution.ranks = RankSet::range(3, 4);
  fresh.contributions = {contribution};

  Report cached;
  cached.applied_sequence = 300;
  cached.cached_all = {1, 2, 3, 10};
  cached.cached_some = {{5, RankSet::of({1, 2, 3, 7})}};

  Decision decision;
  decision.sequence = 8;
  decision.responses.resize(1);
  decision.responses[0].cache_ids = {1, 2, 3};

  const std::map<std::string, std::string> expected = {
      {"report-with-a-new-tensor", hex(encode({0, fresh}))},
      {"report-from-the-cache", hex(encode({2, cached}))},
      {"decision-from-the-cache", hex(encode({0, decision}))},
      {"fault", hex(encode({0, Fault{StatusCode::kPeerLost, 3, "gone"}}))},
  };
  EXPECT_EQ(documented(), expected);
}

}  // namespace
}  // namespace khorus::wire

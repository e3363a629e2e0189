// In-process ranks: how the ranks of one group that are threads of one process find each other's
// segments, and share one mapping instead of passing descriptors.
//
// A segment is published under its random token, which only the exchange carries. The table is per
// process, so a token of another process is not found. Thread rule: any thread.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <memory>

#include "backends/shm/segment.h"

namespace khorus::backends::shm {

struct Token {
  std::array<unsigned char, 16> bytes{};
  auto operator<=>(const Token&) const = default;
};
// Throws std::system_error.
Token random_token();

// Forgotten when the segment is gone.
void publish_in_process(const Token& token, const std::shared_ptr<Segment>& segment);
// Null: not in this process, or gone.
std::shared_ptr<Segment> find_in_process(const Token& token);

}  // namespace khorus::backends::shm

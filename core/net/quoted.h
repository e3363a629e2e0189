// Text from a peer or the store, as it may stand in a message: without control characters that
// would write to somebody's terminal.
#pragma once

#include <string>
#include <string_view>

namespace khorus::net {

// What is not a printable character of ASCII is a question mark.
inline std::string printable(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = (c >= ' ' && c <= '~') ? c : '?';
  return out;
}

// In quotation marks, and no longer than a line.
inline std::string quoted(std::string_view text) {
  constexpr size_t kLongest = 128;
  std::string out = "\"" + printable(text.substr(0, kLongest)) + "\"";
  if (text.size() > kLongest)
    out += " and " + std::to_string(text.size() - kLongest) + " bytes more";
  return out;
}

}  // namespace khorus::net

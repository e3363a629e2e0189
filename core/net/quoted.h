// quoted(): text from a peer or the store, as it may stand in a message: in quotation marks,
// without control characters that would write to somebody's terminal, and no longer than a line.
#pragma once

#include <string>
#include <string_view>

namespace khorus::net {

inline std::string quoted(std::string_view text) {
  constexpr size_t kLongest = 128;
  std::string out = "\"";
  for (const char c : text.substr(0, kLongest)) out += (c >= ' ' && c <= '~') ? c : '?';
  out += "\"";
  if (text.size() > kLongest)
    out += " and " + std::to_string(text.size() - kLongest) + " bytes more";
  return out;
}

}  // namespace khorus::net

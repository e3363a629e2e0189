// ASCII letters in upper case: "allreduce" is the event ALLREDUCE.
//
// Thread rule: a pure function.
#pragma once

#include <string>
#include <string_view>

namespace khorus::base {

inline std::string upper_case(std::string_view text) {
  std::string upper(text);
  for (char& c : upper) {
    if (c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
  }
  return upper;
}

}  // namespace khorus::base

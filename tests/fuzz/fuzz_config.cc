// libFuzzer: Config::from_map takes any variables: lines of NAME=VALUE.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "khorus/options.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  std::map<std::string, std::string> variables;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string line = text.substr(begin, end - begin);
    const size_t equals = std::min(line.find('='), line.size());
    variables[line.substr(0, equals)] = line.substr(std::min(equals + 1, line.size()));
    begin = end + 1;
  }
  std::vector<std::string> warnings;
  const auto config = khorus::Config::from_map(variables, &warnings);
  // A refusal says something; and parsing is a function.
  if (!config.ok() && config.status().message().empty()) std::abort();
  if (khorus::Config::from_map(variables).ok() != config.ok()) std::abort();
  return 0;
}

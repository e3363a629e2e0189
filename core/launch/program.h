// Which executable a command line means.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "khorus/status.h"

namespace khorus::launch {

struct Program {
  std::string path;                    // of the executable
  std::vector<std::string> arguments;  // argv, the name included
};

// Whether the Python of PATH will run it.
bool is_python(std::span<const std::string> command);

// `command` is a program and its arguments. A name with a slash is a path, another is looked up in
// PATH. A .py file is run by the python3 of PATH. Unavailable: it cannot be run, and why.
Result<Program> find_program(std::span<const std::string> command);

}  // namespace khorus::launch

// Hosts and slots as -H and --hostfile give them. This version runs on one machine, so every host
// must be this one; others are refused by name.
#pragma once

#include <string>

#include "khorus/status.h"

namespace khorus::launch {

// "localhost:4" or "localhost:2,localhost:2" -> slots in all.
Result<int> parse_hosts(const std::string& text);
// Lines "localhost slots=4", "localhost:4" or "localhost"; "#" begins a comment.
Result<int> read_hostfile(const std::string& path);

// This machine's name, for messages.
std::string host_name();

}  // namespace khorus::launch

// `khorusrun --check-build`: what this installation can do, as a text.
#pragma once

#include <string>

namespace khorus::launch {

// Loads and probes every backend plugin that is found.
std::string check_build();

}  // namespace khorus::launch

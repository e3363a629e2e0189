// Texts made from the tables of flags and knobs: `khorusrun --help` and docs/knobs.md.
#pragma once

#include <string>

namespace khorus::launch {

std::string help_text();
std::string knobs_markdown();

}  // namespace khorus::launch

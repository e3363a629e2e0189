// Jobs that are started with Open MPI's mpirun (khorusrun --mpi).
//
// mpirun is then the launcher's only child, in the place of rank 0: it starts the ranks, which take
// their place from its variables and meet without the launcher's store and key. The launcher still
// gives the lines their prefixes (mpirun tags them with the rank), ends everything, and says how it
// ended. Launcher's thread, before the guard is forked.
#pragma once

#include <optional>
#include <string_view>

#include "core/launch/options.h"
#include "core/launch/program.h"
#include "khorus/status.h"

namespace khorus::launch {

// mpirun with its arguments: `options.processes` ranks of `program`. `variables` are names of what
// ranks on other hosts need of the environment. Unavailable: there is no mpirun in PATH, or it is
// not Open MPI's. InvalidArgument: --mpi-args cannot be split into words.
Result<Program> mpirun_program(const LaunchOptions& options, const Program& program,
                               const std::vector<std::string>& variables);

// The words of `text`, the value of option `flag`, as a shell splits them: quotes hold words
// together, and there are no commands and no unset variables in them. InvalidArgument.
Result<std::vector<std::string>> split_words(const std::string& flag, const std::string& text);

// Takes the tag off "[1,3]<stdout>:text" and returns 3; nothing if mpirun speaks for itself.
std::optional<int> take_rank_tag(std::string_view* line);

}  // namespace khorus::launch

// Files that a rank leaves for people and tools: metrics, dumps, logs of the tuner.
//
// A reader never sees half a file: what is replaced is written beside it and renamed. Errors are
// Unavailable and name the path and the reason.
//
// Thread rule: any thread; these block on the file system, so never the coordinator thread.
#pragma once

#include <string>
#include <string_view>

#include "khorus/status.h"

namespace khorus::base {

// Where rank `rank` writes what the knob calls `path`: "{rank}" in it is replaced by the number;
// else rank 0 writes `path` and rank r `path`.r.
std::string path_of_rank(const std::string& path, int rank);

// Replaces the file by `text`, in one step for its readers.
Status replace_file(const std::string& path, std::string_view text);

// Makes the file, whole at once, unless there is one: then that stays as it is.
Status create_file(const std::string& path, std::string_view text);

// Appends `text` with one write.
Status append_to_file(const std::string& path, std::string_view text);

}  // namespace khorus::base

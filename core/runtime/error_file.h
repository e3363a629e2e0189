// The file in which torchrun looks for why a process failed (TORCHELASTIC_ERROR_FILE), in the form
// of torch.distributed.elastic.multiprocessing.errors: torchrun's report of a failed job shows it.
//
// What another part of the process has written there, such as the exception that torch's @record
// catches, stays or replaces ours. Thread rule: any thread; these block on the file system.
#pragma once

#include <cstdint>
#include <string>

#include "khorus/options.h"
#include "khorus/status.h"

namespace khorus::runtime {

// `unix_s`: when it failed, in seconds since 1970; torchrun takes the earliest for the root cause.
std::string error_file_text(const Status& failure, const Place& place, const std::string& host,
                            int64_t unix_s);

// Where the launcher looks for why rank `rank` failed, if that was started by the same torchrun as
// this one: a process that was killed says nothing itself. Else empty.
std::string error_file_of(int rank, const Place& here, const std::string& path);

// Unless there is one. Unavailable: it cannot be written.
Status write_error_file(const std::string& path, const std::string& text);

// An engine has started: an earlier one's failure, which the program has survived, is none.
void remove_error_file(const std::string& path);

}  // namespace khorus::runtime

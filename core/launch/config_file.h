// The files of --config-file: YAML with the sections and keys of horovodrun's, each of which stands
// for a flag of khorusrun; keys outside a section are flags themselves.
//
// Functions of a file; the launcher's thread. docs/launching.md describes the format.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "khorus/status.h"

namespace khorus::launch {

// One scalar of the file, or one element of a list.
struct FileEntry {
  int line = 0;  // from 1
  std::string section, key;
  std::optional<std::string> value;  // not there: "key:" with nothing behind it
};

// What it asks for.
struct FileSetting {
  std::string where;  // "job.yaml:3"
  std::string flag;   // without dashes
  std::string value;
  // InvalidArgument if it is neither true nor false.
  Result<bool> is_true() const;
};

// The file as it is written. InvalidArgument names file and line; Unavailable: this khorusrun was
// built without a reader for YAML.
Result<std::vector<FileEntry>> read_yaml(const std::string& path);

// InvalidArgument: a key that does not exist or comes twice. Whether a top-level key is a flag, and
// what it takes, is for the caller to see.
Result<std::vector<FileSetting>> settings_of(const std::string& path,
                                             const std::vector<FileEntry>& entries);

Result<std::vector<FileSetting>> read_config_file(const std::string& path);

}  // namespace khorus::launch

// Which flag a key stands for; see config_file.h.
#include "core/launch/config_file.h"

#include <algorithm>
#include <map>
#include <string_view>

#include "core/base/config_table.h"

namespace khorus::launch {
namespace {

struct Key {
  std::string_view section, key, flag;
  bool negated = false;  // the flag says the opposite
};

// clang-format off
constexpr Key kKeys[] = {
    {"params", "fusion-threshold-mb", "fusion-threshold-mb"},
    {"params", "cycle-time-ms", "cycle-time-ms"},
    {"params", "cache-capacity", "cache-capacity"},
    {"params", "hierarchical-allreduce", "hierarchical-allreduce"},
    {"params", "hierarchical-allgather", "hierarchical-allgather"},
    {"autotune", "enabled", "autotune"},
    {"autotune", "log-file", "autotune-log-file"},
    {"autotune", "warmup-samples", "autotune-warmup-samples"},
    {"autotune", "steps-per-sample", "autotune-steps-per-sample"},
    {"autotune", "bayes-opt-max-samples", "autotune-bayes-opt-max-samples"},
    {"autotune", "gaussian-process-noise", "autotune-gaussian-process-noise"},
    {"timeline", "filename", "timeline-filename"},
    {"timeline", "mark-cycles", "timeline-mark-cycles"},
    {"stall-check", "enabled", "no-stall-check", true},
    {"stall-check", "warning-time-seconds", "stall-check-warning-time-seconds"},
    {"stall-check", "shutdown-time-seconds", "stall-check-shutdown-time-seconds"},
    {"library-options", "mpi-threads-disable", "mpi-threads-disable"},
    {"library-options", "mpi-args", "mpi-args"},
    {"library-options", "num-nccl-streams", "num-nccl-streams"},
    {"library-options", "ccl-bgt-affinity", "ccl-bgt-affinity"},
    {"library-options", "mlsl-bgt-affinity", "ccl-bgt-affinity"},
    {"library-options", "thread-affinity", "thread-affinity"},
    {"library-options", "gloo-timeout-seconds", "gloo-timeout-seconds"},
    {"logging", "level", "log-level"},
    {"logging", "with-timestamp", "log-without-timestamp", true},
    {"logging", "hide-timestamp", "log-without-timestamp"},
};
// clang-format on

// They do something else than to run a job, or cannot be said here any more.
constexpr std::string_view kNotInFiles[] = {"help", "h",     "version",        "check-build",
                                            "cb",   "agent", "knobs-markdown", "config-file"};

Status refused(const std::string& where, const std::string& message) {
  return Status(StatusCode::kInvalidArgument, where + ": " + message);
}

std::string with_dashes(std::string_view name) {
  std::string result(name);
  std::ranges::replace(result, '_', '-');
  return result;
}

bool is_section(const std::string& name) {
  return std::ranges::any_of(kKeys, [&](const Key& key) { return key.section == name; });
}

std::string keys_of(std::string_view section) {
  std::string text;
  for (const Key& key : kKeys) {
    if (key.section == section) text += (text.empty() ? "" : ", ") + std::string(key.key);
  }
  return text;
}

std::string sections() {
  std::string text;
  std::string_view last;
  for (const Key& key : kKeys) {
    if (key.section != last) text += (text.empty() ? "" : ", ") + std::string(key.section);
    last = key.section;
  }
  return text;
}

Status controller(const FileEntry& entry, FileSetting* setting) {
  const std::string name = entry.value.value_or("");
  if (name != "gloo" && name != "mpi") {
    return refused(setting->where, "controller \"" + name + "\": expected gloo or mpi");
  }
  setting->flag = name;
  setting->value = "true";
  return Status();
}

Status translate(const FileEntry& entry, FileSetting* setting) {
  const std::string key = with_dashes(entry.key), section = with_dashes(entry.section);
  setting->value = entry.value.value_or("");
  if (section.empty()) {
    if (key == "controller") return controller(entry, setting);
    if (is_section(key)) {
      return refused(setting->where, "\"" + key + "\" is a section: its keys (" + keys_of(key) +
                                         ") stand indented below it");
    }
    if (std::ranges::find(kNotInFiles, key) != std::end(kNotInFiles)) {
      return refused(setting->where, "\"" + key + "\" belongs on the command line only");
    }
    setting->flag = key;
    return Status();
  }
  const auto* found = std::ranges::find_if(
      kKeys, [&](const Key& known) { return known.section == section && known.key == key; });
  if (found == std::end(kKeys)) {
    return refused(
        setting->where,
        is_section(section)
            ? "unknown key \"" + entry.key + "\": " + section + " has " + keys_of(section)
            : "unknown section \"" + entry.section + "\": there are " + sections());
  }
  setting->flag = found->flag;
  if (!found->negated || !entry.value) return Status();
  const Result<bool> value = setting->is_true();
  if (!value.ok()) return refused(setting->where, value.status().message());
  setting->value = *value ? "false" : "true";
  return Status();
}

}  // namespace

Result<bool> FileSetting::is_true() const {
  if (const std::optional<bool> known = base::parse_bool(value)) return *known;
  return Status(StatusCode::kInvalidArgument,
                "--" + flag + " \"" + value + "\": expected true or false");
}

Result<std::vector<FileSetting>> settings_of(const std::string& path,
                                             const std::vector<FileEntry>& entries) {
  std::vector<FileSetting> settings;
  std::map<std::string, int> first_lines;
  for (const FileEntry& entry : entries) {
    FileSetting setting;
    setting.where = path + ":" + std::to_string(entry.line);
    if (Status status = translate(entry, &setting); !status.ok()) return status;
    const std::string name = with_dashes(entry.section + "." + entry.key);
    const int first = first_lines.emplace(name, entry.line).first->second;
    if (first != entry.line) {
      return refused(setting.where,
                     "\"" + entry.key + "\" stands in line " + std::to_string(first) + " already");
    }
    if (entry.value) settings.push_back(std::move(setting));
  }
  return settings;
}

Result<std::vector<FileSetting>> read_config_file(const std::string& path) {
  const Result<std::vector<FileEntry>> entries = read_yaml(path);
  if (!entries.ok()) return entries.status();
  return settings_of(path, *entries);
}

}  // namespace khorus::launch

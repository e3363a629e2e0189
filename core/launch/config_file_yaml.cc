// Reading YAML with yaml-cpp, whose exceptions end here; see config_file.h.
#include <yaml-cpp/yaml.h>

#include "core/launch/config_file.h"

namespace khorus::launch {
namespace {

// One file while it is read. An error is thrown as yaml-cpp throws its own.
class Reader {
 public:
  std::vector<FileEntry> read(const YAML::Node& root) {
    if (root.IsNull()) return {};
    if (!root.IsMap()) fail(root, "expected keys with values, such as \"params:\"");
    for (const auto& top : root) {
      if (top.second.IsMap()) {
        for (const auto& inner : top.second) add(top.first.Scalar(), inner.first, inner.second);
      } else {
        add("", top.first, top.second);
      }
    }
    return std::move(entries_);
  }

 private:
  [[noreturn]] static void fail(const YAML::Node& node, const std::string& message) {
    throw YAML::ParserException(node.Mark(), message);
  }

  void add(const std::string& section, const YAML::Node& key, const YAML::Node& value) {
    if (!key.IsScalar()) fail(key, "a key must be a word");
    FileEntry entry{key.Mark().line + 1, section, key.Scalar(), std::nullopt};
    if (value.IsScalar()) entry.value = value.Scalar();
    if (value.IsMap()) fail(value, "\"" + entry.key + "\": expected a value, not more keys");
    if (!value.IsSequence()) {
      entries_.push_back(std::move(entry));
      return;
    }
    for (const YAML::Node& element : value) {
      if (!element.IsScalar()) fail(element, "\"" + entry.key + "\": expected a list of words");
      entry.value = element.Scalar();
      entries_.push_back(entry);
    }
  }

  std::vector<FileEntry> entries_;
};

Status refused(const std::string& message) { return Status(StatusCode::kInvalidArgument, message); }

}  // namespace

Result<std::vector<FileEntry>> read_yaml(const std::string& path) {
  try {
    return Reader().read(YAML::LoadFile(path));
  } catch (const YAML::BadFile&) {
    return refused("--config-file \"" + path + "\" cannot be read");
  } catch (const YAML::Exception& error) {
    return refused(path + ":" + std::to_string(error.mark.line + 1) + ": " + error.msg);
  }
}

}  // namespace khorus::launch

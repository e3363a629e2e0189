// Looking up programs; see program.h.
#include "core/launch/program.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <sstream>

namespace khorus::launch {
namespace {

Status cannot_run(const std::string& name, const std::string& why) {
  return Status(StatusCode::kUnavailable, "cannot run \"" + name + "\": " + why);
}

bool is_executable_file(const std::string& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) return false;
  if (!S_ISREG(info.st_mode)) {
    errno = EISDIR;
    return false;
  }
  return ::access(path.c_str(), X_OK) == 0;
}

Result<std::string> look_up(const std::string& name) {
  if (name.find('/') != std::string::npos) {
    if (is_executable_file(name)) return name;
    return cannot_run(name, std::strerror(errno));
  }
  const char* path = std::getenv("PATH");
  std::istringstream folders(path ? path : "/usr/local/bin:/usr/bin:/bin");
  for (std::string folder; std::getline(folders, folder, ':');) {
    const std::string candidate = (folder.empty() ? "." : folder) + "/" + name;
    if (is_executable_file(candidate)) return candidate;
  }
  const bool is_here = ::access(name.c_str(), F_OK) == 0;
  return cannot_run(
      name, "not found in PATH" + (is_here ? "; did you mean ./" + name + "?" : std::string()));
}

}  // namespace

bool is_python(std::span<const std::string> command) { return command.front().ends_with(".py"); }

Result<Program> find_program(std::span<const std::string> command) {
  Program program;
  program.arguments.assign(command.begin(), command.end());
  if (is_python(command)) {
    if (::access(command.front().c_str(), R_OK) != 0) {
      return cannot_run(command.front(), std::strerror(errno));
    }
    program.arguments.insert(program.arguments.begin(), "python3");
  }
  Result<std::string> path = look_up(program.arguments.front());
  if (!path.ok()) return path.status();
  program.path = std::move(*path);
  return program;
}

}  // namespace khorus::launch

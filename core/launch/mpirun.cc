// See mpirun.h. Options and tags are those of mpirun(1) of Open MPI 4.1; version 5 knows them too.
#include "core/launch/mpirun.h"

#include <wordexp.h>

#include <array>
#include <charconv>
#include <cstdio>
#include <memory>

namespace khorus::launch {
namespace {

// The first line of `mpirun --version`; empty if it cannot be run.
std::string version_line() {
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(::popen("mpirun --version 2>/dev/null", "re"),
                                                   &::pclose);
  std::array<char, 256> text{};
  if (pipe == nullptr || std::fgets(text.data(), text.size(), pipe.get()) == nullptr) return "";
  const std::string line(text.data());
  while (std::fgets(text.data(), text.size(), pipe.get()) != nullptr) {
  }  // so that it is not ended by a closed pipe
  return line.substr(0, line.find('\n'));
}

Result<Program> find_mpirun() {
  const std::array<std::string, 1> name = {"mpirun"};
  Result<Program> mpirun = find_program(name);
  if (!mpirun.ok()) {
    return Status(StatusCode::kUnavailable,
                  mpirun.status().message() +
                      "; --mpi starts jobs with Open MPI: install it, or leave --mpi out");
  }
  const std::string version = version_line();
  if (version.find("Open MPI") == std::string::npos &&
      version.find("OpenRTE") == std::string::npos) {
    return Status(
        StatusCode::kUnavailable,
        mpirun->path + " is not Open MPI's (it says \"" + version +
            "\"); --mpi starts jobs with Open MPI: put its mpirun first in PATH, or leave "
            "--mpi out");
  }
  return mpirun;
}

}  // namespace

Result<std::vector<std::string>> split_words(const std::string& flag, const std::string& text) {
  wordexp_t words{};
  const int error = ::wordexp(text.c_str(), &words, WRDE_NOCMD | WRDE_UNDEF);
  if (error != 0) {
    return Status(StatusCode::kInvalidArgument,
                  flag + " \"" + text +
                      "\" cannot be split into words: it needs balanced quotes, no commands, no "
                      "unset variables, and quotes around | & ; < > ( ) { }");
  }
  std::vector<std::string> result(words.we_wordv, words.we_wordv + words.we_wordc);
  ::wordfree(&words);
  return result;
}

Result<Program> mpirun_program(const LaunchOptions& options, const Program& program,
                               const std::vector<std::string>& variables) {
  Result<std::vector<std::string>> words = split_words("--mpi-args", options.mpi_args);
  if (!words.ok()) return words.status();
  Result<Program> mpirun = find_mpirun();
  if (!mpirun.ok()) return mpirun;
  auto& arguments = mpirun->arguments;
  const auto add = [&](std::initializer_list<std::string> more) {
    arguments.insert(arguments.end(), more);
  };
  // More ranks than cores, and jobs beside each other, as without mpirun: a rank is bound to no
  // core unless --mpi-args say so.
  add({"--allow-run-as-root", "--oversubscribe", "--tag-output"});
  if (options.mpi_args.find("bind-to") == std::string::npos) add({"--bind-to", "none"});
  for (const std::string& name : variables) add({"-x", name});
  arguments.insert(arguments.end(), words->begin(), words->end());
  add({"-np", std::to_string(options.processes), program.path});
  arguments.insert(arguments.end(), program.arguments.begin() + 1, program.arguments.end());
  return mpirun;
}

std::optional<int> take_rank_tag(std::string_view* line) {
  const size_t comma = line->find(','), end = line->find(']');
  if (!line->starts_with('[') || comma == std::string_view::npos || end == std::string_view::npos ||
      comma > end) {
    return std::nullopt;
  }
  int rank = -1;
  const auto [rest, error] = std::from_chars(line->data() + comma + 1, line->data() + end, rank);
  if (error != std::errc() || rest != line->data() + end || rank < 0) return std::nullopt;
  for (const std::string_view stream : {"<stdout>:", "<stderr>:", "<stddiag>:"}) {
    if (!line->substr(end + 1).starts_with(stream)) continue;
    line->remove_prefix(end + 1 + stream.size());
    return rank;
  }
  return std::nullopt;
}

}  // namespace khorus::launch

// See error_file.h.
#include "core/runtime/error_file.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string_view>

#include "core/base/json.h"
#include "core/base/rank_file.h"

namespace khorus::runtime {
namespace {

// Ours begin so.
constexpr std::string_view kOpening = R"({"message":{"message":"Khorus: )";

}  // namespace

std::string error_file_text(const Status& failure, const Place& place, const std::string& host,
                            int64_t unix_s) {
  const std::string who = "rank " + std::to_string(place.rank) + " of " +
                          std::to_string(place.size) + " on " + host + " (pid " +
                          std::to_string(getpid()) + ")";
  // Where there is a "callstack", torchrun shows that and not the message.
  const std::string text = base::json_quoted("Khorus: " + failure.to_string() + "; seen by " + who);
  return R"({"message":{"message":)" + text + R"(,"extraInfo":{"py_callstack":)" + text +
         R"(,"timestamp":")" + std::to_string(unix_s) + "\"}}}\n";
}

// The files of one torchrun differ in a folder that is named by the local rank.
std::string error_file_of(int rank, const Place& here, const std::string& path) {
  namespace fs = std::filesystem;
  const int local_rank = rank - (here.rank - here.local_rank);
  if (local_rank < 0 || local_rank >= here.local_size) return "";
  const fs::path file(path);
  if (file.parent_path().filename() != std::to_string(here.local_rank)) return "";
  return file.parent_path().parent_path() / std::to_string(local_rank) / file.filename();
}

Status write_error_file(const std::string& path, const std::string& text) {
  return base::create_file(path, text);
}

void remove_error_file(const std::string& path) {
  std::string opening(kOpening.size(), '\0');
  std::ifstream file(path, std::ios::binary);
  if (!file.read(opening.data(), static_cast<std::streamsize>(opening.size()))) return;
  if (opening == kOpening) unlink(path.c_str());
}

}  // namespace khorus::runtime

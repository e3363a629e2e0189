// Log lines; see log.h.
#include "core/base/log.h"

#include <unistd.h>

#include <array>
#include <cstdio>
#include <ctime>

namespace khorus::base {
namespace {

std::string time_of_day() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  tm parts{};
  localtime_r(&now.tv_sec, &parts);
  std::array<char, 32> text{};
  const int length = std::snprintf(text.data(), text.size(), "%02d:%02d:%02d.%03ld", parts.tm_hour,
                                   parts.tm_min, parts.tm_sec, now.tv_nsec / 1000000);
  return std::string(text.data(), static_cast<size_t>(length));
}

void write_to_standard_error(std::string_view line) {
  // One write per line, so that lines of several ranks do not mix; what cannot be written is lost.
  std::string bytes(line);
  bytes += '\n';
  const ssize_t written = ::write(STDERR_FILENO, bytes.data(), bytes.size());
  static_cast<void>(written);
}

}  // namespace

std::string_view log_level_name(LogLevel level) noexcept {
  switch (level) {
    case LogLevel::kTrace:
      return "trace";
    case LogLevel::kDebug:
      return "debug";
    case LogLevel::kInfo:
      return "info";
    case LogLevel::kWarning:
      return "warning";
    case LogLevel::kError:
      return "error";
    case LogLevel::kFatal:
      return "fatal";
  }
  return "unknown";
}

void Logger::log(LogLevel level, std::string_view text) const {
  if (!enabled(level)) return;
  std::string line = "[khorus ";
  if (!options_.hide_time) line += time_of_day() + " ";
  if (options_.rank >= 0) line += "rank " + std::to_string(options_.rank) + " ";
  line += log_level_name(level);
  line += "] ";
  line += text;
  if (options_.sink) {
    options_.sink(line);
  } else {
    write_to_standard_error(line);
  }
}

}  // namespace khorus::base

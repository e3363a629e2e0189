// Log lines: "[khorus 12:00:01.123 rank 3 warning] text", one write(2) each, to standard error.
//
// A Logger is a value that an engine owns; there is no global logger. Thread-safe. Report an error
// once, where it is first detected, with the exact cause.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "khorus/options.h"

namespace khorus::base {

class Logger {
 public:
  struct Options {
    LogLevel level = LogLevel::kWarning;
    bool hide_time = false;
    int rank = -1;  // -1: not shown
    // Where lines go; empty: standard error. Gets whole lines without the newline. Must be
    // thread-safe.
    std::function<void(std::string_view line)> sink;
  };
  Logger() = default;
  explicit Logger(Options options) : options_(std::move(options)) {}

  bool enabled(LogLevel level) const noexcept { return level >= options_.level; }
  void log(LogLevel level, std::string_view text) const;
  void debug(std::string_view text) const { log(LogLevel::kDebug, text); }
  void info(std::string_view text) const { log(LogLevel::kInfo, text); }
  void warning(std::string_view text) const { log(LogLevel::kWarning, text); }
  void error(std::string_view text) const { log(LogLevel::kError, text); }

 private:
  Options options_;
};

std::string_view log_level_name(LogLevel level) noexcept;

}  // namespace khorus::base

// KHORUS_ASSERT: programmer errors, checked in every build. Prints the condition, the place and a
// sentence, then aborts. Operating errors are Status values instead.
#pragma once

namespace khorus::base {
[[noreturn]] void assertion_failed(const char* condition, const char* file, int line,
                                   const char* message) noexcept;
}  // namespace khorus::base

#define KHORUS_ASSERT(condition, message)                                        \
  do {                                                                           \
    if (!(condition)) [[unlikely]] {                                             \
      ::khorus::base::assertion_failed(#condition, __FILE__, __LINE__, message); \
    }                                                                            \
  } while (false)

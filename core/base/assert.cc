// See assert.h.
#include "core/base/assert.h"

#include <cstdio>
#include <cstdlib>

namespace khorus::base {

void assertion_failed(const char* condition, const char* file, int line,
                      const char* message) noexcept {
  std::fprintf(stderr, "[khorus] assertion failed: %s (%s) at %s:%d\n", message, condition, file,
               line);
  std::abort();
}

}  // namespace khorus::base

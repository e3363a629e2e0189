// Looks up the functions of a library that was opened at run time, and remembers what it lacks.
//
// Thread rule: one thread.
#pragma once

#include <dlfcn.h>

#include <string>
#include <vector>

namespace khorus::backends::nccl {

class Symbols {
 public:
  explicit Symbols(void* library) : library_(library) {}

  template <class Function>
  void need(Function& slot, const char* name) {
    slot = find<Function>(name, missing_);
  }
  // Null where the library does not have it.
  template <class Function>
  void want(Function& slot, const char* name) {
    slot = find<Function>(name, absent_);
  }
  const std::vector<std::string>& missing() const { return missing_; }
  const std::vector<std::string>& absent() const { return absent_; }

 private:
  template <class Function>
  Function find(const char* name, std::vector<std::string>& otherwise) {
    void* const symbol = ::dlsym(library_, name);
    if (symbol == nullptr) otherwise.emplace_back(name);
    return reinterpret_cast<Function>(symbol);
  }

  void* const library_;
  std::vector<std::string> missing_;
  std::vector<std::string> absent_;
};

// "a, b and c"
inline std::string enumerate(const std::vector<std::string>& words) {
  std::string text;
  for (size_t i = 0; i < words.size(); ++i) {
    if (i > 0) text += i + 1 == words.size() ? " and " : ", ";
    text += words[i];
  }
  return text;
}

}  // namespace khorus::backends::nccl

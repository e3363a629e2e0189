// A rank that can be attacked: it goes one step for every byte that it is given.
//
// LIFELINE is a descriptor that it writes words to, STEPS one that it reads bytes from; they come
// from the test through khorusrun. It writes "ready RANK PID" after init(), "step RANK" after every
// step, an allreduce whose sum it checks, and "failed RANK MESSAGE" when Khorus gives up. At the
// end of STEPS it shuts down and exits with 0, or aborts if ABORT is set (for its core dump).
#include <khorus/khorus.h>
#include <khorus/object_key.h>
#include <unistd.h>

#include <cstddef>
#include <cstdlib>
#include <exception>
#include <string>
#include <vector>

namespace {

int descriptor(const char* name) {
  const char* const text = std::getenv(name);
  if (text == nullptr) std::_Exit(4);
  return std::atoi(text);
}

void say(const std::string& words) {
  const std::string line = words + "\n";
  if (write(descriptor("LIFELINE"), line.data(), line.size()) < 0) std::_Exit(4);
}

// "objects RANK DIGITS", before the ready: the key of its pickles.
void tell_object_key(const std::string& rank) {
  std::string digits;
  for (const std::byte byte : khorus::object_key(khorus::engine())) {
    digits += "0123456789abcdef"[std::to_integer<int>(byte) >> 4];
    digits += "0123456789abcdef"[std::to_integer<int>(byte) & 15];
  }
  say("objects " + rank + " " + digits);
}

// Both a size that travels in one piece and one that does not.
bool step(size_t count) {
  std::vector<float> x(count, static_cast<float>(khorus::rank() + 1));
  khorus::allreduce("x" + std::to_string(count), x.data(), x.size(), khorus::ReduceOp::kSum);
  const float expected = static_cast<float>(khorus::size() * (khorus::size() + 1)) / 2;
  for (const float value : x) {
    if (value != expected) return false;
  }
  return true;
}

}  // namespace

int main() {
  const char* const given = std::getenv("KHORUS_RANK");
  const std::string rank = given == nullptr ? "?" : given;
  try {
    khorus::init();
    if (std::getenv("TELL_OBJECT_KEY") != nullptr) tell_object_key(rank);
    say("ready " + rank + " " + std::to_string(getpid()));
    char byte = 0;
    while (read(descriptor("STEPS"), &byte, 1) == 1) {
      if (!step(16) || !step(100'000)) {
        say("wrong " + rank);
        return 3;
      }
      say("step " + rank);
    }
    if (std::getenv("ABORT") != nullptr) std::abort();
    khorus::shutdown();
    return 0;
  } catch (const std::exception& error) {
    say("failed " + rank + " " + error.what());
    return 1;
  }
}

// How much of a bound that a test has for processes is the machine's fault, not theirs.
#pragma once

#include <chrono>
#include <fstream>
#include <string>

namespace khorus::test {

// For how long tasks of this machine have had to wait for a processor, since it was started: what
// others take from the time that a process has. See the kernel's accounting/psi. 0 where it does
// not say.
inline std::chrono::milliseconds waited_for_processors() {
  std::ifstream file("/proc/pressure/cpu");
  std::string line;
  std::getline(file, line);
  const size_t at = line.find("total=");
  return std::chrono::milliseconds(
      at == std::string::npos ? 0 : std::stoll(line.substr(at + 6)) / 1000);
}

}  // namespace khorus::test

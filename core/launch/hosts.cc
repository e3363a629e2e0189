// Parsing hosts; see hosts.h.
#include "core/launch/hosts.h"

#include <unistd.h>

#include <array>
#include <charconv>
#include <fstream>
#include <sstream>

namespace khorus::launch {
namespace {

Status refused(std::string message) {
  return Status(StatusCode::kInvalidArgument, std::move(message));
}

bool is_this_machine(const std::string& host) {
  return host == "localhost" || host == "127.0.0.1" || host == host_name();
}

Result<int> slots_of(const std::string& host, const std::string& slots) {
  if (!is_this_machine(host)) {
    return refused("host \"" + host +
                   "\": remote hosts are not supported yet; only localhost and this machine's "
                   "name (" +
                   host_name() + ") are");
  }
  int count = 0;
  const char* end = slots.data() + slots.size();
  const auto [rest, error] = std::from_chars(slots.data(), end, count);
  if (error != std::errc() || rest != end || count < 1) {
    return refused("host \"" + host + "\": slots \"" + slots + "\", expected a number from 1 on");
  }
  return count;
}

Result<int> parse_host(const std::string& text) {
  const size_t colon = text.find(':');
  if (colon == std::string::npos) return slots_of(text, "1");
  return slots_of(text.substr(0, colon), text.substr(colon + 1));
}

}  // namespace

std::string host_name() {
  std::array<char, 256> name{};
  if (::gethostname(name.data(), name.size() - 1) != 0) return "localhost";
  return name.data();
}

Result<int> parse_hosts(const std::string& text) {
  int total = 0;
  std::istringstream list(text);
  for (std::string host; std::getline(list, host, ',');) {
    const Result<int> slots = parse_host(host);
    if (!slots.ok()) return slots;
    total += *slots;
  }
  if (total == 0) return refused("-H \"" + text + "\": expected HOST:SLOTS, such as localhost:4");
  return total;
}

Result<int> read_hostfile(const std::string& path) {
  std::ifstream file(path);
  if (!file) return refused("--hostfile \"" + path + "\" cannot be read");
  int total = 0;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line.substr(0, line.find('#')));
    std::string host, slots;
    if (!(words >> host)) continue;
    const bool spelled_out = static_cast<bool>(words >> slots) && slots.starts_with("slots=");
    const Result<int> count = spelled_out ? slots_of(host, slots.substr(6)) : parse_host(host);
    if (!count.ok()) return count;
    total += *count;
  }
  if (total == 0) return refused("--hostfile \"" + path + "\" names no host");
  return total;
}

}  // namespace khorus::launch

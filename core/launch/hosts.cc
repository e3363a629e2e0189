// Parsing and placing; see hosts.h.
#include "core/launch/hosts.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <fstream>
#include <sstream>

#include "core/net/address.h"

namespace khorus::launch {
namespace {

Status refused(std::string message) {
  return Status(StatusCode::kInvalidArgument, std::move(message));
}

// A name goes to ssh as an argument: it must not look like an option or hold blanks.
bool good_name(const std::string& name) {
  return !name.empty() && name.front() != '-' &&
         std::ranges::none_of(name, [](unsigned char c) { return c <= ' ' || c == 0x7f; });
}

Result<Host> make_host(const std::string& destination, const std::string& slots) {
  Host host;
  const size_t at = destination.rfind('@');
  if (at != std::string::npos) host.user = destination.substr(0, at);
  host.name = at == std::string::npos ? destination : destination.substr(at + 1);
  if (host.name.size() > 2 && host.name.front() == '[' && host.name.back() == ']') {
    host.name = host.name.substr(1, host.name.size() - 2);
  }
  if (!good_name(host.name) || (at != std::string::npos && !good_name(host.user))) {
    return refused("host \"" + destination + "\": expected NAME or USER@NAME");
  }
  const char* end = slots.data() + slots.size();
  const auto [rest, error] = std::from_chars(slots.data(), end, host.slots);
  if (error != std::errc() || rest != end || host.slots < 1 || host.slots > 8192) {
    return refused("host \"" + destination + "\": slots \"" + slots +
                   "\", expected a number from 1 to 8192");
  }
  return host;
}

// The colon of an address in brackets is not the one before the slots.
Result<Host> parse_host(const std::string& text) {
  const size_t bracket = text.find(']');
  const size_t colon = text.find(':', bracket == std::string::npos ? 0 : bracket);
  if (colon == std::string::npos) return make_host(text, "1");
  if (text.find(':', colon + 1) != std::string::npos) {
    return refused("host \"" + text + "\": write an IPv6 address in brackets: [::1]:4");
  }
  return make_host(text.substr(0, colon), text.substr(colon + 1));
}

}  // namespace

std::string host_name() {
  std::array<char, 256> name{};
  if (::gethostname(name.data(), name.size() - 1) != 0) return "localhost";
  return name.data();
}

bool is_this_machine(const std::string& name) {
  if (name == "localhost" || name == host_name()) return true;
  const bool v6 = name.find(':') != std::string::npos;
  const Result<std::vector<net::Address>> addresses =
      net::resolve((v6 ? "[" + name + "]" : name) + ":1");
  if (!addresses.ok()) return false;  // ssh may know it by another name
  return std::ranges::any_of(*addresses, [](const net::Address& address) {
    return address.is_loopback() || net::interface_address(address.host()).ok();
  });
}

Result<std::vector<Host>> parse_hosts(const std::string& text) {
  std::vector<Host> hosts;
  std::istringstream list(text);
  for (std::string part; std::getline(list, part, ',');) {
    Result<Host> host = parse_host(part);
    if (!host.ok()) return host.status();
    hosts.push_back(std::move(*host));
  }
  if (!hosts.empty()) return hosts;
  return refused("-H \"" + text + "\": expected HOST:SLOTS, such as node1:4,node2:4");
}

Result<std::vector<Host>> read_hostfile(const std::string& path) {
  std::ifstream file(path);
  if (!file) return refused("--hostfile \"" + path + "\" cannot be read");
  std::vector<Host> hosts;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line.substr(0, line.find('#')));
    std::string name, slots;
    if (!(words >> name)) continue;
    const bool spelled_out = static_cast<bool>(words >> slots) && slots.starts_with("slots=");
    Result<Host> host = spelled_out ? make_host(name, slots.substr(6)) : parse_host(name);
    if (!host.ok()) return host.status();
    hosts.push_back(std::move(*host));
  }
  if (!hosts.empty()) return hosts;
  return refused("--hostfile \"" + path + "\" names no host");
}

std::vector<Host> merge_hosts(std::vector<Host> hosts) {
  std::vector<Host> merged;
  for (Host& host : hosts) {
    host.here = is_this_machine(host.name);
    const auto same = std::ranges::find_if(merged, [&](const Host& other) {
      return host.here ? other.here : other.destination() == host.destination();
    });
    if (same == merged.end()) {
      merged.push_back(std::move(host));
    } else {
      same->slots += host.slots;
    }
  }
  return merged;
}

std::vector<HostRanks> place_ranks(const std::vector<Host>& hosts, int processes) {
  if (hosts.empty()) return {{Host{"", "localhost", processes, true}, 0, processes}};
  std::vector<HostRanks> placed;
  int first = 0;
  for (const Host& host : hosts) {
    const int count = std::min(host.slots, processes - first);
    if (count > 0) placed.push_back({host, first, count});
    first += count;
  }
  return placed;
}

}  // namespace khorus::launch

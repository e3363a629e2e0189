// See interface.h.
#include "backends/gloo/interface.h"

#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <stdexcept>

namespace khorus::backends::gloo {
namespace {

bool one_host(const khorus_group& group) {
  for (int32_t r = 1; r < group.size; ++r) {
    if (std::strcmp(group.hosts[0], group.hosts[r]) != 0) return false;
  }
  return true;
}

bool usable(const ifaddrs& entry) {
  if (entry.ifa_addr == nullptr || (entry.ifa_flags & IFF_UP) == 0) return false;
  return entry.ifa_addr->sa_family == AF_INET || entry.ifa_addr->sa_family == AF_INET6;
}

std::string address_of(const sockaddr& address) {
  const socklen_t size = address.sa_family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
  char text[NI_MAXHOST] = "";
  ::getnameinfo(&address, size, text, sizeof text, nullptr, 0, NI_NUMERICHOST);
  return text;
}

bool is_own_address(const ifaddrs* list, const std::string& text) {
  if (text.empty()) return false;
  for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
    if (usable(*entry) && address_of(*entry->ifa_addr) == text) return true;
  }
  return false;
}

}  // namespace

std::string choose_interface(const khorus_group& group) {
  std::string asked = group.network_interface == nullptr ? "" : group.network_interface;
  if (asked.empty() && one_host(group)) return "";
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) != 0) {
    throw std::runtime_error(std::string("cannot list the network interfaces: ") +
                             std::strerror(errno));
  }
  const std::unique_ptr<ifaddrs, void (*)(ifaddrs*)> owner(list, ::freeifaddrs);
  if (is_own_address(list, asked)) return asked;
  std::string chosen;
  std::string all;
  for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
    if (!usable(*entry)) continue;
    if (asked == entry->ifa_name) return asked;
    // Interfaces come once per address.
    if (all.find(entry->ifa_name) == std::string::npos) all += std::string(" ") + entry->ifa_name;
    const bool loopback = (entry->ifa_flags & IFF_LOOPBACK) != 0;
    if (asked.empty() && chosen.empty() && !loopback) chosen = entry->ifa_name;
  }
  if (!chosen.empty()) return chosen;
  throw std::runtime_error(
      asked.empty()
          ? "no network interface leads to the other hosts; those with an address are:" + all
          : "there is no network interface \"" + asked +
                "\" with an address; those there are:" + all);
}

}  // namespace khorus::backends::gloo

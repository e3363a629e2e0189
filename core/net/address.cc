// See address.h.
#include "core/net/address.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <netdb.h>
#include <netinet/in.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

#include "core/net/quoted.h"

namespace khorus::net {
namespace {

Address from_sockaddr(const sockaddr* address, socklen_t length) {
  Address out;
  std::memcpy(&out.storage, address, length);
  out.length = length;
  return out;
}

// "[::1]:80" to "::1" and "80"; false when there is no port.
bool split(const std::string& text, std::string* host, std::string* port) {
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos || colon == 0 || colon + 1 == text.size()) return false;
  *host = text.substr(0, colon);
  *port = text.substr(colon + 1);
  if (host->front() == '[' && host->back() == ']') *host = host->substr(1, host->size() - 2);
  return std::ranges::all_of(*port, [](char c) { return c >= '0' && c <= '9'; });
}

struct FreeInterfaces {
  void operator()(ifaddrs* list) const noexcept { ::freeifaddrs(list); }
};

}  // namespace

void Address::set_port(int port) noexcept {
  const auto value = htons(static_cast<uint16_t>(port));
  if (family() == AF_INET6) {
    reinterpret_cast<sockaddr_in6*>(&storage)->sin6_port = value;
  } else {
    reinterpret_cast<sockaddr_in*>(&storage)->sin_port = value;
  }
}

int Address::port() const noexcept {
  const bool v6 = family() == AF_INET6;
  return ntohs(v6 ? reinterpret_cast<const sockaddr_in6*>(&storage)->sin6_port
                  : reinterpret_cast<const sockaddr_in*>(&storage)->sin_port);
}

std::string Address::host() const {
  char host[NI_MAXHOST];
  if (::getnameinfo(get(), length, host, sizeof host, nullptr, 0, NI_NUMERICHOST) != 0) {
    return "(no address)";
  }
  return host;
}

bool Address::is_loopback() const {
  const std::string text = host();
  return text.starts_with("127.") || text == "::1";
}

std::string Address::to_string() const {
  return (family() == AF_INET6 ? "[" + host() + "]" : host()) + ":" + std::to_string(port());
}

namespace {

// `flags`: of getaddrinfo(3).
Result<std::vector<Address>> addresses_of(const std::string& host_and_port, int flags) {
  std::string host;
  std::string port;
  if (!split(host_and_port, &host, &port)) {
    return Status(StatusCode::kInvalidArgument,
                  quoted(host_and_port) + " is not an address of the form host:port");
  }
  addrinfo hints{};
  hints.ai_flags = flags;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* list = nullptr;
  if (const int error = ::getaddrinfo(host.c_str(), port.c_str(), &hints, &list); error != 0) {
    return Status(StatusCode::kUnavailable,
                  "host " + quoted(host) + " has no address: " + ::gai_strerror(error));
  }
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(list, &::freeaddrinfo);
  std::vector<Address> out;
  for (const addrinfo* entry = list; entry != nullptr; entry = entry->ai_next) {
    out.push_back(from_sockaddr(entry->ai_addr, entry->ai_addrlen));
  }
  return out;
}

}  // namespace

Result<std::vector<Address>> resolve(const std::string& host_and_port) {
  return addresses_of(host_and_port, 0);
}

Result<Address> numeric_address(const std::string& host_and_port) {
  const Result<std::vector<Address>> addresses =
      addresses_of(host_and_port, AI_NUMERICHOST | AI_NUMERICSERV);
  if (!addresses.ok()) return addresses.status();
  return addresses->front();
}

Address loopback_address() {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return from_sockaddr(reinterpret_cast<const sockaddr*>(&address), sizeof address);
}

Result<Address> interface_address(const std::string& name_or_address) {
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) != 0) {
    return Status(StatusCode::kUnavailable,
                  std::string("the network interfaces cannot be listed: ") + std::strerror(errno));
  }
  const std::unique_ptr<ifaddrs, FreeInterfaces> owner(list);
  std::vector<std::string> names;
  Result<Address> best = Status(StatusCode::kUnavailable, "");
  for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
    if (entry->ifa_addr == nullptr) continue;
    const int family = entry->ifa_addr->sa_family;
    if (family != AF_INET && family != AF_INET6) continue;
    const Address address = from_sockaddr(
        entry->ifa_addr, family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6));
    if (std::ranges::find(names, entry->ifa_name) == names.end()) names.push_back(entry->ifa_name);
    const std::string host = address.host();
    const bool matches = entry->ifa_name == name_or_address || host == name_or_address ||
                         "[" + host + "]" == name_or_address;
    if (matches && (!best.ok() || family == AF_INET)) best = address;
  }
  if (best.ok()) return best;
  std::string known;
  for (const std::string& name : names) known += (known.empty() ? "" : ", ") + name;
  return Status(StatusCode::kUnavailable, "there is no network interface \"" + name_or_address +
                                              "\" with an address; there are: " + known);
}

Result<Address> address_towards(const Address& peer) {
  // Connecting a datagram socket sends nothing: it only makes the kernel choose the route.
  const int fd = ::socket(peer.family(), SOCK_DGRAM | SOCK_CLOEXEC, 0);
  Address local;
  local.length = sizeof local.storage;
  const bool found =
      fd >= 0 && ::connect(fd, peer.get(), peer.length) == 0 &&
      ::getsockname(fd, reinterpret_cast<sockaddr*>(&local.storage), &local.length) == 0;
  const int error = errno;
  if (fd >= 0) ::close(fd);
  if (!found) {
    return Status(StatusCode::kUnavailable,
                  "no route to " + peer.to_string() + ": " + std::strerror(error));
  }
  local.set_port(0);
  return local;
}

}  // namespace khorus::net

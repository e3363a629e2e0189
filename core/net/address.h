// Addresses: where to listen and whom to call, as values.
//
// Thread rule: values and pure look-ups, any thread. resolve() may ask the system's resolver and
// then blocks for as long as that does; numeric addresses never do.
#pragma once

#include <sys/socket.h>

#include <string>
#include <vector>

#include "khorus/status.h"

namespace khorus::net {

// An IPv4 or IPv6 address with a port.
struct Address {
  sockaddr_storage storage{};
  socklen_t length = 0;

  const sockaddr* get() const noexcept { return reinterpret_cast<const sockaddr*>(&storage); }
  int family() const noexcept { return storage.ss_family; }
  void set_port(int port) noexcept;
  int port() const noexcept;
  // "127.0.0.1:4711", "[::1]:4711"
  std::string to_string() const;
  // "127.0.0.1", "::1"
  std::string host() const;
  // 127.0.0.0/8 or ::1: what no other host reaches.
  bool is_loopback() const;
};

// "host:port", "[::1]:port": every address the name stands for, at least one.
Result<std::vector<Address>> resolve(const std::string& host_and_port);
// The same without a name: what a rank has published. Asks nobody.
Result<Address> numeric_address(const std::string& host_and_port);

Address loopback_address();
// The address of the network interface with this name, or this address itself; port 0. IPv4 is
// preferred. Unavailable lists the interfaces there are.
Result<Address> interface_address(const std::string& name_or_address);
// The address of this machine from which `peer` is reached, by the routing table; port 0.
Result<Address> address_towards(const Address& peer);

}  // namespace khorus::net

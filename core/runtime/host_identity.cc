// See host_identity.h; namespaces(7), and random(4) for boot_id.
#include "core/runtime/host_identity.h"

#include <unistd.h>

#include <array>
#include <fstream>

namespace khorus::runtime {
namespace {

constexpr size_t kMaxText = 256;

}  // namespace

std::string own_namespace(const std::string& kind) {
  std::array<char, 64> link{};
  const ssize_t length = readlink(("/proc/self/ns/" + kind).c_str(), link.data(), link.size() - 1);
  return length > 0 ? std::string(link.data(), static_cast<size_t>(length)) : "";
}

HostIdentity own_host_identity() {
  HostIdentity identity;
  std::ifstream boot("/proc/sys/kernel/random/boot_id");
  std::getline(boot, identity.boot);
  identity.network = own_namespace("net");
  identity.users = own_namespace("user");
  identity.uid = geteuid();
  return identity;
}

std::string apart(const HostIdentity& one, const HostIdentity& other) {
  // What is not known is not equal: two machines without /proc would be one.
  if (one.boot.empty() || one.network.empty() || other.boot.empty() || other.network.empty()) {
    return "may be on another host (there is no /proc to tell) than";
  }
  if (one.boot != other.boot) return "is on another machine than";
  if (one.network != other.network)
    return "is in another network namespace, a host of its own, than";
  if (one.users != other.users) return "is in another user namespace than";
  if (one.uid != other.uid) {
    return "runs as another user (uid " + std::to_string(one.uid) + ", not " +
           std::to_string(other.uid) + ") than";
  }
  return "";
}

void write(wire::ByteWriter& writer, const HostIdentity& identity) {
  writer.text(identity.boot);
  writer.text(identity.network);
  writer.text(identity.users);
  writer.zigzag(identity.uid);
}

HostIdentity read_host_identity(wire::ByteReader& reader) {
  HostIdentity identity;
  identity.boot = reader.text(kMaxText, "boot");
  identity.network = reader.text(kMaxText, "network namespace");
  identity.users = reader.text(kMaxText, "user namespace");
  identity.uid = reader.zigzag();
  return identity;
}

}  // namespace khorus::runtime

// HostIdentity: which host a rank runs on, as far as memory can be shared there. From the kernel,
// never from the environment or a host's name.
//
// Memory is shared by descriptors that pass over an abstract Unix socket whose ends check each
// other's user (backends/shm). So a host is one boot of one machine, one network namespace in it
// and one user. File systems play no part: ranks in different mount namespaces share memory.
//
// A value; pure but for own_host_identity(), which any thread may call.
#pragma once

#include <cstdint>
#include <string>

#include "core/wire/byte_stream.h"

namespace khorus::runtime {

struct HostIdentity {
  std::string boot;     // random, made by the kernel when it starts; "" where there is no /proc
  std::string network;  // "net:[4026531840]"
  std::string users;    // the user namespace, in which `uid` is a number
  int64_t uid = -1;     // the effective one

  bool operator==(const HostIdentity&) const = default;
};

HostIdentity own_host_identity();
// "net:[4026531840]" for "net"; "" where there is no /proc.
std::string own_namespace(const std::string& kind);

// Empty if memory can be shared between the two; else how `one` is placed as seen from `other`, to
// be followed by the name of the latter: "is on another machine than".
std::string apart(const HostIdentity& one, const HostIdentity& other);

void write(wire::ByteWriter& writer, const HostIdentity& identity);
HostIdentity read_host_identity(wire::ByteReader& reader);

}  // namespace khorus::runtime

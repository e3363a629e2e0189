// Versions: of the library, of the bytes on the wire, of the contract with the backends.
#pragma once

#define KHORUS_VERSION_MAJOR 0
#define KHORUS_VERSION_MINOR 1
#define KHORUS_VERSION_PATCH 0
#define KHORUS_VERSION_STRING "0.1.0"

namespace khorus {
// Ranks with different wire versions refuse each other in the handshake.
inline constexpr unsigned kWireVersion = 1;
}  // namespace khorus

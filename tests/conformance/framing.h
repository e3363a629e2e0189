// Messages between the test and its rank processes over a stream socket: a size, then the bytes.
#pragma once

#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <string>

namespace khorus::conformance {

inline void send_frame(int socket, const std::string& bytes) {
  const uint32_t size = static_cast<uint32_t>(bytes.size());
  std::string frame(reinterpret_cast<const char*>(&size), sizeof(size));
  frame += bytes;
  size_t sent = 0;
  while (sent < frame.size()) {
    const ssize_t n = ::send(socket, frame.data() + sent, frame.size() - sent, MSG_NOSIGNAL);
    if (n <= 0) return;  // the other side is gone: the reader of the answer will see it
    sent += static_cast<size_t>(n);
  }
}

// False: the other side has closed.
inline bool receive_frame(int socket, std::string& bytes) {
  uint32_t size = 0;
  if (::recv(socket, &size, sizeof(size), MSG_WAITALL) != sizeof(size)) return false;
  bytes.resize(size);
  return size == 0 || ::recv(socket, bytes.data(), size, MSG_WAITALL) == static_cast<ssize_t>(size);
}

}  // namespace khorus::conformance

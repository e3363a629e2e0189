// See packet.h.
#include "backends/shm/packet.h"

#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>

namespace khorus::backends::shm {

bool send_packet(int connection, const void* bytes, size_t size, int descriptor) {
  iovec data{.iov_base = const_cast<void*>(bytes), .iov_len = size};
  alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  if (descriptor >= 0) {
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* const header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(header), &descriptor, sizeof(descriptor));
  }
  return ::sendmsg(connection, &message, MSG_NOSIGNAL | MSG_DONTWAIT) == static_cast<ssize_t>(size);
}

int receive_packet(int connection, void* bytes, size_t size, Descriptor& passed) {
  iovec data{.iov_base = bytes, .iov_len = size};
  alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  // Without the padding, in which a second descriptor would find room that nobody asked for.
  message.msg_controllen = CMSG_LEN(sizeof(int));
  ssize_t got = -1;
  int error = 0;
  passed = Descriptor::make([&]() -> int {
    got = ::recvmsg(connection, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    error = errno;
    const cmsghdr* const header = got < 0 ? nullptr : CMSG_FIRSTHDR(&message);
    if (header == nullptr || header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS ||
        header->cmsg_len != CMSG_LEN(sizeof(int))) {
      return -1;
    }
    int fd = -1;
    std::memcpy(&fd, CMSG_DATA(header), sizeof(fd));
    return fd;
  });
  if (got < 0 && (error == EAGAIN || error == EINTR)) return 0;
  return got == static_cast<ssize_t>(size) && (message.msg_flags & MSG_TRUNC) == 0 ? 1 : -1;
}

}  // namespace khorus::backends::shm

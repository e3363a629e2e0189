// getpeername() as Gloo sees it: a peer that is gone already still has a name.
//
// Gloo asks for the peer's name on its own thread when a connection is made, and throws there when
// the peer has reset the connection in between: nobody can catch that, the process would end
// because another one did. With a name it goes on to the first read, and reports the reset as an
// error of the pair. The plugin is opened with RTLD_DEEPBIND, so this stands in for Gloo (and for
// the plugin) alone; it is not part of builds that link the backends statically.
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

// NOLINTNEXTLINE(readability-inconsistent-declaration-parameter-name): theirs are reserved names.
extern "C" __attribute__((visibility("default"))) int getpeername(int fd, struct sockaddr* address,
                                                                  socklen_t* length) noexcept {
  if (::syscall(SYS_getpeername, fd, address, length) == 0) return 0;
  if (errno != ENOTCONN) return -1;
  return ::getsockname(fd, address, length);
}

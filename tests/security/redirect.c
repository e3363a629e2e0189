/* Preloaded into a rank by the tests: what it connects to over TCP, but the job's store, is the
 * relay at 127.0.0.1:RELAY_PORT instead. So the relay sits where an attacker on the network would.
 * "target ADDRESS" on the descriptor LIFELINE says where it would have gone.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static void tell(const struct sockaddr_in* to) {
  char host[INET_ADDRSTRLEN];
  const char* const lifeline = getenv("LIFELINE");
  if (lifeline == NULL || inet_ntop(AF_INET, &to->sin_addr, host, sizeof host) == NULL) return;
  dprintf(atoi(lifeline), "target %s:%d\n", host, ntohs(to->sin_port));
}

int connect(int fd, const struct sockaddr* address, socklen_t length) {
  const char* const store = getenv("KHORUS_STORE");
  const char* const colon = store == NULL ? NULL : strrchr(store, ':');
  const char* const relay = getenv("RELAY_PORT");
  struct sockaddr_in to;
  if (address->sa_family == AF_INET && length >= sizeof to && colon != NULL && relay != NULL) {
    memcpy(&to, address, sizeof to);
    if (ntohs(to.sin_port) != atoi(colon + 1)) {
      tell(&to);
      to.sin_port = htons((uint16_t)atoi(relay));
    }
    return (int)syscall(SYS_connect, fd, &to, sizeof to);
  }
  return (int)syscall(SYS_connect, fd, address, length);
}

// See mesh.h; unix(7).
#include "tests/gpu/double/mesh.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "tests/gpu/double/machine.h"

namespace khorus::gpu_double {
namespace {

struct Address {
  explicit Address(const std::string& name) {
    bytes.sun_family = AF_UNIX;
    std::memcpy(bytes.sun_path + 1, name.data(), name.size());
    length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  }
  sockaddr* get() { return reinterpret_cast<sockaddr*>(&bytes); }
  sockaddr_un bytes{};
  socklen_t length = 0;
};

int new_socket() { return ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0); }

int listen_on(const std::string& name) {
  const int socket = new_socket();
  Address address(name);
  if (::bind(socket, address.get(), address.length) != 0 || ::listen(socket, 128) != 0) {
    violation("cannot listen on a socket: " + std::string(std::strerror(errno)));
  }
  return socket;
}

std::string name_of(const std::string& meeting, int rank) {
  return meeting + "." + std::to_string(rank);
}

// Until all ranks have come, then lets them go. A process that dies before takes it along.
void serve(int listener) {
  std::vector<int> guests;
  std::vector<int> devices;
  Mesh::Seat seat{0, 1, 0};
  while (static_cast<int>(guests.size()) < seat.size) {
    const int guest = ::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
    if (guest < 0) break;
    guests.push_back(guest);
    // A rank that dies just now leaves the others alone, as it would for real.
    if (::recv(guest, &seat, sizeof(seat), MSG_WAITALL) != sizeof(seat)) break;
    devices.push_back(seat.device);
  }
  std::sort(devices.begin(), devices.end());
  const bool are_twins = std::adjacent_find(devices.begin(), devices.end()) != devices.end();
  const char answer = are_twins && std::getenv("KHORUS_DOUBLE_ONE_RANK_PER_GPU") != nullptr;
  for (const int guest : guests) {
    ::send(guest, &answer, 1, MSG_NOSIGNAL);
    ::close(guest);
  }
  ::close(listener);
}

}  // namespace

std::string serve_meeting() {
  uint64_t number[2];
  if (::getrandom(number, sizeof(number), 0) != sizeof(number)) violation("no random numbers");
  const std::string name =
      "khorus-nccl-double-" + std::to_string(number[0]) + "-" + std::to_string(number[1]);
  std::thread(serve, listen_on(name)).detach();
  return name;
}

Mesh::Mesh(std::string meeting, const Seat& seat)
    : meeting_(std::move(meeting)),
      seat_(seat),
      rank_(seat.rank),
      size_(seat.size),
      listener_(listen_on(name_of(meeting_, seat.rank))),
      stopper_(::eventfd(0, EFD_CLOEXEC)),
      sockets_(static_cast<size_t>(seat.size), -1) {}

Mesh::~Mesh() {
  for (const int socket : sockets_) {
    if (socket >= 0) ::close(socket);
  }
  if (listener_ >= 0) ::close(listener_);
  ::close(stopper_);
}

void Mesh::stop() {
  const uint64_t one = 1;
  if (::write(stopper_, &one, sizeof(one)) != sizeof(one)) violation("an eventfd is full");
}

void Mesh::wait_for_stop() {
  pollfd waiting{stopper_, POLLIN, 0};
  while (::poll(&waiting, 1, -1) <= 0) {
  }
}

Mesh::Outcome Mesh::wait_for(int socket, short events) {
  pollfd waiting[] = {{stopper_, POLLIN, 0}, {socket, events, 0}};
  while (::poll(waiting, 2, -1) < 0) {
  }
  return waiting[0].revents != 0 ? Outcome::kStopped : Outcome::kDone;
}

// A few bytes of the meeting.
Mesh::Outcome Mesh::move_bytes(int socket, bool sends, void* bytes, size_t size) {
  if (const Outcome outcome = wait_for(socket, sends ? POLLOUT : POLLIN);
      outcome != Outcome::kDone) {
    return outcome;
  }
  const ssize_t moved =
      sends ? ::send(socket, bytes, size, MSG_NOSIGNAL) : ::recv(socket, bytes, size, MSG_WAITALL);
  return moved == static_cast<ssize_t>(size) ? Outcome::kDone : Outcome::kPeerGone;
}

Mesh::Outcome Mesh::meet() {
  const int socket = new_socket();
  Address address(meeting_);
  Seat seat = seat_;
  char refused = 0;
  Outcome outcome = Outcome::kPeerGone;
  if (::connect(socket, address.get(), address.length) == 0) {
    outcome = move_bytes(socket, true, &seat, sizeof(seat));
    if (outcome == Outcome::kDone) outcome = move_bytes(socket, false, &refused, 1);
    if (outcome == Outcome::kDone && refused != 0) outcome = Outcome::kRefused;
  }
  ::close(socket);
  return outcome;
}

Mesh::Outcome Mesh::connect() {
  if (const Outcome outcome = meet(); outcome != Outcome::kDone) return outcome;
  for (int r = 0; r < rank_; ++r) {
    const int socket = sockets_[static_cast<size_t>(r)] = new_socket();
    Address address(name_of(meeting_, r));
    int mine = rank_;
    if (::connect(socket, address.get(), address.length) != 0) return Outcome::kPeerGone;
    if (const Outcome outcome = move_bytes(socket, true, &mine, sizeof(mine));
        outcome != Outcome::kDone) {
      return outcome;
    }
  }
  for (int r = rank_ + 1; r < size_; ++r) {
    if (const Outcome outcome = wait_for(listener_, POLLIN); outcome != Outcome::kDone) {
      return outcome;
    }
    const int socket = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    int theirs = -1;
    if (const Outcome outcome = move_bytes(socket, false, &theirs, sizeof(theirs));
        outcome != Outcome::kDone) {
      ::close(socket);
      return outcome;
    }
    sockets_.at(static_cast<size_t>(theirs)) = socket;
  }
  return Outcome::kDone;
}

void Mesh::check(int peer, const Flow& flow, uint64_t what) const {
  const Message& mine = flow.messages.front();
  if (flow.header.what == what && flow.header.size == mine.size) return;
  violation("NCCL rank " + std::to_string(rank_) + " expects " + std::to_string(mine.size) +
            " bytes of operation " + std::to_string(what) + " from rank " + std::to_string(peer) +
            ", which sends " + std::to_string(flow.header.size) + " bytes of operation " +
            std::to_string(flow.header.what));
}

bool Mesh::step(int peer, Flow& flow, bool sends, uint64_t what) {
  Message& message = flow.messages.front();
  if (flow.done == 0 && sends) flow.header = {what, message.size};
  const bool in_header = flow.done < sizeof(Header);
  std::byte* const at = in_header ? reinterpret_cast<std::byte*>(&flow.header) + flow.done
                                  : message.bytes + (flow.done - sizeof(Header));
  const size_t left = (in_header ? 0 : message.size) + sizeof(Header) - flow.done;
  if (left > 0) {
    const int socket = sockets_[static_cast<size_t>(peer)];
    const ssize_t moved = sends ? ::send(socket, at, left, MSG_NOSIGNAL | MSG_DONTWAIT)
                                : ::recv(socket, at, left, MSG_DONTWAIT);
    if (moved < 0) return errno == EAGAIN || errno == EINTR;
    if (moved == 0) return false;
    flow.done += static_cast<size_t>(moved);
  }
  if (flow.done == sizeof(Header) && !sends) check(peer, flow, what);
  if (flow.done == sizeof(Header) + message.size) {
    flow.messages.pop_front();
    flow.done = 0;
  }
  return true;
}

Mesh::Outcome Mesh::exchange(uint64_t what, const std::vector<Message>& messages) {
  std::vector<Flow> out(static_cast<size_t>(size_));
  std::vector<Flow> in(static_cast<size_t>(size_));
  for (const Message& message : messages) {
    (message.sends ? out : in)[static_cast<size_t>(message.peer)].messages.push_back(message);
  }
  for (;;) {
    std::vector<pollfd> waiting{{stopper_, POLLIN, 0}};
    std::vector<int> peers;
    for (int r = 0; r < size_; ++r) {
      const size_t at = static_cast<size_t>(r);
      const int events =
          (out[at].messages.empty() ? 0 : POLLOUT) | (in[at].messages.empty() ? 0 : POLLIN);
      if (events == 0) continue;
      waiting.push_back({sockets_[at], static_cast<short>(events), 0});
      peers.push_back(r);
    }
    if (peers.empty()) return Outcome::kDone;
    if (::poll(waiting.data(), waiting.size(), -1) < 0) continue;
    if (waiting[0].revents != 0) return Outcome::kStopped;
    for (size_t i = 0; i < peers.size(); ++i) {
      const int peer = peers[i];
      const size_t at = static_cast<size_t>(peer);
      const short revents = waiting[i + 1].revents;
      const bool trouble = (revents & (POLLHUP | POLLERR)) != 0;
      if ((revents & POLLIN) != 0 || (trouble && !in[at].messages.empty())) {
        if (!step(peer, in[at], false, what)) return Outcome::kPeerGone;
      }
      if ((revents & POLLOUT) != 0 || (trouble && in[at].messages.empty())) {
        if (!out[at].messages.empty() && !step(peer, out[at], true, what)) {
          return Outcome::kPeerGone;
        }
      }
    }
  }
}

}  // namespace khorus::gpu_double

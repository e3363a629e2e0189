// See meeting.h.
#include "backends/shm/meeting.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <system_error>
#include <utility>

#include "backends/shm/failure.h"
#include "backends/shm/packet.h"
#include "core/base/fork_guard.h"

namespace khorus::backends::shm {

// One message, the same in both directions; a segment's descriptor comes with it.
struct Meeting::Packet {
  uint64_t magic;
  int64_t rank;
  Token from;
  Token to;
};

namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kMagic = 0x316d68732d68636b;  // "kch-shm1"
// Connections that have not spoken yet, beyond the ranks that are expected.
constexpr size_t kStrangers = 16;
// How often a rank that waits for a place in the queue of another looks whether it was aborted.
constexpr timeval kLook{.tv_sec = 0, .tv_usec = 200000};

std::string text_of(int error) { return std::generic_category().message(error); }

struct Address {
  sockaddr_un name{};
  socklen_t length = 0;
};
Address address_of(const Token& token) {
  static constexpr char kPrefix[] = "khorus-";
  static constexpr char kDigits[] = "0123456789abcdef";
  Address address;
  address.name.sun_family = AF_UNIX;
  char* at = address.name.sun_path + 1;  // an abstract name begins with a NUL
  at = std::copy_n(kPrefix, sizeof(kPrefix) - 1, at);
  for (const unsigned char byte : token.bytes) {
    *at++ = kDigits[byte >> 4];
    *at++ = kDigits[byte & 15];
  }
  address.length = static_cast<socklen_t>(at - reinterpret_cast<char*>(&address.name));
  return address;
}

Descriptor unix_socket(int flags) {
  Descriptor made =
      Descriptor::make([&] { return ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | flags, 0); });
  if (!made) throw std::system_error(errno, std::generic_category(), "socket");
  return made;
}

bool same_user(int connection) {
  ucred peer{};
  socklen_t length = sizeof(peer);
  return ::getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 &&
         peer.uid == ::geteuid();
}

// Takes as long whatever differs.
bool equal(const Token& a, const Token& b) {
  unsigned difference = 0;
  for (size_t i = 0; i < a.bytes.size(); ++i) difference |= a.bytes[i] ^ unsigned { b.bytes[i] };
  return difference == 0;
}

}  // namespace

Meeting::Meeting(const Options& options, std::shared_ptr<Segment> own)
    : options_(options),
      own_card_{.name = random_token(), .token = random_token()},
      own_(std::move(own)),
      listener_(unix_socket(SOCK_NONBLOCK)),
      neighbours_(static_cast<size_t>(options.size)) {
  const Address address = address_of(own_card_.name);
  if (::bind(listener_.get(), reinterpret_cast<const sockaddr*>(&address.name), address.length) !=
          0 ||
      ::listen(listener_.get(), SOMAXCONN) != 0) {
    throw std::system_error(errno, std::generic_category(), "an abstract Unix socket");
  }
  InProcess<Segment>::publish(own_card_.token, own_);
}

std::string Meeting::card() const {
  return std::string(reinterpret_cast<const char*>(&own_card_), sizeof(own_card_));
}

void Meeting::read_cards(const std::vector<std::string>& cards) {
  for (size_t r = 0; r < cards.size(); ++r) {
    if (cards[r].size() != sizeof(Card)) {
      throw Failure(Failure::Cause::kMismatch, static_cast<int>(r),
                    "sent " + std::to_string(cards[r].size()) + " bytes to meet by, not " +
                        std::to_string(sizeof(Card)));
    }
    std::memcpy(&cards_.emplace_back(), cards[r].data(), sizeof(Card));
  }
}

std::vector<Neighbour> Meeting::meet(const std::vector<std::string>& cards) {
  read_cards(cards);
  const Clock::time_point end = Clock::now() + options_.timeout;
  for (int peer = 0; peer < options_.size; ++peer) {
    Neighbour& neighbour = neighbours_[static_cast<size_t>(peer)];
    neighbour.segment = peer == options_.rank
                            ? own_
                            : InProcess<Segment>::find(cards_[static_cast<size_t>(peer)].token);
    if (neighbour.segment == nullptr && peer < options_.rank) connect_to(peer, end);
  }
  while (first_missing() >= 0) {
    wait_for_events(end);
    accept_guests();
    std::erase_if(guests_, [&](Guest& guest) { return !hear(guest); });
  }
  return std::move(neighbours_);
}

// A rank waits for those before it only, and the first one for nobody, so queues empty themselves.
void Meeting::connect_to(int peer, Clock::time_point end) {
  Guest guest{.connection = unix_socket(0), .expected = peer};
  const Address address = address_of(cards_[static_cast<size_t>(peer)].name);
  const int fd = guest.connection.get();
  ::setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &kLook, sizeof(kLook));
  while (::connect(fd, reinterpret_cast<const sockaddr*>(&address.name), address.length) != 0) {
    check_interrupt();
    if (errno == EAGAIN || errno == EINTR) {  // its queue is full
      if (Clock::now() < end) continue;
      throw Failure(Failure::Cause::kTimeout, peer, "silent while connecting");
    }
    throw Failure(Failure::Cause::kUnreachable, peer,
                  "its socket cannot be reached (" + text_of(errno) +
                      "): it has ended, or runs in another network namespace, which is another "
                      "host; set KHORUS_BACKEND=gloo there");
  }
  if (!same_user(fd)) {
    throw Failure(Failure::Cause::kUnreachable, peer, "its socket belongs to another user");
  }
  introduce(guest.connection, peer);
  guests_.push_back(std::move(guest));
}

void Meeting::introduce(const Descriptor& connection, int peer) const {
  const Packet packet{.magic = kMagic,
                      .rank = options_.rank,
                      .from = own_card_.token,
                      .to = cards_[static_cast<size_t>(peer)].token};
  // A packet fits into the buffer of a new connection.
  if (!send_packet(connection.get(), &packet, sizeof(packet), own_->descriptor())) {
    throw Failure(Failure::Cause::kGone, peer, "it hung up while connecting: " + text_of(errno));
  }
}

void Meeting::wait_for_events(Clock::time_point end) {
  std::vector<pollfd> polls{{options_.interrupt->event(), POLLIN, 0}, {listener_.get(), POLLIN, 0}};
  for (const Guest& guest : guests_) polls.push_back({guest.connection.get(), POLLIN, 0});
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - Clock::now()).count();
  if (left <= 0) {
    throw Failure(Failure::Cause::kTimeout, first_missing(), "silent while connecting");
  }
  const auto bounded = std::min<decltype(left)>(left, 1 << 30);
  const int ready = ::poll(polls.data(), polls.size(), static_cast<int>(bounded));
  if (ready < 0 && errno != EINTR) {
    throw std::system_error(errno, std::generic_category(), "poll");
  }
  check_interrupt();
}

void Meeting::check_interrupt() const {
  const int error = errno;
  if (options_.interrupt->raised()) {
    throw Failure(Failure::Cause::kInterrupted, -1, "aborted");
  }
  errno = error;
}

// A few at a time, so that a crowd does not keep this rank from its own abort, and that who came in
// is heard before somebody takes the place.
void Meeting::accept_guests() {
  const size_t places = static_cast<size_t>(options_.size) + kStrangers;
  auto accept_one = [&] {
    return ::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  };
  for (size_t accepted = 0; accepted < kStrangers; ++accepted) {
    Descriptor connection = Descriptor::make(accept_one);
    if (!connection) {
      if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED) return;
      throw std::system_error(errno, std::generic_category(), "accepting a rank of the group");
    }
    if (!same_user(connection.get())) continue;
    if (guests_.size() >= places) {
      // The longest silent stranger makes room; a rank of the group speaks at once.
      const auto stranger = std::find_if(guests_.begin(), guests_.end(),
                                         [](const Guest& guest) { return guest.expected < 0; });
      if (stranger != guests_.end()) guests_.erase(stranger);
    }
    guests_.push_back({.connection = std::move(connection), .expected = -1});
  }
}

bool Meeting::hear(Guest& guest) {
  Packet packet{};
  Descriptor passed;
  const int heard = receive_packet(guest.connection.get(), &packet, sizeof(packet), passed);
  if (heard == 0) return true;
  const bool called = guest.expected >= 0;
  const bool in_range =
      packet.rank > (called ? -1 : int64_t{options_.rank}) && packet.rank < options_.size;
  const size_t peer = called ? static_cast<size_t>(guest.expected)
                             : (in_range ? static_cast<size_t>(packet.rank) : 0);
  const bool member = heard > 0 && in_range && packet.magic == kMagic &&
                      static_cast<size_t>(packet.rank) == peer &&
                      equal(packet.from, cards_[peer].token) && equal(packet.to, own_card_.token) &&
                      neighbours_[peer].segment == nullptr;
  if (!member) {
    if (!called) return false;  // a stranger, who is not told what was wrong
    throw Failure(Failure::Cause::kGone, static_cast<int>(peer), "it hung up while connecting");
  }
  if (!passed) {
    throw Failure(Failure::Cause::kMismatch, static_cast<int>(peer),
                  "its memory did not arrive; has this process as many files open as it may "
                  "(ulimit -n)?");
  }
  try {
    neighbours_[peer].segment = Segment::adopt(std::move(passed), options_.segment_bytes);
  } catch (const std::runtime_error& error) {
    throw Failure(Failure::Cause::kMismatch, static_cast<int>(peer), error.what());
  }
  if (!called) introduce(guest.connection, static_cast<int>(peer));
  neighbours_[peer].connection = std::move(guest.connection);
  return false;
}

int Meeting::first_missing() const {
  const auto missing =
      std::find_if(neighbours_.begin(), neighbours_.end(),
                   [](const Neighbour& neighbour) { return neighbour.segment == nullptr; });
  return missing == neighbours_.end() ? -1 : static_cast<int>(missing - neighbours_.begin());
}

}  // namespace khorus::backends::shm

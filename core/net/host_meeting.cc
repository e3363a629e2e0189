// See host_meeting.h; unix(7).
#include "core/net/host_meeting.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <optional>
#include <vector>

#include "core/net/fixed_read.h"
#include "core/net/mac.h"
#include "core/net/socket.h"

namespace khorus::net {
namespace {

using Clock = std::chrono::steady_clock;

// What travels, between processes of one user on one host. The version is that of this exchange.
struct Question {
  std::array<char, 8> magic{'K', 'H', 'M', 'E', 'E', 'T', '1', '\n'};
  int32_t rank = -1;
  int32_t size = 0;
};
struct Answer {
  Answer() = default;
  ~Answer() { wipe(std::as_writable_bytes(std::span(&key, 1))); }
  Answer(const Answer&) = default;
  Answer& operator=(const Answer&) = default;

  std::array<char, 8> magic{'K', 'H', 'M', 'E', 'E', 'T', '1', '\n'};
  int32_t code = 0;  // a StatusCode
  std::array<std::byte, JobKey::kBytes> key{};
  std::array<char, 96> store{};
  std::array<char, 512> error{};
};

template <size_t kSize>
void set_text(std::array<char, kSize>* field, const std::string& text) {
  text.copy(field->data(), kSize - 1);
}
template <size_t kSize>
std::string text_of(const std::array<char, kSize>& field) {
  return std::string(field.data(), std::find(field.begin(), field.end(), '\0'));
}

// "khorus/1000/openmpi-1140129793/1/3" without a file: the first byte of the path is 0.
struct Name {
  std::string text;
  Address address;
};

Name name_of(const HostMeetingOptions& options, int rank) {
  std::string job = options.job_id;
  if (constexpr size_t kLongest = 48; job.size() > kLongest) {
    uint64_t hash = 14695981039346656037U;  // FNV-1a
    for (const char c : job) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211U;
    job = job.substr(0, kLongest - 20) + "~" + std::to_string(hash % 10'000'000'000'000'000U);
  }
  Name name;
  name.text = "khorus/" + std::to_string(::geteuid()) + "/" + job + "/" +
              std::to_string(options.generation) + "/" + std::to_string(rank);
  auto* const path = reinterpret_cast<sockaddr_un*>(&name.address.storage);
  path->sun_family = AF_UNIX;
  name.text.resize(std::min(name.text.size(), sizeof(path->sun_path) - 1));
  name.text.copy(path->sun_path + 1, name.text.size());
  name.address.length =
      static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.text.size());
  return name;
}

std::string describe(const ucred& peer) {
  return "process " + std::to_string(peer.pid) + " of user " + std::to_string(peer.uid);
}

// Who is at the other end, as the kernel noted when the two were connected.
std::optional<ucred> peer_of(const Socket& socket) {
  ucred peer{};
  socklen_t length = sizeof(peer);
  if (::getsockopt(socket.fd(), SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) return {};
  return peer;
}

bool is_own_user(const Socket& socket) {
  const std::optional<ucred> peer = peer_of(socket);
  return peer && peer->uid == ::geteuid();
}

// Connected, or not there.
std::optional<Socket> call(const Name& name) {
  Result<Socket> socket = Socket::start_connect(name.address);
  if (!socket.ok()) return {};
  return std::move(*socket);
}

Result<Socket> listen_on(const Name& name) {
  Result<Socket> socket = Socket::listen(name.address);
  if (socket.ok()) return socket;
  const std::optional<Socket> owner = call(name);
  const std::optional<ucred> who = owner ? peer_of(*owner) : std::nullopt;
  return Status(StatusCode::kUnavailable,
                "the meeting point \"" + name.text + "\" of this rank is taken" +
                    (who ? " by " + describe(*who) : std::string()) +
                    "; is the rank started twice? set KHORUS_JOB_ID to a name that only this job "
                    "has");
}

// Until one of them is readable or the deadline. Every outcome is found out by the next look.
void wait_readable(std::vector<pollfd>* entries, Clock::time_point deadline) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
  static_cast<void>(::poll(entries->data(), entries->size(),
                           static_cast<int>(std::clamp<int64_t>(left, 0, 1 << 30))));
}
void wait_readable(const Socket& socket, Clock::time_point deadline) {
  std::vector<pollfd> one{{socket.fd(), POLLIN, 0}};
  wait_readable(&one, deadline);
}

std::string seconds(std::chrono::milliseconds time) {
  return std::to_string(time.count() / 1000) + "." + std::to_string(time.count() / 100 % 10) + " s";
}

// One who came to rank 0 and has not said what he should, or waits for the answer.
struct Guest {
  Socket socket;
  FixedRead<sizeof(Question)> question = {};
  int rank = -1;
};

class Host {
 public:
  Host(const HostMeetingOptions& options, Socket listening)
      : options_(options),
        listening_(std::move(listening)),
        came_(static_cast<size_t>(options.size), false) {}

  // True when all are there. False: the time is over, or one has left().
  bool wait_for_all(Clock::time_point deadline);
  const std::optional<int>& left() const { return left_; }
  void answer_all(const Answer& answer) {
    for (Guest& guest : guests_) {
      if (guest.rank >= 0) say(&guest, answer);
    }
  }
  std::string missing() const;

 private:
  void take_new_guests();
  // False: the guest is to leave.
  bool listen_to(Guest* guest);
  bool refuse(Guest* guest, const std::string& why);
  static void say(Guest* guest, const Answer& answer) {
    // It fits in the buffer of a fresh socket, and stays readable after our end is closed.
    guest->socket.write_some(std::as_bytes(std::span(&answer, 1)));
  }

  const HostMeetingOptions& options_;
  Socket listening_;
  std::vector<Guest> guests_;
  std::vector<bool> came_;
  int count_ = 1;            // with rank 0
  std::optional<int> left_;  // a rank that had come
};

bool Host::wait_for_all(Clock::time_point deadline) {
  while (count_ < options_.size && !left_ && Clock::now() < deadline) {
    std::vector<pollfd> entries{{listening_.fd(), POLLIN, 0}};
    for (const Guest& guest : guests_) entries.push_back({guest.socket.fd(), POLLIN, 0});
    wait_readable(&entries, deadline);
    std::erase_if(guests_, [this](Guest& guest) { return !listen_to(&guest); });
    take_new_guests();
  }
  return count_ == options_.size;
}

void Host::take_new_guests() {
  for (;;) {
    Result<std::optional<Socket>> socket = listening_.accept();
    if (!socket.ok() || !*socket) return;
    // Only our own user costs us more than this look.
    if (is_own_user(**socket)) guests_.push_back({std::move(**socket)});
  }
}

bool Host::listen_to(Guest* guest) {
  const FixedReadResult read = guest->question.read(&guest->socket);
  if (read.state == FixedReadResult::State::kOver) return false;
  if (read.state == FixedReadResult::State::kMore) return true;
  if (guest->rank >= 0) {
    // It has said everything: what is readable now is its end, before it has got its answer. It
    // does not come again: the next init() meets under another name.
    std::byte more{};
    const Socket::Transfer transfer = guest->socket.read_some(std::span(&more, 1));
    if (transfer.kind == Socket::Transfer::Kind::kWouldBlock) return true;
    left_ = guest->rank;
    return false;
  }
  Question question;
  std::memcpy(static_cast<void*>(&question), guest->question.bytes().data(), sizeof(question));
  if (question.magic != Question().magic) {
    return refuse(guest, "rank 0 has another version of Khorus; install one version everywhere");
  }
  if (question.size != options_.size || question.rank < 1 || question.rank >= options_.size) {
    return refuse(guest, "rank " + std::to_string(question.rank) + " of " +
                             std::to_string(question.size) + " came to rank 0 of " +
                             std::to_string(options_.size) +
                             ": two jobs meet under one name, set KHORUS_JOB_ID");
  }
  const size_t rank = static_cast<size_t>(question.rank);
  if (came_[rank]) {
    return refuse(guest,
                  "rank " + std::to_string(rank) + " is there already: it was started twice");
  }
  came_[rank] = true;
  ++count_;
  guest->rank = question.rank;
  return true;
}

bool Host::refuse(Guest* guest, const std::string& why) {
  Answer answer;
  answer.code = static_cast<int32_t>(StatusCode::kPermissionDenied);
  set_text(&answer.error, why);
  say(guest, answer);
  return false;
}

std::string Host::missing() const {
  std::string ranks;
  int count = 0;
  for (int rank = 1; rank < options_.size; ++rank) {
    if (came_[static_cast<size_t>(rank)]) continue;
    ++count;
    if (count <= 16) ranks += (ranks.empty() ? "" : ",") + std::to_string(rank);
  }
  return (count == 1 ? "rank " : "ranks ") + ranks + (count > 16 ? ",..." : "");
}

Status no_show(const HostMeetingOptions& options, const std::string& who) {
  return Status(StatusCode::kTimeout,
                who + " did not come to the meeting of job " + options.job_id + " on this host " +
                    "within " + seconds(options.timeout) + "; see that all " +
                    std::to_string(options.size) +
                    " ranks run on one host and call init(), or raise KHORUS_START_TIMEOUT");
}

Status has_left(const HostMeetingOptions& options, int rank) {
  return Status(StatusCode::kPeerLost,
                "rank " + std::to_string(rank) + " had come to the meeting of job " +
                    options.job_id + " on this host, and ended or gave up before all were there; " +
                    "see its output for the reason",
                rank);
}

// A connection to rank 0, by our own user.
Result<Socket> call_rank_0(const HostMeetingOptions& options, Clock::time_point deadline) {
  const Name first = name_of(options, 0);
  Result<Socket> doorbell = listen_on(name_of(options, options.rank));
  if (!doorbell.ok()) return doorbell;
  std::optional<Socket> socket = call(first);
  while (!socket && Clock::now() < deadline) {
    wait_readable(*doorbell, deadline);
    Result<std::optional<Socket>> rung = doorbell->accept();
    if (!rung.ok()) return rung.status();
    if (*rung && is_own_user(**rung)) socket = call(first);
  }
  if (!socket) return no_show(options, "rank 0");
  const std::optional<ucred> peer = peer_of(*socket);
  if (peer && peer->uid == ::geteuid()) return std::move(*socket);
  return Status(StatusCode::kPermissionDenied,
                "the meeting point \"" + first.text + "\" belongs to " +
                    (peer ? describe(*peer) : std::string("an unknown process")) +
                    " and not to this user (" + std::to_string(::geteuid()) +
                    "); set KHORUS_JOB_ID to another name, or KHORUS_STORE");
}

}  // namespace

Status invite(const HostMeetingOptions& options, const HostInvitation& invitation) {
  const auto deadline = Clock::now() + options.timeout;
  Result<Socket> listening = listen_on(name_of(options, 0));
  if (!listening.ok()) return listening.status();
  // Those that are not there yet will call by themselves.
  for (int rank = 1; rank < options.size; ++rank) static_cast<void>(call(name_of(options, rank)));
  Host host(options, std::move(*listening));
  Status status;
  const bool complete = host.wait_for_all(deadline);
  if (host.left()) {
    status = has_left(options, *host.left());
  } else if (!complete) {
    status = no_show(options, host.missing());
  }
  Answer answer;
  answer.code = static_cast<int32_t>(status.code());
  if (status.ok()) {
    std::ranges::copy(invitation.key.bytes(), answer.key.begin());
    set_text(&answer.store, invitation.store);
  } else {
    set_text(&answer.error, status.message());
  }
  host.answer_all(answer);
  return status;
}

Result<HostInvitation> attend(const HostMeetingOptions& options) {
  const auto deadline = Clock::now() + options.timeout;
  Result<Socket> socket = call_rank_0(options, deadline);
  if (!socket.ok()) return socket.status();
  Question question;
  question.rank = options.rank;
  question.size = options.size;
  socket->write_some(std::as_bytes(std::span(&question, 1)));
  Answer answer;
  const std::span<std::byte> bytes = std::as_writable_bytes(std::span(&answer, 1));
  size_t filled = 0;
  bool over = false;
  while (filled < bytes.size() && !over) {
    if (Clock::now() >= deadline) return no_show(options, "some other rank");
    const Socket::Transfer transfer = socket->read_some(bytes.subspan(filled));
    filled += transfer.bytes;
    over = transfer.kind == Socket::Transfer::Kind::kOver;
    if (transfer.kind == Socket::Transfer::Kind::kWouldBlock) wait_readable(*socket, deadline);
  }
  if (over || answer.magic != Answer().magic) {
    return Status(StatusCode::kUnavailable,
                  "rank 0 left the meeting of job " + options.job_id +
                      " before it had answered; see its output for the reason");
  }
  if (answer.code != 0) {
    return Status(static_cast<StatusCode>(answer.code), text_of(answer.error));
  }
  return HostInvitation{text_of(answer.store), JobKey::from_bytes(answer.key)};
}

std::string job_id_from_parent() {
  const std::string parent = std::to_string(::getppid());
  std::ifstream file("/proc/" + parent + "/stat");
  std::string stat;
  std::getline(file, stat);
  // Field 22 of proc(5)'s stat is the time of its start: numbers of processes are used again.
  size_t at = stat.rfind(')');
  for (int field = 2; field < 22 && at != std::string::npos; ++field) at = stat.find(' ', at + 1);
  if (at == std::string::npos) return "parent-" + parent;
  return "parent-" + parent + "-" + stat.substr(at + 1, stat.find(' ', at + 1) - at - 1);
}

}  // namespace khorus::net

// See authentication.h; the bytes are documented in HANDSHAKE.md.
#include "core/net/authentication.h"

#include <algorithm>
#include <optional>

#include "core/base/assert.h"
#include "core/net/little_endian.h"
#include "core/net/quoted.h"

namespace khorus::net {
namespace {

constexpr std::array<char, 8> kMagic = {'\x8f', 'K', 'H', 'O', 'R', 'U', 'S', '\n'};
constexpr size_t kWireVersionAt = 8;
constexpr size_t kLibraryVersionAt = 12;
constexpr size_t kVerdictAt = 16;
constexpr size_t kRoleAt = 17;
constexpr size_t kPeerRoleAt = 18;
constexpr size_t kTlsAt = 19;
constexpr size_t kRankAt = 20;
constexpr size_t kPeerRankAt = 24;
constexpr size_t kEpochAt = 32;
constexpr size_t kJobIdAt = 40;
constexpr size_t kNonceAt = 104;
constexpr size_t kNonceBytes = 32;
constexpr size_t kMacAt = kHelloBytes - Mac::kBytes;

constexpr std::string_view kInitiatorHello = "khorus initiator hello";
constexpr std::string_view kResponderHello = "khorus responder hello";
constexpr std::string_view kInitiatorConfirm = "khorus initiator confirm";
constexpr std::string_view kKeyToResponder = "khorus key to responder";
constexpr std::string_view kKeyToInitiator = "khorus key to initiator";
constexpr std::string_view kTlsSecret = "khorus tls secret";

// What the responder says of a hello; travels on the wire: never renumber.
enum class Verdict : uint8_t {
  kAccepted = 0,
  kKey = 1,
  kWireVersion = 2,
  kLibraryVersion = 3,
  kJob = 4,
  kEpoch = 5,
  kRole = 6,
  kRank = 7,
  kNotAdmitted = 8,
  kTls = 9,
};

// A hello as values.
struct Hello {
  Identity self;
  Verdict verdict = Verdict::kAccepted;
  Role peer_role = Role::kRank;
  int32_t peer_rank = -1;
};

void write_versions(const Identity& self, Verdict verdict, HelloBytes* out) {
  std::ranges::transform(kMagic, out->begin(), [](char c) { return static_cast<std::byte>(c); });
  put_little_endian(out->data() + kWireVersionAt, self.wire_version);
  put_little_endian(out->data() + kLibraryVersionAt, self.library_version);
  (*out)[kVerdictAt] = static_cast<std::byte>(verdict);
}

// Everything but the MAC.
Status write_hello(const Hello& hello, HelloBytes* out) {
  if (hello.self.job_id.size() > kMaxJobIdBytes ||
      hello.self.job_id.find('\0') != std::string::npos) {
    return Status(StatusCode::kInvalidArgument,
                  "the job id \"" + hello.self.job_id + "\" has " +
                      std::to_string(hello.self.job_id.size()) +
                      " bytes; at most 64 without NUL are possible: set a shorter KHORUS_JOB_ID");
  }
  write_versions(hello.self, hello.verdict, out);
  (*out)[kRoleAt] = static_cast<std::byte>(hello.self.role);
  (*out)[kPeerRoleAt] = static_cast<std::byte>(hello.peer_role);
  (*out)[kTlsAt] = static_cast<std::byte>(hello.self.tls);
  put_little_endian(out->data() + kRankAt, hello.self.rank);
  put_little_endian(out->data() + kPeerRankAt, hello.peer_rank);
  put_little_endian(out->data() + kEpochAt, hello.self.epoch);
  std::ranges::transform(hello.self.job_id, out->begin() + kJobIdAt,
                         [](char c) { return static_cast<std::byte>(c); });
  return fill_random(std::span(*out).subspan<kNonceAt, kNonceBytes>());
}

Hello read_hello(std::span<const std::byte, kHelloBytes> bytes) {
  Hello hello;
  hello.self.wire_version = get_little_endian<uint32_t>(bytes.data() + kWireVersionAt);
  hello.self.library_version = get_little_endian<uint32_t>(bytes.data() + kLibraryVersionAt);
  hello.verdict = static_cast<Verdict>(bytes[kVerdictAt]);
  hello.self.role = static_cast<Role>(bytes[kRoleAt]);
  hello.peer_role = static_cast<Role>(bytes[kPeerRoleAt]);
  hello.self.tls = bytes[kTlsAt] != std::byte{0};
  hello.self.rank = get_little_endian<int32_t>(bytes.data() + kRankAt);
  hello.peer_rank = get_little_endian<int32_t>(bytes.data() + kPeerRankAt);
  hello.self.epoch = get_little_endian<uint64_t>(bytes.data() + kEpochAt);
  for (const std::byte b : bytes.subspan<kJobIdAt, kMaxJobIdBytes>()) {
    if (b == std::byte{0}) break;
    hello.self.job_id += static_cast<char>(b);
  }
  return hello;
}

bool has_magic(std::span<const std::byte, kHelloBytes> bytes) {
  return std::ranges::equal(kMagic, bytes.first<kMagic.size()>(),
                            [](char c, std::byte b) { return static_cast<std::byte>(c) == b; });
}

std::span<const std::byte> body(std::span<const std::byte, kHelloBytes> hello) {
  return hello.first<kMacAt>();
}

bool mac_matches(const Mac::Tag& tag, std::span<const std::byte, kHelloBytes> hello) {
  return equal_in_constant_time(tag, hello.subspan<kMacAt>());
}

SecretBytes derive(const JobKey& key, std::string_view label, const HelloBytes& initiator,
                   const HelloBytes& responder) {
  SecretBytes secret;
  Mac::Tag tag = Mac(key.bytes()).compute(label, initiator, responder);
  std::ranges::copy(tag, secret.bytes().begin());
  wipe(tag);
  return secret;
}

std::string version_text(uint32_t version) {
  return std::to_string(version >> 16) + "." + std::to_string((version >> 8) & 0xff) + "." +
         std::to_string(version & 0xff);
}

std::string rank_text(int32_t rank) {
  return rank < 0 ? "no rank" : "rank " + std::to_string(rank);
}

// "rank 3", "a store server"
std::string member_text(const Identity& who) {
  return who.rank >= 0 ? rank_text(who.rank) : "a " + std::string(to_string(who.role));
}

// One way in which the two ends differ.
struct Difference {
  Verdict verdict;
  std::string text;
};

std::optional<Difference> version_difference(const Identity& self, const Identity& peer) {
  if (self.wire_version != peer.wire_version) {
    return Difference{Verdict::kWireVersion,
                      "the peer speaks wire version " + std::to_string(peer.wire_version) +
                          " (library " + version_text(peer.library_version) +
                          "), this process wire version " + std::to_string(self.wire_version) +
                          " (library " + version_text(self.library_version) +
                          "); install the same Khorus everywhere"};
  }
  if (self.library_version != peer.library_version) {
    return Difference{Verdict::kLibraryVersion,
                      "the peer runs library version " + version_text(peer.library_version) +
                          ", this process " + version_text(self.library_version) +
                          "; install the same Khorus everywhere"};
  }
  return std::nullopt;
}

// REQUIRES: the MAC of `peer` has verified. `peer_role`: what the peer should be.
std::optional<Difference> difference(const Identity& self, const Hello& peer, Role peer_role) {
  if (auto version = version_difference(self, peer.self)) return version;
  if (self.job_id != peer.self.job_id) {
    return Difference{Verdict::kJob, "the peer belongs to job " + quoted(peer.self.job_id) +
                                         ", this process to job " + quoted(self.job_id)};
  }
  if (self.epoch != peer.self.epoch) {
    return Difference{Verdict::kEpoch, "the peer is in epoch " + std::to_string(peer.self.epoch) +
                                           ", this process in epoch " + std::to_string(self.epoch)};
  }
  if (peer.self.role != peer_role || peer.peer_role != self.role) {
    return Difference{Verdict::kRole,
                      "the peer is a " + std::string(to_string(peer.self.role)) +
                          " and looks for a " + std::string(to_string(peer.peer_role)) +
                          ", this process is a " + std::string(to_string(self.role)) +
                          " and expects a " + std::string(to_string(peer_role))};
  }
  if (peer.self.tls != self.tls) {
    return Difference{Verdict::kTls, "the peer, " + member_text(peer.self) +
                                         ", has KHORUS_TLS=" + std::to_string(peer.self.tls) +
                                         ", this process, " + member_text(self) +
                                         ", KHORUS_TLS=" + std::to_string(self.tls) +
                                         "; set the same for khorusrun and all ranks"};
  }
  if (peer.peer_rank != self.rank) {
    return Difference{Verdict::kRank, "the peer, " + rank_text(peer.self.rank) + ", looks for " +
                                          rank_text(peer.peer_rank) + ", this process is " +
                                          rank_text(self.rank)};
  }
  return std::nullopt;
}

Status refused(std::string text) { return Status(StatusCode::kPermissionDenied, std::move(text)); }

Status key_differs() {
  return refused(
      "the peer does not know this job's key; give every process the same key (KHORUS_KEY_FILE)");
}

std::string unverified(const Difference& difference) {
  return difference.text + " (the peer's values are not verified)";
}

Status key_missing() {
  return Status(StatusCode::kInvalidArgument,
                "there is no job key; start with khorusrun or set KHORUS_KEY_FILE");
}

}  // namespace

std::string_view to_string(Role role) noexcept {
  switch (role) {
    case Role::kRank:
      return "rank";
    case Role::kStoreClient:
      return "store client";
    case Role::kStoreServer:
      return "store server";
  }
  return "unknown role";
}

InitiatorHandshake::InitiatorHandshake(const JobKey& key, Identity self, Role peer_role,
                                       int32_t peer_rank)
    : key_(key), self_(std::move(self)), peer_role_(peer_role), peer_rank_(peer_rank) {}

Result<HelloBytes> InitiatorHandshake::hello() {
  if (!key_.is_set()) return key_missing();
  own_ = {};
  const Hello hello{self_, Verdict::kAccepted, peer_role_, peer_rank_};
  if (Status status = write_hello(hello, &own_); !status.ok()) return status;
  const Mac::Tag tag = Mac(key_.bytes()).compute(kInitiatorHello, body(own_));
  std::ranges::copy(tag, own_.begin() + kMacAt);
  return own_;
}

Result<ConfirmBytes> InitiatorHandshake::receive_hello(
    std::span<const std::byte, kHelloBytes> answer) {
  if (!has_magic(answer)) return refused("the peer is not Khorus: its answer has another form");
  const Hello peer = read_hello(answer);
  if (!mac_matches(Mac(key_.bytes()).compute(kResponderHello, own_, body(answer)), answer)) {
    if (auto version = version_difference(self_, peer.self)) return refused(unverified(*version));
    return key_differs();
  }
  if (auto found = difference(self_, peer, peer_role_)) return refused(found->text);
  if (peer.self.rank != peer_rank_) {
    return refused("the peer is " + rank_text(peer.self.rank) + ", this process looks for " +
                   rank_text(peer_rank_));
  }
  if (peer.verdict != Verdict::kAccepted) {
    return refused("the peer, " + rank_text(peer.self.rank) + ", does not admit " +
                   rank_text(self_.rank) + ": it expects no such rank, or has it already");
  }
  std::ranges::copy(answer, peer_.begin());
  return Mac(key_.bytes()).compute(kInitiatorConfirm, own_, peer_);
}

SecretBytes InitiatorHandshake::tls_secret() const { return derive(key_, kTlsSecret, own_, peer_); }

SessionKeys InitiatorHandshake::keys() const {
  return {derive(key_, kKeyToResponder, own_, peer_), derive(key_, kKeyToInitiator, own_, peer_)};
}

ResponderHandshake::ResponderHandshake(const JobKey& key, Identity self, Role peer_role,
                                       Admission admission)
    : key_(key), self_(std::move(self)), peer_role_(peer_role), admission_(std::move(admission)) {}

ResponderHandshake::Answer ResponderHandshake::receive_hello(
    std::span<const std::byte, kHelloBytes> hello) {
  if (!key_.is_set()) return {key_missing()};
  if (!has_magic(hello)) return {refused("a stranger connected that does not speak Khorus")};
  const Hello peer = read_hello(hello);
  Answer answer;
  answer.has_bytes = true;
  if (!mac_matches(Mac(key_.bytes()).compute(kInitiatorHello, body(hello)), hello)) {
    const auto version = version_difference(self_, peer.self);
    answer.status = version ? refused(unverified(*version)) : key_differs();
    write_versions(self_, version ? version->verdict : Verdict::kKey, &answer.bytes);
    return answer;
  }
  peer_rank_ = peer.self.rank;
  Verdict verdict = Verdict::kAccepted;
  if (auto found = difference(self_, peer, peer_role_)) {
    verdict = found->verdict;
    answer.status = refused(found->text);
  } else if (Status admitted = admission_(peer.self.rank); !admitted.ok()) {
    verdict = Verdict::kNotAdmitted;
    answer.status = admitted;
  }
  std::ranges::copy(hello, peer_.begin());
  const Hello reply{self_, verdict, peer_role_, peer.self.rank};
  if (Status status = write_hello(reply, &answer.bytes); !status.ok()) return {status};
  const Mac::Tag tag = Mac(key_.bytes()).compute(kResponderHello, peer_, body(answer.bytes));
  std::ranges::copy(tag, answer.bytes.begin() + kMacAt);
  own_ = answer.bytes;
  answered_ = answer.status.ok();
  return answer;
}

Status ResponderHandshake::receive_confirm(std::span<const std::byte, kConfirmBytes> confirm) {
  KHORUS_ASSERT(answered_, "receive_confirm() before a hello was accepted");
  if (!equal_in_constant_time(Mac(key_.bytes()).compute(kInitiatorConfirm, peer_, own_), confirm)) {
    return refused("the peer that claims to be " + rank_text(peer_rank_) +
                   " cannot confirm: a replayed or forged hello");
  }
  return admission_(peer_rank_);
}

SecretBytes ResponderHandshake::tls_secret() const { return derive(key_, kTlsSecret, peer_, own_); }

SessionKeys ResponderHandshake::keys() const {
  return {derive(key_, kKeyToInitiator, peer_, own_), derive(key_, kKeyToResponder, peer_, own_)};
}

}  // namespace khorus::net

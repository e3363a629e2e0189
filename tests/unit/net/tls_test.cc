// TLS by itself: two ends, and between them somebody who records, cuts, changes and repeats. All in
// one thread.
#include "core/net/tls.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <optional>

#include "core/net/stream.h"
#include "tests/unit/net/support.h"

namespace khorus::net {
namespace {

using testing::Clock;
using ::testing::HasSubstr;
using testing::patience;
using testing::wait_readable;
using Kind = Socket::Transfer::Kind;
using State = Tls::Progress::State;

SecretBytes secret_of(int seed) {
  SecretBytes secret;
  std::ranges::fill(secret.bytes(), static_cast<std::byte>(seed));
  return secret;
}

std::shared_ptr<const TlsContext> context(uint64_t records_per_key = TlsContext::kRecordsPerKey) {
  auto made = TlsContext::make(records_per_key);
  EXPECT_TRUE(made.ok()) << made.status().to_string();
  return *made;
}

// Two ends of one TCP connection: who called, who accepted.
std::pair<Socket, Socket> connected() {
  Result<Socket> listening = Socket::listen(loopback_address());
  EXPECT_TRUE(listening.ok());
  Result<Socket> caller = Socket::start_connect(listening->local_address());
  EXPECT_TRUE(caller.ok() && wait_readable(*listening));
  auto callee = listening->accept();
  EXPECT_TRUE(callee.ok() && *callee);
  return {std::move(*caller), std::move(**callee)};
}

// The reason why nothing more can be read.
std::string end_of(Stream* stream) {
  std::array<std::byte, 100> room;
  const auto deadline = patience();
  while (Clock::now() < deadline) {
    const auto transfer = stream->read_some(room);
    if (transfer.kind == Kind::kOver) return transfer.reason;
  }
  return "no end";
}

void write_all(Stream* stream, std::string_view text) {
  const auto transfer = stream->write_some(bytes_of(text));
  EXPECT_EQ(transfer.bytes, text.size()) << transfer.reason;
  EXPECT_FALSE(stream->has_unsent());
}

// An initiator and a responder whose bytes go through the test's hands.
struct Relayed {
  explicit Relayed(int seed = 1, int other_seed = 1,
                   uint64_t records_per_key = TlsContext::kRecordsPerKey) {
    auto [up, up_end] = connected();
    auto [down_end, down] = connected();
    initiator = std::move(up);
    responder = std::move(down);
    between = {std::move(up_end), std::move(down_end)};
    const auto settings = context(records_per_key);
    initiator.start_tls(settings, Tls::Side::kInitiator, secret_of(seed));
    responder.start_tls(settings, Tls::Side::kResponder, secret_of(other_seed));
  }

  // What has come from one end (0: the initiator), and was not passed on yet.
  std::string take(size_t from) {
    std::string got;
    std::array<std::byte, 70'000> room;
    for (;;) {
      const auto transfer = between[from].read_some(room);
      if (transfer.bytes == 0) break;
      got += text_of(std::span(room).first(transfer.bytes));
    }
    seen[from] += got;
    return got;
  }
  void give(size_t to, std::string_view bytes) {
    EXPECT_EQ(between[to].write_some(bytes_of(bytes)).bytes, bytes.size());
  }
  // What has arrived by now.
  void pass_on() {
    for (const size_t from : {size_t{0}, size_t{1}}) {
      if (const std::string bytes = take(from); !bytes.empty()) give(1 - from, bytes);
    }
  }

  // Passes on until so many bytes have come out at this end, or no more will.
  std::string read(Stream* stream, size_t enough) {
    std::string got;
    std::array<std::byte, 5000> room;
    const auto deadline = patience();
    while (got.size() < enough && Clock::now() < deadline) {
      pass_on();
      const auto transfer = stream->read_some(room);
      if (transfer.kind == Kind::kOver) break;
      got += text_of(std::span(room).first(transfer.bytes));
    }
    return got;
  }

  // Both ends go on until both are done or one is over.
  std::pair<Tls::Progress, Tls::Progress> shake() {
    std::pair<Tls::Progress, Tls::Progress> ends;
    const auto deadline = patience();
    const auto is_over = [](const Tls::Progress& end) { return end.state == State::kOver; };
    while (ends.first.state == State::kMore || ends.second.state == State::kMore) {
      if (ends.first.state == State::kMore) ends.first = initiator.handshake_tls();
      pass_on();
      if (ends.second.state == State::kMore) ends.second = responder.handshake_tls();
      if (is_over(ends.second) && wait_readable(between[1])) pass_on();
      if (is_over(ends.first) || is_over(ends.second) || Clock::now() > deadline) break;
    }
    return ends;
  }
  void stand() {
    const auto [one, other] = shake();
    ASSERT_EQ(one.state, State::kDone) << one.reason;
    ASSERT_EQ(other.state, State::kDone) << other.reason;
  }

  Stream initiator, responder;
  std::array<Socket, 2> between;
  std::array<std::string, 2> seen;
};

TEST(Tls, BytesTravelBothWaysAndWhoRecordsThemReadsNothing) {
  Relayed pair;
  pair.stand();
  for (int round = 0; round < 3; ++round) {
    write_all(&pair.initiator, "layers.3.up.weight");
    EXPECT_EQ(pair.read(&pair.responder, 18), "layers.3.up.weight");
    write_all(&pair.responder, "layers.3.down.weight");
    EXPECT_EQ(pair.read(&pair.initiator, 20), "layers.3.down.weight");
  }
  for (const std::string& bytes : pair.seen) EXPECT_THAT(bytes, Not(HasSubstr("layers")));
}

TEST(Tls, TheKeyExchangeIsAlwaysEphemeral) {
  Relayed pair;
  pair.stand();
  // The extension psk_key_exchange_modes of the ClientHello: a list of one, psk_dhe_ke.
  EXPECT_THAT(pair.seen[0], HasSubstr(std::string("\x00\x2d\x00\x02\x01\x01", 6)));
}

TEST(Tls, AnotherSecretIsRefused) {
  Relayed pair(1, 2);
  const auto [one, other] = pair.shake();
  EXPECT_EQ(other.state, State::kOver);
  EXPECT_THAT(other.reason, HasSubstr("broke its TLS connection"));
  EXPECT_NE(one.state, State::kDone);
  ASSERT_TRUE(wait_readable(pair.initiator.socket())) << "an alert";
  EXPECT_EQ(pair.initiator.handshake_tls().state, State::kOver);
}

TEST(Tls, WhatIsNotTlsIsRefusedAtOnce) {
  const std::string nonsense(300, 'x');
  const std::string large_hello("\x16\x03\x01\xff\xff\x01\x00\xff\xff", 9);
  for (const std::string& words : {nonsense, std::string("GET / HTTP/1.0\r\n\r\n"), large_hello}) {
    auto [stranger, socket] = connected();
    Stream responder(std::move(socket));
    responder.start_tls(context(), Tls::Side::kResponder, secret_of(1));
    ASSERT_EQ(stranger.write_some(bytes_of(words)).bytes, words.size());
    ASSERT_TRUE(wait_readable(responder.socket()));
    const auto progress = responder.handshake_tls();
    EXPECT_EQ(progress.state, State::kOver) << words;
    EXPECT_THAT(progress.reason, HasSubstr("broke its TLS connection"));
  }
}

TEST(Tls, AHelloThatIsCutShortIsWaitedForUntilItsEnd) {
  Relayed pair;
  EXPECT_EQ(pair.initiator.handshake_tls().state, State::kMore);
  ASSERT_TRUE(wait_readable(pair.between[0]));
  const std::string hello = pair.take(0);
  for (const size_t size : {size_t{1}, size_t{5}, hello.size() / 2, hello.size() - 1}) {
    auto [stranger, socket] = connected();
    Stream responder(std::move(socket));
    responder.start_tls(context(), Tls::Side::kResponder, secret_of(1));
    ASSERT_EQ(stranger.write_some(bytes_of(hello).first(size)).bytes, size);
    ASSERT_TRUE(wait_readable(responder.socket()));
    EXPECT_EQ(responder.handshake_tls().state, State::kMore);
    stranger.close();
    ASSERT_TRUE(wait_readable(responder.socket()));
    const auto progress = responder.handshake_tls();
    EXPECT_EQ(progress.state, State::kOver);
    EXPECT_EQ(progress.reason, "closed the connection");
  }
}

TEST(Tls, AChangedBitARepeatedRecordAndAnInjectedOneEndIt) {
  const auto changed = [](std::string record) { return record.back() ^= 1, record; };
  const auto twice = [](std::string record) { return record + record; };
  const auto injected = [](std::string record) {
    return std::string("\x17\x03\x03\x00\x15", 5) + std::string(21, 'x') + record;
  };
  for (const std::function<std::string(std::string)>& attack :
       {std::function<std::string(std::string)>(changed), {twice}, {injected}}) {
    Relayed pair;
    pair.stand();
    write_all(&pair.initiator, "words");
    ASSERT_TRUE(wait_readable(pair.between[0]));
    pair.give(1, attack(pair.take(0)));
    EXPECT_THAT(end_of(&pair.responder), HasSubstr("broke its TLS connection"));
    EXPECT_THAT(end_of(&pair.responder), HasSubstr("broke its TLS connection")) << "for good";
  }
}

TEST(Tls, WhatCameWholeIsReadBeforeTheEnd) {
  Relayed pair;
  pair.stand();
  write_all(&pair.initiator, "whole");
  ASSERT_TRUE(wait_readable(pair.between[0]));
  pair.give(1, pair.take(0));
  write_all(&pair.initiator, "cut");
  ASSERT_TRUE(wait_readable(pair.between[0]));
  pair.give(1, pair.take(0).substr(0, 10));
  pair.between[1].close();
  EXPECT_EQ(pair.read(&pair.responder, 5), "whole");
  EXPECT_EQ(end_of(&pair.responder), "closed the connection");
}

// Two ends without anybody between.
struct Direct {
  Direct() {
    auto [up, down] = connected();
    initiator = std::move(up);
    responder = std::move(down);
    initiator.start_tls(context(), Tls::Side::kInitiator, secret_of(1));
    responder.start_tls(context(), Tls::Side::kResponder, secret_of(1));
  }
  State go_on(Stream* end) {
    if (end == &responder || begun) {
      EXPECT_TRUE(wait_readable(end->socket()));
    }
    begun = true;
    return end->handshake_tls().state;
  }
  bool begun = false;
  Stream initiator, responder;
};

TEST(Tls, NothingBehindTheHandshakeLeavesTheSocket) {
  Direct pair;
  EXPECT_EQ(pair.go_on(&pair.initiator), State::kMore);
  EXPECT_EQ(pair.go_on(&pair.responder), State::kMore);
  while (pair.go_on(&pair.initiator) == State::kMore) {
  }
  write_all(&pair.initiator, "right behind it");
  while (pair.go_on(&pair.responder) == State::kMore) {
  }
  EXPECT_TRUE(wait_readable(pair.responder.socket())) << "who waits for it would wait for ever";
  std::array<std::byte, 100> room;
  const auto transfer = pair.responder.read_some(room);
  EXPECT_EQ(text_of(std::span(room).first(transfer.bytes)), "right behind it");
}

TEST(Tls, KeysAreRenewedOnTheWay) {
  auto [up, down] = connected();
  const auto settings = context(3);
  Tls initiator(settings, Tls::Side::kInitiator, secret_of(1));
  Tls responder(settings, Tls::Side::kResponder, secret_of(1));
  State one = State::kMore;
  State other = State::kMore;
  for (int i = 0; i < 10 && (one != State::kDone || other != State::kDone); ++i) {
    if (one == State::kMore) one = initiator.handshake(&up).state;
    if (other == State::kMore && wait_readable(down)) other = responder.handshake(&down).state;
    if (one == State::kMore) {
      ASSERT_TRUE(wait_readable(up));
    }
  }
  ASSERT_EQ(other, State::kDone);
  std::array<std::byte, 100> room;
  for (int i = 0; i < 100; ++i) {
    const std::string text = "message " + std::to_string(i);
    ASSERT_EQ(initiator.write_some(&up, bytes_of(text), {}).bytes, text.size());
    ASSERT_TRUE(wait_readable(down));
    ASSERT_EQ(text_of(std::span(room).first(responder.read_some(&down, room).bytes)), text);
    if (i % 2 == 0) continue;
    ASSERT_EQ(responder.write_some(&down, bytes_of(text), {}).bytes, text.size());
    ASSERT_TRUE(wait_readable(up));
    ASSERT_EQ(text_of(std::span(room).first(initiator.read_some(&up, room).bytes)), text);
  }
  EXPECT_EQ(initiator.renewals(), 33u);
  EXPECT_EQ(responder.renewals(), 16u);
}

// Both ends write until the kernel takes no more, while keys are renewed, and only then read.
TEST(Tls, TwoFullSocketsDoNotLockEachOther) {
  Relayed pair(1, 1, 3);
  pair.stand();
  std::array<Stream*, 2> ends = {&pair.initiator, &pair.responder};
  std::array<std::string, 2> sent;
  for (size_t i = 0; i < 2; ++i) {
    for (int piece = 0; !ends[i]->has_unsent(); ++piece) {
      const std::string text(40'000, static_cast<char>('a' + piece % 26));
      const auto transfer = ends[i]->write_some(bytes_of("head"), bytes_of(text));
      ASSERT_EQ(transfer.kind, Kind::kDone) << transfer.reason;
      sent[i] += ("head" + text).substr(0, transfer.bytes);
    }
    EXPECT_EQ(ends[i]->write_some(bytes_of("more")).kind, Kind::kWouldBlock);
  }
  std::array<std::string, 2> received;
  std::array<std::string, 2> on_the_way;
  const auto deadline = patience();
  std::array<std::byte, 30'000> room;
  while ((received[0].size() < sent[1].size() || received[1].size() < sent[0].size()) &&
         Clock::now() < deadline) {
    for (size_t i = 0; i < 2; ++i) {
      on_the_way[i] += pair.take(i);
      const auto given = pair.between[1 - i].write_some(bytes_of(on_the_way[i]));
      on_the_way[i].erase(0, given.bytes);
      const auto got = ends[i]->read_some(room);
      ASSERT_NE(got.kind, Kind::kOver) << got.reason;
      received[i] += text_of(std::span(room).first(got.bytes));
      ASSERT_NE(ends[i]->flush().kind, Kind::kOver);
    }
  }
  EXPECT_TRUE(received[0] == sent[1]);
  EXPECT_TRUE(received[1] == sent[0]);
}

TEST(Tls, OneCallLeavesNothingThatNoReadableSocketTellsOf) {
  Direct pair;
  EXPECT_EQ(pair.go_on(&pair.initiator), State::kMore);
  EXPECT_EQ(pair.go_on(&pair.responder), State::kMore);
  while (pair.go_on(&pair.initiator) == State::kMore) {
  }
  while (pair.go_on(&pair.responder) == State::kMore) {
  }
  const std::string sent = std::string(10'000, 'a') + std::string(5000, 'b');
  write_all(&pair.initiator, std::string_view(sent).substr(0, 10'000));
  write_all(&pair.initiator, std::string_view(sent).substr(10'000));
  std::array<std::byte, 1000> little;
  std::string got;
  while (got.size() < sent.size()) {
    ASSERT_TRUE(wait_readable(pair.responder.socket())) << got.size() << " bytes have come";
    Socket::Transfer transfer = pair.responder.read_some(little);
    while (transfer.kind == Kind::kDone) {
      got += text_of(std::span(little).first(transfer.bytes));
      transfer = pair.responder.read_buffered(little);
    }
    ASSERT_NE(transfer.kind, Kind::kOver) << transfer.reason;
  }
  EXPECT_EQ(got, sent);
}

}  // namespace
}  // namespace khorus::net

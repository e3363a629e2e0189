// The handshake as two state machines over byte strings: the good case, and every way in which it
// must fail.
#include "core/net/authentication.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/unit/net/support.h"

namespace khorus::net {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::test_key;

Identity rank_identity(int32_t rank) { return {Role::kRank, rank, 7, "job-a"}; }

Status admit_all(int32_t) { return {}; }

// What both ends say, when rank 3 calls rank 1.
struct Pair {
  Pair() = default;
  Pair(const JobKey& caller_key, Identity caller, const JobKey& callee_key, Identity callee)
      : initiator(caller_key, std::move(caller), Role::kRank, 1),
        responder(callee_key, std::move(callee), Role::kRank, admit_all) {}

  InitiatorHandshake initiator{test_key(), rank_identity(3), Role::kRank, 1};
  ResponderHandshake responder{test_key(), rank_identity(1), Role::kRank, admit_all};
};

// Both ends must refuse, and the message of each must hold both texts.
void expect_refused(Pair pair, const std::string& one, const std::string& other) {
  const auto hello = pair.initiator.hello();
  ASSERT_TRUE(hello.ok()) << hello.status().to_string();
  const auto answer = pair.responder.receive_hello(*hello);
  EXPECT_EQ(answer.status.code(), StatusCode::kPermissionDenied);
  EXPECT_THAT(answer.status.message(), AllOf(HasSubstr(one), HasSubstr(other)));
  ASSERT_TRUE(answer.has_bytes);
  const auto confirm = pair.initiator.receive_hello(answer.bytes);
  EXPECT_EQ(confirm.status().code(), StatusCode::kPermissionDenied);
  EXPECT_THAT(confirm.status().message(), AllOf(HasSubstr(one), HasSubstr(other)));
}

bool equal(const SecretBytes& a, const SecretBytes& b) {
  return std::ranges::equal(a.bytes(), b.bytes());
}

TEST(Handshake, BothEndsAgreeOnTheKeysOfBothDirections) {
  Pair pair;
  const auto answer = pair.responder.receive_hello(*pair.initiator.hello());
  ASSERT_TRUE(answer.status.ok()) << answer.status.to_string();
  const auto confirm = pair.initiator.receive_hello(answer.bytes);
  ASSERT_TRUE(confirm.ok()) << confirm.status().to_string();
  ASSERT_TRUE(pair.responder.receive_confirm(*confirm).ok());
  EXPECT_EQ(pair.responder.peer_rank(), 3);
  const SessionKeys a = pair.initiator.keys();
  const SessionKeys b = pair.responder.keys();
  EXPECT_TRUE(equal(a.send, b.receive));
  EXPECT_TRUE(equal(a.receive, b.send));
  EXPECT_FALSE(equal(a.send, a.receive));
}

TEST(Handshake, BothEndsHaveASecretForTlsThatIsNoOther) {
  const auto secret = [] {
    Pair pair;
    const auto answer = pair.responder.receive_hello(*pair.initiator.hello());
    EXPECT_TRUE(pair.responder.receive_confirm(*pair.initiator.receive_hello(answer.bytes)).ok());
    EXPECT_TRUE(equal(pair.initiator.tls_secret(), pair.responder.tls_secret()));
    EXPECT_FALSE(equal(pair.initiator.tls_secret(), pair.initiator.keys().send));
    EXPECT_FALSE(equal(pair.initiator.tls_secret(), pair.initiator.keys().receive));
    return pair.initiator.tls_secret();
  };
  EXPECT_FALSE(equal(secret(), secret())) << "the same in two connections";
}

TEST(Handshake, KeysAreFreshInEverySession) {
  const auto session = [] {
    Pair pair;
    const auto answer = pair.responder.receive_hello(*pair.initiator.hello());
    EXPECT_TRUE(pair.initiator.receive_hello(answer.bytes).ok());
    return pair.initiator.keys();
  };
  EXPECT_FALSE(equal(session().send, session().send));
}

TEST(Handshake, AnotherKeyIsRefused) {
  expect_refused({test_key(1), rank_identity(3), test_key(2), rank_identity(1)}, "key",
                 "KHORUS_KEY_FILE");
}

TEST(Handshake, AnotherJobIsRefusedNamingBoth) {
  Identity other = rank_identity(3);
  other.job_id = "job-b";
  expect_refused({test_key(), other, test_key(), rank_identity(1)}, "job-a", "job-b");
}

TEST(Handshake, AnotherEpochIsRefusedNamingBoth) {
  Identity other = rank_identity(3);
  other.epoch = 6;
  expect_refused({test_key(), other, test_key(), rank_identity(1)}, "epoch 6", "epoch 7");
}

TEST(Handshake, AnotherWireVersionIsRefusedNamingBoth) {
  Identity other = rank_identity(3);
  other.wire_version = kWireVersion + 1;
  expect_refused({test_key(), other, test_key(), rank_identity(1)},
                 "wire version " + std::to_string(kWireVersion),
                 "wire version " + std::to_string(kWireVersion + 1));
}

TEST(Handshake, AnotherVersionIsNamedEvenWhenTheKeyDiffersToo) {
  Identity other = rank_identity(3);
  other.library_version = (9u << 16) | (8u << 8) | 7u;
  expect_refused({test_key(1), other, test_key(2), rank_identity(1)}, "9.8.7", "not verified");
}

TEST(Handshake, AnotherLibraryVersionIsRefusedNamingBoth) {
  Identity other = rank_identity(3);
  other.library_version = (9u << 16) | (8u << 8) | 7u;
  expect_refused({test_key(), other, test_key(), rank_identity(1)}, "9.8.7", KHORUS_VERSION_STRING);
}

TEST(Handshake, AnotherRoleIsRefusedNamingBoth) {
  Identity other = rank_identity(3);
  other.role = Role::kStoreClient;
  expect_refused({test_key(), other, test_key(), rank_identity(1)}, "store client", "rank");
}

TEST(Handshake, WhoDiffersInTlsIsRefusedNamingBoth) {
  Identity other = rank_identity(3);
  other.tls = true;
  expect_refused({test_key(), other, test_key(), rank_identity(1)}, "KHORUS_TLS=1", "KHORUS_TLS=0");
}

TEST(Handshake, TheWrongRankAnswersNamingBoth) {
  expect_refused({test_key(), rank_identity(3), test_key(), rank_identity(2)}, "rank 1", "rank 2");
}

TEST(Handshake, ARankThatIsNotAdmittedIsRefusedOnBothEnds) {
  InitiatorHandshake initiator(test_key(), rank_identity(3), Role::kRank, 1);
  ResponderHandshake responder(test_key(), rank_identity(1), Role::kRank, [](int32_t rank) {
    return Status(StatusCode::kPermissionDenied, "no child: " + std::to_string(rank));
  });
  const auto answer = responder.receive_hello(*initiator.hello());
  EXPECT_EQ(answer.status.message(), "no child: 3");
  EXPECT_THAT(initiator.receive_hello(answer.bytes).status().message(), HasSubstr("rank 3"));
}

TEST(Handshake, AdmissionIsAskedAgainAtTheEnd) {
  bool taken = false;
  InitiatorHandshake initiator(test_key(), rank_identity(3), Role::kRank, 1);
  ResponderHandshake responder(test_key(), rank_identity(1), Role::kRank, [&](int32_t) {
    return taken ? Status(StatusCode::kPermissionDenied, "taken") : Status();
  });
  const auto answer = responder.receive_hello(*initiator.hello());
  const auto confirm = initiator.receive_hello(answer.bytes);
  ASSERT_TRUE(confirm.ok());
  taken = true;
  EXPECT_EQ(responder.receive_confirm(*confirm).message(), "taken");
}

TEST(Handshake, AReplayedTranscriptIsRefused) {
  Pair recorded;
  const HelloBytes hello = *recorded.initiator.hello();
  const auto answer = recorded.responder.receive_hello(hello);
  const auto confirm = recorded.initiator.receive_hello(answer.bytes);
  ASSERT_TRUE(recorded.responder.receive_confirm(*confirm).ok());

  ResponderHandshake responder(test_key(), rank_identity(1), Role::kRank, admit_all);
  ASSERT_TRUE(responder.receive_hello(hello).status.ok());  // it cannot know yet
  EXPECT_EQ(responder.receive_confirm(*confirm).code(), StatusCode::kPermissionDenied);

  InitiatorHandshake initiator(test_key(), rank_identity(3), Role::kRank, 1);
  ASSERT_TRUE(initiator.hello().ok());
  EXPECT_FALSE(initiator.receive_hello(answer.bytes).ok());
}

TEST(Handshake, AReflectedMessageIsRefused) {
  // A rank that calls itself by way of an attacker who sends back what he gets.
  InitiatorHandshake initiator(test_key(), rank_identity(1), Role::kRank, 1);
  const HelloBytes hello = *initiator.hello();
  EXPECT_FALSE(initiator.receive_hello(hello).ok());

  Pair pair;
  const auto answer = pair.responder.receive_hello(*pair.initiator.hello());
  ResponderHandshake other(test_key(), rank_identity(3), Role::kRank, admit_all);
  EXPECT_FALSE(other.receive_hello(answer.bytes).status.ok());
}

TEST(Handshake, EveryChangedByteIsRefused) {
  for (size_t i = 0; i < kHelloBytes; ++i) {
    Pair pair;
    HelloBytes hello = *pair.initiator.hello();
    hello[i] ^= std::byte{1};
    EXPECT_FALSE(pair.responder.receive_hello(hello).status.ok()) << "hello, byte " << i;
  }
  for (size_t i = 0; i < kHelloBytes; ++i) {
    Pair pair;
    HelloBytes answer = pair.responder.receive_hello(*pair.initiator.hello()).bytes;
    answer[i] ^= std::byte{1};
    EXPECT_FALSE(pair.initiator.receive_hello(answer).ok()) << "answer, byte " << i;
  }
  for (size_t i = 0; i < kConfirmBytes; ++i) {
    Pair pair;
    const auto answer = pair.responder.receive_hello(*pair.initiator.hello());
    ConfirmBytes confirm = *pair.initiator.receive_hello(answer.bytes);
    confirm[i] ^= std::byte{0x80};
    EXPECT_FALSE(pair.responder.receive_confirm(confirm).ok()) << "confirm, byte " << i;
  }
}

TEST(Handshake, WhatIsNotKhorusGetsNoAnswer) {
  Pair pair;
  HelloBytes garbage{};
  std::ranges::copy(bytes_of("GET / HTTP/1.1\r\nHost: khorus\r\n"), garbage.begin());
  const auto answer = pair.responder.receive_hello(garbage);
  EXPECT_FALSE(answer.status.ok());
  EXPECT_FALSE(answer.has_bytes);
}

TEST(Handshake, WithoutTheKeyNothingOfTheJobIsTold) {
  Pair pair(test_key(2), rank_identity(3), test_key(1), rank_identity(1));
  const auto answer = pair.responder.receive_hello(*pair.initiator.hello());
  ASSERT_TRUE(answer.has_bytes);
  EXPECT_EQ(text_of(answer.bytes).find("job-a"), std::string::npos);
}

TEST(Handshake, NeedsAKeyAndAJobIdThatFits) {
  InitiatorHandshake no_key(JobKey(), rank_identity(3), Role::kRank, 1);
  EXPECT_EQ(no_key.hello().status().code(), StatusCode::kInvalidArgument);
  Identity long_name = rank_identity(3);
  long_name.job_id = std::string(kMaxJobIdBytes, 'x');
  EXPECT_TRUE(InitiatorHandshake(test_key(), long_name, Role::kRank, 1).hello().ok());
  long_name.job_id += 'x';
  EXPECT_THAT(InitiatorHandshake(test_key(), long_name, Role::kRank, 1).hello().status().message(),
              HasSubstr("KHORUS_JOB_ID"));
}

}  // namespace
}  // namespace khorus::net

// The stores: set once, wait, time out; the server refuses strangers and outlives their mischief.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>

#include <atomic>
#include <thread>

#include "core/net/connection.h"
#include "core/net/dial.h"
#include "core/net/memory_store.h"
#include "core/net/store_protocol.h"
#include "core/net/store_server.h"
#include "core/net/tcp_store.h"
#include "tests/unit/net/support.h"

namespace khorus::net {
namespace {

using testing::Clock;
using ::testing::HasSubstr;
using testing::milliseconds;
using testing::seconds;
using testing::test_key;

StoreServerOptions server_options() {
  StoreServerOptions options;
  options.key = test_key();
  options.job_id = "job";
  return options;
}

TcpStoreOptions client_options(const StoreServer& server) {
  TcpStoreOptions options;
  options.address = server.address();
  options.key = test_key();
  options.job_id = "job";
  options.rank = 0;
  return options;
}

struct Served {
  explicit Served(const StoreServerOptions& options = server_options())
      : server(std::move(StoreServer::start(options).value())), tls(options.tls) {}
  explicit Served(bool under_tls)
      : Served([under_tls] {
          StoreServerOptions options = server_options();
          options.tls = under_tls;
          return options;
        }()) {}
  std::unique_ptr<TcpStore> connect() {
    TcpStoreOptions options = client_options(*server);
    options.tls = tls;
    auto store = TcpStore::connect(options);
    EXPECT_TRUE(store.ok()) << store.status().to_string();
    return std::move(store.value());
  }
  std::unique_ptr<StoreServer> server;
  const bool tls;
};

void expect_store_behaviour(Store* one, Store* other) {
  EXPECT_TRUE(one->set("key", bytes_of("value")).ok());
  EXPECT_EQ(text_of(*other->get("key", milliseconds(0))), "value");
  EXPECT_TRUE(other->set("key", bytes_of("value")).ok()) << "the same value again";
  const Status poisoned = other->set("key", bytes_of("another"));
  EXPECT_EQ(poisoned.code(), StatusCode::kPermissionDenied);
  EXPECT_THAT(poisoned.message(), HasSubstr("\"key\""));
  EXPECT_EQ(text_of(*one->get("key", milliseconds(0))), "value");

  const auto before = Clock::now();
  const auto missing = one->get("missing", milliseconds(50));
  EXPECT_EQ(missing.status().code(), StatusCode::kTimeout);
  EXPECT_THAT(missing.status().message(), AllOf(HasSubstr("\"missing\""), HasSubstr("50 ms")));
  EXPECT_GE(Clock::now() - before, milliseconds(50));
  EXPECT_EQ(one->get("missing", milliseconds(0)).status().code(), StatusCode::kTimeout);

  std::jthread setter([&] { EXPECT_TRUE(other->set("late", bytes_of("here")).ok()); });
  EXPECT_EQ(text_of(*one->get("late", seconds(60))), "here");
  EXPECT_TRUE(one->set("empty", {}).ok());
  EXPECT_TRUE(other->get("empty", milliseconds(0))->empty());
  EXPECT_EQ(one->set(std::string(257, 'k'), {}).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(one->set("large", std::vector<std::byte>((64u << 10) + 1)).code(),
            StatusCode::kInvalidArgument);
  EXPECT_TRUE(one->set("largest", std::vector<std::byte>(64u << 10)).ok());
  EXPECT_EQ(other->get("largest", milliseconds(0))->size(), 64u << 10);
}

// Until so many answers have come.
std::vector<StoreWaiter::Answer> look_until(StoreWaiter* waiter, size_t count) {
  std::vector<StoreWaiter::Answer> answers;
  const auto deadline = testing::patience();
  while (answers.size() < count && Clock::now() < deadline) {
    pollfd entry{waiter->fd(), POLLIN, 0};
    EXPECT_EQ(::poll(&entry, 1, 60'000), 1);
    for (StoreWaiter::Answer& answer : waiter->look()) answers.push_back(std::move(answer));
  }
  return answers;
}

// `one` is left to the waiter.
void expect_waiter_behaviour(Store* one, Store* other) {
  ASSERT_TRUE(other->set("w/early", bytes_of("1")).ok());
  const auto waiter = one->make_waiter();
  ASSERT_TRUE(waiter.ok()) << waiter.status().to_string();
  for (const char* key : {"w/never", "w/early", "w/late"}) {
    ASSERT_TRUE((*waiter)->begin(key).ok());
  }
  auto answers = look_until(waiter->get(), 1);
  ASSERT_EQ(answers.size(), 1u);
  EXPECT_EQ(answers[0].first, "w/early");
  EXPECT_EQ(text_of(*answers[0].second), "1");
  EXPECT_TRUE((*waiter)->look().empty()) << "each comes once";

  std::jthread setter([&] { EXPECT_TRUE(other->set("w/late", bytes_of("2")).ok()); });
  answers = look_until(waiter->get(), 1);
  ASSERT_EQ(answers.size(), 1u);
  EXPECT_EQ(answers[0].first, "w/late");
  // A call in between may have read the answer.
  ASSERT_TRUE((*waiter)->begin("w/own").ok());
  ASSERT_TRUE(one->set("w/own", bytes_of("3")).ok());
  EXPECT_TRUE(one->get("w/own", milliseconds(0)).ok());
  answers = (*waiter)->look();
  ASSERT_EQ(answers.size(), 1u);
  EXPECT_EQ(text_of(*answers[0].second), "3");
}

TEST(MemoryStore, KeepsTheContract) {
  MemoryStore store;
  expect_store_behaviour(&store, &store);
  expect_waiter_behaviour(&store, &store);
}

// The parameter: whether under TLS.
class StoreUnder : public ::testing::TestWithParam<bool> {};

TEST_P(StoreUnder, KeepsTheContract) {
  Served served(GetParam());
  const auto one = served.connect();
  const auto other = served.connect();
  expect_store_behaviour(one.get(), other.get());
  const auto third = served.connect();
  EXPECT_EQ(text_of(*third->get("key", milliseconds(0))), "value");
  expect_waiter_behaviour(one.get(), other.get());
  EXPECT_EQ(text_of(*one->get("key", milliseconds(0))), "value") << "after the waiter is gone";
}

TEST(TcpStore, AWaiterHearsOfTheEndOfTheStore) {
  Served served;
  const auto store = served.connect();
  const auto waiter = store->make_waiter();
  ASSERT_TRUE(waiter.ok());
  ASSERT_TRUE((*waiter)->begin("a").ok());
  ASSERT_TRUE((*waiter)->begin("b").ok());
  served.server->stop();
  const auto answers = look_until(waiter->get(), 2);
  ASSERT_EQ(answers.size(), 2u);
  for (const auto& [key, value] : answers) {
    EXPECT_EQ(value.status().code(), StatusCode::kUnavailable);
  }
  EXPECT_EQ((*waiter)->begin("c").code(), StatusCode::kUnavailable);
}

TEST_P(StoreUnder, OneClientServesManyThreadsThatWaitForEachOther) {
  Served served(GetParam());
  const auto store = served.connect();
  constexpr int kThreads = 16;
  constexpr int kRounds = 20;
  std::vector<std::jthread> threads;
  std::atomic<int> good{0};
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int round = 0; round < kRounds; ++round) {
        const auto key = [&](int thread) {
          return std::to_string(round) + "/" + std::to_string(thread);
        };
        const bool set = store->set(key(t), bytes_of(key(t))).ok();
        const auto value = store->get(key((t + 1) % kThreads), seconds(60));
        if (set && value.ok() && text_of(*value) == key((t + 1) % kThreads)) ++good;
      }
    });
  }
  threads.clear();
  EXPECT_EQ(good, kThreads * kRounds);
}

INSTANTIATE_TEST_SUITE_P(ClearAndTls, StoreUnder, ::testing::Bool(),
                         [](const auto& test) { return test.param ? "Tls" : "Clear"; });

TEST(TcpStore, WhoDiffersInTlsIsRefusedNamingBothValues) {
  for (const bool server_has_it : {false, true}) {
    Served served(server_has_it);
    TcpStoreOptions options = client_options(*served.server);
    options.rank = 3;
    options.tls = !server_has_it;
    const Status status = TcpStore::connect(options).status();
    EXPECT_EQ(status.code(), StatusCode::kPermissionDenied);
    const std::string theirs = server_has_it ? "KHORUS_TLS=1" : "KHORUS_TLS=0";
    const std::string ours = server_has_it ? "KHORUS_TLS=0" : "KHORUS_TLS=1";
    EXPECT_THAT(status.message(),
                AllOf(HasSubstr("a store server, has " + theirs), HasSubstr("rank 3, " + ours),
                      HasSubstr(served.server->address())));
    EXPECT_TRUE(served.connect()->set("still", bytes_of("here")).ok());
  }
}

TEST(TcpStore, AWrongKeyOrJobIsRefused) {
  Served served;
  TcpStoreOptions options = client_options(*served.server);
  options.key = test_key(2);
  EXPECT_EQ(TcpStore::connect(options).status().code(), StatusCode::kPermissionDenied);
  options = client_options(*served.server);
  options.job_id = "another";
  const Status status = TcpStore::connect(options).status();
  EXPECT_EQ(status.code(), StatusCode::kPermissionDenied);
  EXPECT_THAT(status.message(), AllOf(HasSubstr("\"another\""), HasSubstr("\"job\"")));
}

TEST(TcpStore, NobodyListensOrAnswers) {
  TcpStoreOptions options;
  options.key = test_key();
  {
    Served served;
    options.address = served.server->address();
  }
  EXPECT_EQ(TcpStore::connect(options).status().code(), StatusCode::kUnavailable);
  options.address = "no port";
  EXPECT_EQ(TcpStore::connect(options).status().code(), StatusCode::kInvalidArgument);

  const auto silent = Socket::listen(loopback_address());
  ASSERT_TRUE(silent.ok());
  options.address = silent->local_address().to_string();
  options.timeout = milliseconds(50);
  EXPECT_EQ(TcpStore::connect(options).status().code(), StatusCode::kTimeout);
}

TEST(StoreServer, IsNotServedWithoutAKey) {
  EXPECT_EQ(StoreServer::start({}).status().code(), StatusCode::kInvalidArgument);
}

TEST(StoreServer, StopEndsWaitingGetsAtOnce) {
  Served served;
  const auto store = served.connect();
  std::jthread stopper([&] {
    // The get is under way, or comes after the stop: both must end.
    served.server->stop();
  });
  const auto value = store->get("never", seconds(60));
  EXPECT_EQ(value.status().code(), StatusCode::kUnavailable) << value.status().to_string();
  EXPECT_EQ(store->set("a", {}).code(), StatusCode::kUnavailable);
  served.server->stop();
}

TEST(StoreServer, AMessageOfAnotherFormEndsOnlyItsConnection) {
  Served served;
  const auto good = served.connect();
  DialOptions options;
  options.address = resolve(served.server->address())->front();
  options.key = test_key();
  options.self = {Role::kStoreClient, 1, 0, "job"};
  options.peer_role = Role::kStoreServer;
  options.deadline = testing::patience();
  for (const std::string bad : {"", "x", "\x03garbage of some length", "\x02___________more"}) {
    auto dialed = dial_and_wait(options);
    ASSERT_TRUE(dialed.ok()) << dialed.status().to_string();
    Connection connection(std::move(dialed->stream), dialed->keys);
    ASSERT_TRUE(connection.send(bytes_of(bad)).ok());
    Status status;
    while (status.ok() && Clock::now() < options.deadline) {
      status = connection.receive([](std::span<const std::byte>) { FAIL(); });
    }
    EXPECT_EQ(status.code(), StatusCode::kUnavailable) << bad;
  }
  EXPECT_TRUE(good->set("still", bytes_of("here")).ok());
}

TEST(StoreServer, WaitingGetsAreBounded) {
  StoreServerOptions options = server_options();
  options.max_waiting_gets_per_connection = 1;
  Served served(options);
  const auto store = served.connect();
  // Of several gets one waits, whichever came first; the others are turned away at once.
  std::atomic<int> waited{0};
  std::atomic<int> turned_away{0};
  std::vector<std::jthread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      const auto value = store->get("a", seconds(60));
      if (value.ok()) ++waited;
      if (value.status().code() != StatusCode::kUnavailable) return;
      if (++turned_away == 3) {
        EXPECT_TRUE(store->set("a", {}).ok());
      }
    });
  }
  threads.clear();
  EXPECT_EQ(waited, 1);
  EXPECT_EQ(turned_away, 3);
}

TEST(StoreServer, SilentStrangersDoNotKeepMembersOut) {
  StoreServerOptions options = server_options();
  options.max_strangers = 2;
  options.stranger_timeout = milliseconds(50);
  Served served(options);
  std::vector<Socket> strangers;
  for (int i = 0; i < 8; ++i) {
    auto socket = Socket::start_connect(resolve(served.server->address())->front());
    ASSERT_TRUE(socket.ok());
    strangers.push_back(std::move(*socket));
  }
  EXPECT_TRUE(served.connect()->set("key", bytes_of("value")).ok());
}

TEST(StoreProtocol, MessagesSurviveTheRoundTripAndCutsAreRefused) {
  StoreRequest request;
  request.kind = StoreRequest::Kind::kSet;
  request.id = 0xfedcba98;
  request.timeout = milliseconds(1234);
  request.key = "a key";
  request.value = {std::byte{1}, std::byte{2}};
  const auto bytes = encode(request);
  const auto decoded = decode_store_request(bytes);
  ASSERT_TRUE(decoded.has_value());
  EXPECT_EQ(decoded->id, request.id);
  EXPECT_EQ(decoded->timeout, request.timeout);
  EXPECT_EQ(decoded->key, request.key);
  EXPECT_EQ(decoded->value, request.value);
  for (size_t size = 0; size < bytes.size() - request.value.size(); ++size) {
    EXPECT_FALSE(decode_store_request(std::span(bytes).first(size)).has_value()) << size;
  }
  const auto answer = decode_store_answer(encode(StoreAnswer{7, StatusCode::kTimeout, {}}));
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->code, StatusCode::kTimeout);
  EXPECT_FALSE(decode_store_answer(bytes_of("1234")).has_value());
  EXPECT_FALSE(decode_store_answer(bytes_of("1234\xff")).has_value());
}

}  // namespace
}  // namespace khorus::net

// Which backend carries a job, and what is said when none can.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/runtime/backend_loader.h"
#include "core/runtime/hello.h"
#include "tests/unit/runtime/ranks.h"

namespace khorus::runtime {
namespace {

using testing::HasSubstr;

Hello hello(const std::string& process, std::vector<Hello::Backend> backends) {
  Hello result;
  result.host = "h";
  result.pid = 7;
  result.process = process;
  result.machine = {"boot", "net", "user", 1000};
  result.requested_backend = "auto";
  result.backends = std::move(backends);
  return result;
}

const Hello::Backend kLocal{"local", true, false, ""};
const Hello::Backend kShm{"shm", false, true, ""};
const Hello::Backend kGloo{"gloo", false, false, ""};

TEST(BackendChoice, TheBestThatAllCanUse) {
  const Hello one = hello("p", {kLocal, kGloo});
  EXPECT_EQ(choose_backend({one, one})->name, "local");
  const Hello two = hello("q", {kLocal, kGloo});
  const auto choice = choose_backend({one, two});
  ASSERT_TRUE(choice.ok());
  EXPECT_EQ(choice->name, "gloo");
  EXPECT_THAT(choice->reason, HasSubstr("one process"));
}

TEST(BackendChoice, SharedMemoryWithinOneHostOnly) {
  const Hello one = hello("p", {kLocal, kShm, kGloo});
  Hello two = hello("q", {kLocal, kShm, kGloo});
  EXPECT_EQ(choose_backend({one, two})->name, "shm");
  const auto reason_against = [&](const HostIdentity& place) {
    two.machine = place;  // under the same host name, which says nothing
    const auto choice = choose_backend({one, one, two});
    if (!choice.ok() || choice->name != "gloo") return std::string("shm was not refused");
    EXPECT_THAT(choice->reason, HasSubstr("not shm: it needs all ranks on one host, and rank 2"));
    two.requested_backend = "shm";
    Hello asks = one;
    asks.requested_backend = "shm";
    EXPECT_EQ(choose_backend({asks, two}).status().code(), StatusCode::kUnavailable);
    return choice->reason;
  };
  EXPECT_THAT(reason_against({"another", "net", "user", 1000}), HasSubstr("another machine"));
  EXPECT_THAT(reason_against({"boot", "n2", "user", 1000}), HasSubstr("network namespace"));
  EXPECT_THAT(reason_against({"boot", "net", "u2", 1000}), HasSubstr("user namespace"));
  EXPECT_THAT(reason_against({"boot", "net", "user", 7}), HasSubstr("uid 7, not 1000"));
  EXPECT_THAT(reason_against({"", "", "", 1000}), HasSubstr("no /proc"));
  EXPECT_TRUE(own_identity().machine == own_identity().machine);
  EXPECT_THAT(own_identity().machine.network, HasSubstr("net:["));
}

// Whatever carries data between hosts, chosen or asked for: what it does not protect is to be said.
TEST(BackendChoice, WarnsOfWhatLeavesTheHost) {
  Hello one = hello("p", {kGloo});
  Hello two = hello("q", {kGloo});
  EXPECT_EQ(choose_backend({one, two})->warning, "");
  two.machine = {"another", "net", "user", 1000};
  EXPECT_THAT(choose_backend({one, two})->warning, HasSubstr("over gloo, neither encrypted"));
  one.requested_backend = two.requested_backend = "gloo";
  EXPECT_THAT(choose_backend({one, two})->warning, HasSubstr("a network that you trust"));
}

TEST(BackendChoice, RefusalsNameRankAndReason) {
  const Hello full = hello("p", {kLocal, kGloo});
  const Hello broken = hello("q", {{"gloo", false, false, "no interface is up"}});
  Status status = choose_backend({full, broken}).status();
  EXPECT_EQ(status.code(), StatusCode::kUnavailable);
  EXPECT_THAT(status.message(), HasSubstr("rank 1 (h, pid 7): no interface is up"));
  Hello asks = full;
  asks.requested_backend = "mpi";
  status = choose_backend({asks, asks}).status();
  EXPECT_THAT(status.message(), HasSubstr("\"mpi\""));
  EXPECT_THAT(status.message(), HasSubstr("rank 0 (h, pid 7) does not have it"));
  Hello other = full;
  other.requested_backend = "gloo";
  status = check_settings({full, full, full, other});
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("\"auto\" on ranks 0-2, \"gloo\" on rank 3"));
  other = full;
  other.cache_capacity = 5;
  EXPECT_THAT(check_settings({full, other}).message(), HasSubstr("5 on rank 1"));
}

TEST(BackendChoice, HellosSurviveTheWire) {
  Hello sent = own_identity();
  sent.cache_capacity = 99;
  sent.requested_backend = "gloo";
  sent.backends = {kLocal, kShm, {"gloo", false, false, "why not"}};
  wire::Bytes bytes = encode(sent);
  const auto received = decode_hello(bytes);
  ASSERT_TRUE(received.ok());
  EXPECT_EQ(received->host, sent.host);
  EXPECT_EQ(received->process, sent.process);
  EXPECT_TRUE(received->machine == sent.machine);
  EXPECT_EQ(received->nonce, sent.nonce);
  EXPECT_EQ(received->backends[2].problem, "why not");
  EXPECT_TRUE(received->backends[1].one_host_only);
  EXPECT_TRUE(received->backends[0].in_process_only);
  for (size_t length = 0; length < bytes.size(); ++length) {
    EXPECT_FALSE(
        decode_hello(wire::Bytes(bytes.begin(), bytes.begin() + static_cast<long>(length))).ok());
  }
}

TEST(BackendLoader, FindsWhatWasBuilt) {
  const BackendSearch search = find_backends("");
  std::vector<std::string> names;
  for (const FoundBackend& found : search.backends) {
    names.push_back(found.name);
    if (found.name == "mpi") {
      // This test is not started by mpirun.
      EXPECT_THAT(found.problem.message(), HasSubstr("not started by Open MPI's mpirun"));
      continue;
    }
    if (found.name == "nccl") {
      // The engine leaves the GPU alone until it has tensors of one.
      EXPECT_THAT(found.problem.message(), HasSubstr("no tensors of the CPU"));
      continue;
    }
    EXPECT_TRUE(found.usable()) << found.name << ": " << found.problem.to_string();
  }
  EXPECT_THAT(names, testing::IsSupersetOf(test::kBackends));
  EXPECT_EQ(names.front(), "local");
  EXPECT_FALSE(search.directories.empty());
}

TEST(BackendLoader, AJobWithAMissingBackendDoesNotStart) {
  test::Ranks ranks(2, {"nosuch", false});
  ranks.run_bare([&](int rank) {
    const auto engine = Engine::create(ranks.options(rank));
    ASSERT_FALSE(engine.ok());
    EXPECT_EQ(engine.status().code(), StatusCode::kUnavailable);
    EXPECT_THAT(engine.status().message(), HasSubstr("\"nosuch\""));
  });
}

#if !defined(__SANITIZE_THREAD__)  // which does not know Debian's Gloo
// On one rank alone, so that the others wait for it while they connect.
TEST(BackendChoice, OneThatDoesNotConnectIsTheErrorOfAllRanks) {
  const test::Ranks ranks(3, {.backend = "gloo"}, [](EngineOptions* options) {
    options->config.log_level = LogLevel::kError;
    if (options->place.rank == 1) options->config.network_interface = "nosuch0";
  });
  testing::internal::CaptureStderr();
  ranks.run_bare([&](int rank) {
    const auto engine = Engine::create(ranks.options(rank));
    ASSERT_FALSE(engine.ok());
    EXPECT_THAT(engine.status().message(), HasSubstr("no network interface \"nosuch0\""));
    if (rank != 1) {
      EXPECT_THAT(engine.status().message(), HasSubstr("rank 1"));
    }
  });
  EXPECT_THAT(testing::internal::GetCapturedStderr(), testing::Not(HasSubstr("did not return")));
}
#endif

}  // namespace
}  // namespace khorus::runtime

// A rank that dies while the others wait for it: what test_start.py starts in a rank's place.
//
//   start_victim LIFELINE
//
// It announces itself as a rank does, without an engine; waits until all others have announced
// themselves, so that they wait for it; writes "dies PID" to the pipe LIFELINE, and kills itself.
// If it has a parent, it has connected to it by then when KHORUS_TEST_CONNECTS is set.
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include "core/net/dial.h"
#include "core/net/ended_ranks.h"
#include "core/net/host_meeting.h"
#include "core/net/rounds.h"
#include "core/net/store_server.h"
#include "core/net/tcp_channel.h"
#include "core/net/tcp_store.h"
#include "core/protocol/topology.h"
#include "core/runtime/job_session.h"
#include "core/runtime/process_stat.h"
#include "khorus/options.h"

namespace {

using namespace khorus;
using namespace std::chrono_literals;

template <class T>
T checked(Result<T> result) {
  if (result.ok()) return std::move(result).value();
  std::fprintf(stderr, "start_victim: %s\n", result.status().to_string().c_str());
  std::exit(2);
}

void check(const Status& status) {
  if (!status.ok()) checked(Result<int>(status));
}

struct Access {
  net::TcpStoreOptions store;
  std::shared_ptr<net::StoreServer> server;  // rank 0's, without khorusrun
  bool by_khorusrun = true;
};

Access meet_on_host(const Config& config) {
  net::HostMeetingOptions meeting;
  meeting.job_id = config.job_id;
  meeting.generation = 1;
  meeting.rank = static_cast<int>(config.rank);
  meeting.size = static_cast<int>(config.size);
  meeting.timeout = 30s;
  Access access;
  access.by_khorusrun = false;
  if (meeting.rank != 0) {
    const net::HostInvitation invitation = checked(net::attend(meeting));
    access.store.address = invitation.store;
    access.store.key = invitation.key;
    return access;
  }
  net::StoreServerOptions serving;
  serving.key = checked(net::JobKey::generate());
  serving.job_id = config.job_id;
  access.server = checked(net::StoreServer::start(serving));
  access.store.address = access.server->address();
  access.store.key = serving.key;
  check(net::invite(meeting, {access.store.address, serving.key}));
  return access;
}

Access find_store(const Config& config, const std::shared_ptr<JobSession>& session) {
  if (config.store.empty()) return meet_on_host(config);
  Access access;
  access.store.address = config.store;
  access.store.key = checked(session->key(config));
  return access;
}

uint64_t epoch_of(net::Store& store, const Config& config, JobSession* session) {
  if (!checked(net::has_rounds(store))) return session->next_generation(config.job_id);
  const net::RoundSeeker seeker{static_cast<int>(config.rank), static_cast<int>(config.size), 0,
                                30s};
  return session->entered(checked(net::enter_round(store, seeker)));
}

std::string get(net::Store& store, const std::string& key) {
  const auto value = checked(store.get(key, 30s));
  return std::string(reinterpret_cast<const char*>(value.data()), value.size());
}

void set(net::Store& store, const std::string& key, const std::string& value) {
  check(store.set(key, std::as_bytes(std::span(value))));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const Config config = checked(Config::from_environment());
  const int rank = static_cast<int>(config.rank);
  const auto session = make_job_session();
  Access access = find_store(config, session);
  access.store.job_id = config.job_id;
  access.store.rank = rank;
  const auto store = checked(net::TcpStore::connect(access.store));
  const uint64_t epoch =
      access.by_khorusrun ? epoch_of(*store, config, session.get()) : uint64_t{1};

  const net::Socket listening = checked(net::Socket::listen(net::loopback_address()));
  if (!access.by_khorusrun) {
    set(*store, net::process_key(epoch, rank), runtime::process_identity(0));
  }
  set(*store, net::address_key(epoch, rank), listening.local_address().to_string());
  for (int other = 0; other < config.size; ++other) get(*store, net::address_key(epoch, other));

  std::unique_ptr<net::Dialed> parent;
  const protocol::Topology topology(rank, static_cast<int>(config.size),
                                    static_cast<int>(config.control_fan_in));
  if (std::getenv("KHORUS_TEST_CONNECTS") != nullptr && topology.parent() >= 0) {
    net::DialOptions dial;
    dial.address =
        checked(net::numeric_address(get(*store, net::address_key(epoch, topology.parent()))));
    dial.key = access.store.key;
    dial.self = {net::Role::kRank, rank, epoch, config.job_id};
    dial.peer_rank = topology.parent();
    dial.deadline = std::chrono::steady_clock::now() + 30s;
    parent = std::make_unique<net::Dialed>(checked(net::dial_and_wait(dial)));
  }

  const int lifeline = ::open(argv[1], O_WRONLY | O_CLOEXEC);
  const std::string words = "dies " + std::to_string(::getpid()) + "\n";
  if (::write(lifeline, words.data(), words.size()) < 0) return 2;
  ::raise(SIGKILL);
}

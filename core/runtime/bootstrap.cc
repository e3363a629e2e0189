// See bootstrap.h.
#include "core/runtime/bootstrap.h"

#include <algorithm>
#include <span>
#include <string>
#include <utility>

#include "core/net/address.h"
#include "core/net/awaited_store.h"
#include "core/net/ended_ranks.h"
#include "core/net/host_meeting.h"
#include "core/net/in_process_channel.h"
#include "core/net/job_key.h"
#include "core/net/mac.h"
#include "core/net/rounds.h"
#include "core/net/store_server.h"
#include "core/net/tcp_channel.h"
#include "core/net/tcp_store.h"
#include "core/runtime/job_session.h"
#include "core/runtime/process_stat.h"
#include "core/runtime/solo_channel.h"
#include "core/wire/rank_set.h"

namespace khorus::runtime {
namespace {

std::string arrived_key(int rank) { return "arrived/" + std::to_string(rank); }

Result<Meeting> meet_in_process(const EngineOptions& options, const protocol::Topology& topology) {
  const Place& place = options.place;
  if (options.world->size() != place.size) {
    return Status(StatusCode::kInvalidArgument,
                  "the in-process world has " + std::to_string(options.world->size()) +
                      " ranks and the place says " + std::to_string(place.size) +
                      "; make the world of that size");
  }
  Meeting meeting;
  meeting.channel = options.world->connect(place.rank, topology.parent(), topology.children());
  meeting.epoch = 1;
  std::shared_ptr<net::Store> store = options.world->store(place.rank);
  const std::byte here{1};
  const Status noted = store->set(arrived_key(place.rank), std::span(&here, 1));
  if (!noted.ok()) return noted;
  meeting.missing_ranks = [store, size = place.size] {
    wire::RankSet missing;
    for (int rank = 0; rank < size; ++rank) {
      if (!store->get(arrived_key(rank), std::chrono::milliseconds(0)).ok()) missing.add(rank);
    }
    return missing.to_string();
  };
  return meeting;
}

// Where a rank finds the store of its job.
struct StoreAccess {
  std::string address;
  std::string job_id;
  net::JobKey key;
  std::shared_ptr<net::StoreServer> server;  // the one that serves it
};

Status own_key_is_missing(bool here) {
  return Status(StatusCode::kInvalidArgument,
                std::string(here ? "this rank has a job key and rank 0 has none"
                                 : "rank 0 has a job key and this rank has none") +
                    "; set KHORUS_KEY_FILE on all ranks or on none");
}

// Rank 0 serves the store, on loopback, and makes a key if nobody gave one.
Result<StoreAccess> meet_on_host(const EngineOptions& options, JobSession* session, uint64_t epoch,
                                 std::chrono::milliseconds timeout) {
  const Config& config = options.config;
  const bool has_key = session->has_key(config);
  StoreAccess access;
  access.job_id = config.job_id.empty() ? net::job_id_from_parent() : config.job_id;
  net::HostMeetingOptions meeting;
  meeting.job_id = access.job_id;
  meeting.generation = epoch;
  meeting.rank = options.place.rank;
  meeting.size = options.place.size;
  meeting.timeout = timeout;
  if (has_key || meeting.rank == 0) {
    const Result<net::JobKey> key = has_key ? session->key(config) : net::JobKey::generate();
    if (!key.ok()) return key.status();
    access.key = *key;
  }
  if (meeting.rank != 0) {
    Result<net::HostInvitation> invitation = net::attend(meeting);
    if (!invitation.ok()) return invitation.status();
    if (invitation->key.is_set() == has_key) return own_key_is_missing(has_key);
    access.address = invitation->store;
    if (!has_key) access.key = invitation->key;
    return access;
  }
  net::StoreServerOptions serving;
  serving.key = access.key;
  serving.job_id = access.job_id;
  serving.tls = config.tls;
  Result<std::unique_ptr<net::StoreServer>> server = net::StoreServer::start(serving);
  if (!server.ok()) return server.status();
  access.server = std::move(*server);
  access.address = access.server->address();
  const Status invited =
      net::invite(meeting, {access.address, has_key ? net::JobKey() : access.key});
  if (!invited.ok()) return invited;
  return access;
}

// Where rank 0 listens: on the named interface, else where the store's name leads. A name that
// leads to this machine alone (Debian gives its own name 127.0.1.1) is no place to meet other
// hosts.
Result<net::Address> address_to_serve(const Config& config, std::chrono::milliseconds timeout) {
  Result<net::Address> address = net::await_address(config.store, timeout);
  if (!address.ok()) return address;
  if (!config.network_interface.empty()) {
    Result<net::Address> named = net::interface_address(config.network_interface);
    if (named.ok()) named->set_port(address->port());
    return named;
  }
  const std::string host = address->host();
  const bool meant = config.store.starts_with("localhost:") ||
                     config.store.substr(0, host.size() + 1).find(host) != std::string::npos;
  if (meant || !address->is_loopback()) return address;
  return Status(StatusCode::kInvalidArgument,
                "on rank 0's host its own name is " + host +
                    ", where no other host comes; set KHORUS_NETWORK_INTERFACE to the interface "
                    "that the others reach");
}

// The store of a job of another launcher, which serves none: rank 0 does, at the known address.
Result<std::shared_ptr<net::StoreServer>> serve_store(const Config& config, const net::JobKey& key,
                                                      JobSession* session,
                                                      std::chrono::milliseconds timeout) {
  const Result<net::Address> address = address_to_serve(config, timeout);
  Status failure = address.status();
  if (address.ok()) {
    net::StoreServerOptions serving;
    serving.bind_host = address->host();
    serving.port = address->port();
    serving.key = key;
    serving.job_id = config.job_id;
    serving.tls = config.tls;
    auto served = session->serve(serving);
    if (served.ok()) return served;
    failure = served.status();
  }
  return Status(failure.code(), "rank 0 cannot serve the store at " + config.store + " (from " +
                                    config.launcher + "): " + failure.message() +
                                    "; KHORUS_STORE sets another host:port, on all ranks");
}

Result<StoreAccess> find_store(const EngineOptions& options, JobSession* session, uint64_t epoch,
                               std::chrono::milliseconds timeout) {
  const Config& config = options.config;
  const Place& place = options.place;
  if (config.store.empty() && place.cross_size == 1) {
    return meet_on_host(options, session, epoch, timeout);
  }
  if (config.store.empty()) {
    return Status(StatusCode::kUnavailable,
                  "rank " + std::to_string(place.rank) + " of " + std::to_string(place.size) +
                      " does not know where to meet the others, which are on several hosts; set "
                      "KHORUS_STORE on all ranks to an address of rank 0's host and a free port "
                      "there (host:port), or start the job with khorusrun");
  }
  const Result<net::JobKey> key = session->key(config);
  if (!key.ok()) return key.status();
  StoreAccess access{config.store, config.job_id, *key, nullptr};
  if (!config.launcher.empty() && place.rank == 0) {
    auto server = serve_store(config, *key, session, timeout);
    if (!server.ok()) return server.status();
    access.server = std::move(*server);
  }
  return access;
}

// A store of the launcher is there before the ranks; that of rank 0 may not be yet.
Result<std::unique_ptr<net::TcpStore>> connect_to_store(const Config& config,
                                                        const net::TcpStoreOptions& options) {
  if (config.launcher.empty() || config.store.empty() || options.rank == 0) {
    return net::TcpStore::connect(options);
  }
  auto connected = net::await_store(options);
  if (connected.status().code() != StatusCode::kUnavailable) return connected;
  return Status(StatusCode::kTimeout,
                "rank " + std::to_string(options.rank) + " waited " +
                    std::to_string(options.timeout.count()) + " ms for rank 0 to serve the store " +
                    "(" + connected.status().message() +
                    "); see whether rank 0 was started and what it printed, or raise "
                    "KHORUS_START_TIMEOUT");
}

// As Horovod's elastic timeout: survivors may be far from their next operation.
constexpr auto kRestartPatience = std::chrono::minutes(10);

// In which epoch this rank meets the others, and which key of the store ends that.
struct Epoch {
  uint64_t number = 0;
  std::string next_round;  // empty: the launcher restarts no ranks
};

Result<Epoch> agree_on_epoch(const Place& place, net::Store& store, JobSession* session,
                             uint64_t generation) {
  const Result<bool> has_rounds = net::has_rounds(store);
  if (!has_rounds.ok()) return has_rounds.status();
  if (!*has_rounds) return Epoch{generation, ""};
  if (const auto next = session->next_in_round()) {
    const Result<bool> is_over = net::has_begun(store, session->first_round());
    if (!is_over.ok()) return is_over.status();
    if (!*is_over) return Epoch{*next, net::round_key(session->first_round())};
  }
  net::RoundSeeker seeker;
  seeker.rank = place.rank;
  seeker.size = place.size;
  seeker.first = session->first_round();
  seeker.timeout = kRestartPatience;
  const Result<uint64_t> round = net::enter_round(store, seeker);
  if (!round.ok()) return round.status();
  return Epoch{session->entered(*round), net::round_key(*round + 1)};
}

// Khorusrun tells which of its ranks have ended. Their numbers are those of the world unless the
// program has given this process another place.
Result<bool> ends_are_told(const EngineOptions& options, net::Store& store) {
  const Config& config = options.config;
  const bool launched = config.launcher.empty() && !config.store.empty();
  const bool own_place = config.rank == options.place.rank && config.size == options.place.size;
  if (!launched || !own_place) return false;
  return net::are_ends_promised(store);
}

net::ProcessTable process_table() {
  net::ProcessTable table;
  table.self = [] { return process_identity(0); };
  table.open = [](const std::string& process) {
    const ProcessHandle handle = open_process(process);
    return net::ProcessTable::Handle{handle.fd, handle.pid};
  };
  return table;
}

// All but the epoch.
net::TreeOptions tree_options(const EngineOptions& options, const protocol::Topology& topology,
                              const StoreAccess& access, const std::string& host) {
  net::TreeOptions tree;
  tree.rank = options.place.rank;
  tree.size = options.place.size;
  tree.parent = topology.parent();
  tree.children = topology.children();
  tree.key = access.key;
  tree.job_id = access.job_id;
  tree.all_local = options.place.cross_size == 1;
  tree.network_interface = options.config.network_interface;
  tree.store_address = access.address;
  tree.host = host;
  const bool by_khorusrun = options.config.launcher.empty() && !options.config.store.empty();
  tree.store_rank = by_khorusrun || options.place.rank == 0 ? -1 : 0;
  tree.processes = process_table();
  tree.liveness_timeout =
      std::chrono::milliseconds(static_cast<int64_t>(options.config.liveness_timeout_s * 1e3));
  return tree;
}

// Where the launcher restarts ranks, one that is lost while they connect makes the others meet in
// the next round: as often as the launcher restarts one, or a rank fails otherwise and comes again.
Result<Meeting> connect_ranks(const EngineOptions& options, net::TreeOptions* tree,
                              JobSession* session, uint64_t generation) {
  const auto before = std::chrono::steady_clock::now();
  for (;;) {
    const Result<Epoch> epoch =
        options.config.store.empty()
            ? Epoch{generation, ""}
            : agree_on_epoch(options.place, *tree->store, session, generation);
    if (!epoch.ok()) return epoch.status();
    tree->epoch = epoch->number;
    tree->next_round = epoch->next_round;
    Meeting meeting;
    meeting.epoch = epoch->number;
    meeting.waited = std::chrono::steady_clock::now() - before;
    auto channel = net::connect_tree(*tree);
    if (channel.ok()) {
      meeting.channel = std::move(*channel);
      return meeting;
    }
    session->end_round();
    const Status& why = channel.status();
    const bool is_round_over = why.code() == StatusCode::kPeerLost && why.lost_rank() < 0;
    if (!is_round_over) return why;
  }
}

// For how long a rank whose start has failed keeps up the store that it serves: the others read
// there who was lost.
constexpr auto kFarewell = std::chrono::milliseconds(1000);

Result<Meeting> meet_over_tcp(const EngineOptions& options, const protocol::Topology& topology,
                              const std::string& host, std::chrono::milliseconds timeout) {
  const Config& config = options.config;
  const std::shared_ptr<JobSession> session =
      options.session != nullptr ? options.session : make_job_session();
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  const uint64_t generation = session->next_generation(config.job_id);
  const Result<StoreAccess> access = find_store(options, session.get(), generation, timeout);
  if (!access.ok()) return access.status();
  const auto left =
      std::max(std::chrono::milliseconds(1), std::chrono::duration_cast<std::chrono::milliseconds>(
                                                 deadline - std::chrono::steady_clock::now()));

  net::TcpStoreOptions store_options;
  store_options.address = access->address;
  store_options.key = access->key;
  store_options.job_id = access->job_id;
  store_options.rank = options.place.rank;
  store_options.timeout = left;
  store_options.tls = config.tls;
  auto store = connect_to_store(config, store_options);
  if (!store.ok()) return store.status();
  const Result<bool> told = ends_are_told(options, **store);
  if (!told.ok()) return told.status();

  net::TreeOptions tree = tree_options(options, topology, *access, host);
  tree.store = store->get();
  tree.timeout = left;
  tree.tls = config.tls;
  tree.ends_are_told = *told;
  Result<Meeting> meeting = connect_ranks(options, &tree, session.get(), generation);
  if (!meeting.ok()) {
    store->reset();
    if (access->server != nullptr) access->server->wait_until_left(kFarewell);
    return meeting.status();
  }
  meeting->missing_ranks = [] { return std::string(); };
  meeting->keep = access->server;
  const std::string epoch_text = std::to_string(meeting->epoch);
  meeting->object_key =
      net::Mac(access->key.bytes()).compute("khorus objects", std::as_bytes(std::span(epoch_text)));
  return meeting;
}

}  // namespace

Status check_place(const Place& place) {
  const bool good = place.size >= 1 && place.rank >= 0 && place.rank < place.size &&
                    place.local_size >= 1 && place.local_rank >= 0 &&
                    place.local_rank < place.local_size && place.cross_size >= 1 &&
                    place.cross_rank >= 0 && place.cross_rank < place.cross_size;
  if (good) return Status();
  const auto part = [](const char* name, int rank, int size) {
    return std::string(name) + " " + std::to_string(rank) + " of " + std::to_string(size);
  };
  return Status(StatusCode::kInvalidArgument,
                "this place does not exist: " + part("rank", place.rank, place.size) + ", " +
                    part("local rank", place.local_rank, place.local_size) + ", " +
                    part("cross rank", place.cross_rank, place.cross_size) +
                    "; ranks are 0 to size - 1 (KHORUS_RANK, KHORUS_SIZE, ...)");
}

Result<Meeting> meet(const EngineOptions& options, const protocol::Topology& topology,
                     const std::string& host, std::chrono::milliseconds timeout) {
  if (options.world != nullptr) return meet_in_process(options, topology);
  if (options.place.size > 1) return meet_over_tcp(options, topology, host, timeout);
  Meeting meeting;
  meeting.channel = std::make_unique<SoloChannel>();
  meeting.epoch = 1;
  meeting.missing_ranks = [] { return std::string(); };
  return meeting;
}

}  // namespace khorus::runtime

// See bootstrap.h.
#include "core/runtime/bootstrap.h"

#include <algorithm>
#include <span>
#include <string>
#include <utility>

#include "core/net/host_meeting.h"
#include "core/net/in_process_channel.h"
#include "core/net/job_key.h"
#include "core/net/mac.h"
#include "core/net/rounds.h"
#include "core/net/store_server.h"
#include "core/net/tcp_channel.h"
#include "core/net/tcp_store.h"
#include "core/runtime/job_session.h"
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
  Result<std::unique_ptr<net::StoreServer>> server = net::StoreServer::start(serving);
  if (!server.ok()) return server.status();
  access.server = std::move(*server);
  access.address = access.server->address();
  const Status invited =
      net::invite(meeting, {access.address, has_key ? net::JobKey() : access.key});
  if (!invited.ok()) return invited;
  return access;
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
                      "KHORUS_STORE to host:port of the job's store, or start the job with "
                      "khorusrun");
  }
  const Result<net::JobKey> key = session->key(config);
  if (!key.ok()) return key.status();
  return StoreAccess{config.store, config.job_id, *key, nullptr};
}

// As Horovod's elastic timeout: survivors may be far from their next operation.
constexpr auto kRestartPatience = std::chrono::minutes(10);

// The epoch in which this rank meets the others: `generation`, unless the launcher restarts ranks.
Result<uint64_t> agree_on_epoch(const Place& place, net::Store& store, JobSession* session,
                                uint64_t generation) {
  const Result<bool> has_rounds = net::has_rounds(store);
  if (!has_rounds.ok()) return has_rounds.status();
  if (!*has_rounds) return generation;
  if (const auto next = session->next_in_round()) {
    const Result<bool> is_over = net::has_begun(store, session->first_round());
    if (!is_over.ok()) return is_over.status();
    if (!*is_over) return *next;
  }
  net::RoundSeeker seeker;
  seeker.rank = place.rank;
  seeker.size = place.size;
  seeker.first = session->first_round();
  seeker.timeout = kRestartPatience;
  const Result<uint64_t> round = net::enter_round(store, seeker);
  if (!round.ok()) return round.status();
  return session->entered(*round);
}

Result<Meeting> meet_over_tcp(const EngineOptions& options, const protocol::Topology& topology,
                              const std::string& host, std::chrono::milliseconds timeout) {
  const Config& config = options.config;
  const Place& place = options.place;
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
  store_options.rank = place.rank;
  store_options.timeout = left;
  const auto store = net::TcpStore::connect(store_options);
  if (!store.ok()) return store.status();
  const auto before = std::chrono::steady_clock::now();
  const Result<uint64_t> epoch =
      config.store.empty() ? generation : agree_on_epoch(place, **store, session.get(), generation);
  if (!epoch.ok()) return epoch.status();

  net::TreeOptions tree;
  tree.rank = place.rank;
  tree.size = place.size;
  tree.parent = topology.parent();
  tree.children = topology.children();
  tree.store = store->get();
  tree.key = access->key;
  tree.job_id = access->job_id;
  tree.epoch = *epoch;
  tree.all_local = place.cross_size == 1;
  tree.network_interface = config.network_interface;
  tree.store_address = access->address;
  tree.host = host;
  tree.timeout = left;
  tree.liveness_timeout =
      std::chrono::milliseconds(static_cast<int64_t>(config.liveness_timeout_s * 1e3));
  const auto waited = std::chrono::steady_clock::now() - before;
  auto channel = net::connect_tree(tree);
  if (!channel.ok()) {
    session->end_round();
    return channel.status();
  }
  Meeting meeting;
  meeting.channel = std::move(*channel);
  meeting.epoch = *epoch;
  meeting.waited = waited;
  meeting.missing_ranks = [] { return std::string(); };
  meeting.keep = access->server;
  const std::string epoch_text = std::to_string(*epoch);
  meeting.object_key =
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

// See bootstrap.h.
#include "core/runtime/bootstrap.h"

#include <utility>

#include "core/net/in_process_channel.h"
#include "core/net/job_key.h"
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

Result<Meeting> meet_over_tcp(const EngineOptions& options, const protocol::Topology& topology,
                              const std::string& host, std::chrono::milliseconds timeout) {
  const Config& config = options.config;
  const Place& place = options.place;
  const std::shared_ptr<JobSession> session =
      options.session != nullptr ? options.session : make_job_session();
  const uint64_t epoch = session->next_generation(config.job_id);
  if (config.store.empty()) {
    return Status(StatusCode::kUnavailable,
                  "rank " + std::to_string(place.rank) + " of " + std::to_string(place.size) +
                      " does not know where to meet the others; set KHORUS_STORE to host:port of "
                      "the job's store, or start the job with khorusrun");
  }
  const Result<net::JobKey> key = session->key(config);
  if (!key.ok()) return key.status();

  net::TcpStoreOptions store_options;
  store_options.address = config.store;
  store_options.key = *key;
  store_options.job_id = config.job_id;
  store_options.rank = place.rank;
  store_options.timeout = timeout;
  const auto store = net::TcpStore::connect(store_options);
  if (!store.ok()) return store.status();

  net::TreeOptions tree;
  tree.rank = place.rank;
  tree.size = place.size;
  tree.parent = topology.parent();
  tree.children = topology.children();
  tree.store = store->get();
  tree.key = *key;
  tree.job_id = config.job_id;
  tree.epoch = epoch;
  tree.all_local = place.cross_size == 1;
  tree.network_interface = config.network_interface;
  tree.store_address = config.store;
  tree.host = host;
  tree.timeout = timeout;
  auto channel = net::connect_tree(tree);
  if (!channel.ok()) return channel.status();
  Meeting meeting;
  meeting.channel = std::move(*channel);
  meeting.epoch = epoch;
  meeting.missing_ranks = [] { return std::string(); };
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

// See nodes.h.
#include "core/launch/nodes.h"

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <span>

#include "core/launch/environment.h"
#include "core/net/address.h"
#include "core/net/awaited_store.h"
#include "core/net/quoted.h"
#include "core/net/text_bytes.h"

namespace khorus::launch {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

std::string node_key(int node) { return "nodes/" + std::to_string(node); }
std::string met_key(int node) { return node_key(node) + "/met"; }

// "2 nodes with 4 ranks each"
std::string job_shape(const LaunchOptions& options) {
  return std::to_string(options.nodes) + " nodes with " + std::to_string(options.processes) +
         " ranks each";
}

Result<std::unique_ptr<net::TcpStore>> connect_to_store(const LaunchOptions& options,
                                                        const PreparedJob& job,
                                                        steady_clock::time_point deadline) {
  net::TcpStoreOptions store;
  store.address = options.rendezvous;
  store.key = job.key;
  store.job_id = job.job_id;
  store.tls = job.tls;
  store.timeout = net::left_until(deadline);
  auto connected = net::await_store(store);
  if (connected.status().code() != StatusCode::kUnavailable) return connected;
  return Status(StatusCode::kTimeout, "node 0 did not come within " +
                                          std::to_string(job.start_timeout.count()) +
                                          " ms: " + connected.status().message());
}

Status read_other(net::Store& store, const LaunchOptions& options, int node,
                  steady_clock::time_point deadline) {
  const auto value = store.get(node_key(node), net::left_until(deadline));
  if (value.status().code() == StatusCode::kTimeout) {
    return Status(StatusCode::kTimeout,
                  "node " + std::to_string(node) + " of " + std::to_string(options.nodes) +
                      " did not come; start khorusrun there with --node-rank " +
                      std::to_string(node) + ", or raise --start-timeout");
  }
  if (!value.ok()) return value.status();
  const std::string text = net::text_of(*value);
  const std::string shape = text.substr(0, text.find(';'));
  if (shape == job_shape(options)) return Status();
  return Status(StatusCode::kInvalidArgument,
                "this launcher was told of " + job_shape(options) + ", and that of node " +
                    std::to_string(node) + " of " + net::quoted(shape) + "; give all the same");
}

Status meet_in(net::Store& store, const LaunchOptions& options, steady_clock::time_point deadline) {
  const std::string self =
      job_shape(options) + "; " + host_name() + ", pid " + std::to_string(::getpid());
  if (Status status = store.set(node_key(options.node_rank), net::bytes_of(self)); !status.ok()) {
    if (status.code() != StatusCode::kPermissionDenied) return status;
    return Status(status.code(), "another launcher has --node-rank " +
                                     std::to_string(options.node_rank) + " in this job");
  }
  for (int node = 0; node < options.nodes; ++node) {
    if (Status status = read_other(store, options, node, deadline); !status.ok()) return status;
  }
  if (Status status = store.set(met_key(options.node_rank), net::bytes_of("met")); !status.ok()) {
    return status;
  }
  // Ranks that end at once must not take the store from a launcher that has not read it.
  for (int node = 0; options.node_rank == 0 && node < options.nodes; ++node) {
    const auto met = store.get(met_key(node), net::left_until(deadline));
    if (!met.ok()) return met.status();
  }
  return Status();
}

Result<std::unique_ptr<net::StoreServer>> serve(const LaunchOptions& options,
                                                const PreparedJob& job) {
  const size_t colon = options.rendezvous.rfind(':');
  net::StoreServerOptions serving;
  serving.bind_host = options.rendezvous.substr(0, colon);
  if (serving.bind_host.front() == '[') {
    serving.bind_host = serving.bind_host.substr(1, serving.bind_host.size() - 2);
  }
  serving.port = std::atoi(options.rendezvous.c_str() + colon + 1);
  serving.key = job.key;
  serving.job_id = job.job_id;
  serving.tls = job.tls;
  auto server = net::StoreServer::start(serving);
  if (server.ok()) return server;
  return Status(server.status().code(),
                server.status().message() + "; --rdzv-endpoint must be an address of node 0");
}

}  // namespace

Result<NodeMeeting> meet_nodes(const LaunchOptions& options, const PreparedJob& job) {
  const auto deadline = steady_clock::now() + job.start_timeout;
  NodeMeeting meeting;
  meeting.store = options.rendezvous;
  if (options.node_rank == 0) {
    auto server = serve(options, job);
    if (!server.ok()) return server.status();
    meeting.server = std::move(*server);
  }
  if (options.verbose) {
    std::fprintf(stderr, "khorusrun: node %d meets the others at %s\n", options.node_rank,
                 options.rendezvous.c_str());
  }
  const auto store = connect_to_store(options, job, deadline);
  if (!store.ok()) return store.status();
  if (Status status = meet_in(**store, options, deadline); !status.ok()) return status;
  return meeting;
}

Status await_node_0(const LaunchOptions& options) {
  if (options.nodes == 1) return Status();
  const Result<JobEnvironment> environment = job_environment(options, "");
  if (!environment.ok()) return Status();  // said by who makes the job of it
  const auto timeout =
      milliseconds(static_cast<int64_t>(environment->config.start_timeout_s * 1000));
  return net::await_address(options.rendezvous, timeout).status();
}

Result<net::JobKey> key_of_nodes() {
  const char* path = std::getenv("KHORUS_KEY_FILE");
  if (path != nullptr && *path != '\0') return net::JobKey::from_file(path);
  return Status(StatusCode::kInvalidArgument,
                "with --nnodes, KHORUS_KEY_FILE must name a file with the same key on all nodes; "
                "make one with: (umask 077; openssl rand -hex 32 >FILE)");
}

Result<std::string> address_towards_node_0(const LaunchOptions& options) {
  const auto peer = net::resolve(options.rendezvous);
  if (!peer.ok()) return peer.status();
  const Result<net::Address> own = net::address_towards(peer->front());
  if (!own.ok()) return own.status();
  return own->host();
}

}  // namespace khorus::launch

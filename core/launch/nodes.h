// Nodes: hosts without ssh between them, on each of which somebody starts a khorusrun of its own
// (--nnodes, --node-rank). Node 0 serves the job's store at the address that all were given; every
// launcher starts and watches the ranks of its own host.
//
// The launchers meet in the store before any rank runs. Its keys:
//   nodes/K        set by the launcher of node K: what it was told of the job, and who it is
//   nodes/K/met    set by it when it has read those of all others
//
// Thread rule: the launcher's thread, which is blocked at most for the start timeout.
#pragma once

#include <memory>
#include <string>

#include "core/launch/job_plan.h"
#include "core/launch/options.h"
#include "core/net/store.h"
#include "core/net/store_server.h"
#include "khorus/status.h"

namespace khorus::launch {

struct NodeMeeting {
  std::unique_ptr<net::StoreServer> server;  // node 0's; must outlive the job
  std::string store;                         // its address
};

// Timeout names the nodes that did not come, PermissionDenied what differs between two.
Result<NodeMeeting> meet_nodes(const LaunchOptions& options, const PreparedJob& job);

// Of several nodes: until the name of node 0 is known, which may start at this moment, at most for
// the start timeout. A signal ends the process.
Status await_node_0(const LaunchOptions& options);

// The key of KHORUS_KEY_FILE, which all nodes must have. InvalidArgument says how to make one.
Result<net::JobKey> key_of_nodes();
// The address of this machine from which node 0 is reached.
Result<std::string> address_towards_node_0(const LaunchOptions& options);

}  // namespace khorus::launch

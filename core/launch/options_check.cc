// Whether the options go together; see options.h.
#include "core/launch/hosts.h"
#include "core/launch/options.h"

namespace khorus::launch {
namespace {

Status refused(std::string message) {
  return Status(StatusCode::kInvalidArgument, std::move(message));
}

Status check_nodes(const LaunchOptions& options) {
  if (options.node_rank >= options.nodes) {
    return refused("--node-rank " + std::to_string(options.node_rank) + ": of " +
                   std::to_string(options.nodes) + " nodes the last is " +
                   std::to_string(options.nodes - 1));
  }
  if (options.nodes == 1) return Status();
  const size_t colon = options.rendezvous.rfind(':');
  if (colon == std::string::npos || colon == 0 || colon + 1 == options.rendezvous.size()) {
    return refused("--nnodes " + std::to_string(options.nodes) +
                   " needs --rdzv-endpoint HOST:PORT, an address of node 0");
  }
  if (options.mpi || !options.hosts.empty() || options.restarts > 0) {
    return refused("--nnodes does not go with -H, --mpi or --reset-limit");
  }
  if (options.rendezvous_id.empty() || options.rendezvous_id.size() > 48) {
    return refused("--rdzv-id \"" + options.rendezvous_id + "\": expected 1 to 48 characters");
  }
  return Status();
}

}  // namespace

Status check(LaunchOptions* options) {
  if (Status status = check_nodes(*options); !status.ok()) return status;
  if (!options->mpi && !options->mpi_args.empty()) {
    return refused("--mpi-args \"" + options->mpi_args + "\" need --mpi");
  }
  if (options->mpi && options->restarts > 0) {
    return refused("--reset-limit " + std::to_string(options->restarts) +
                   " does not go with --mpi: mpirun ends a job that lost a rank");
  }
  options->hosts = merge_hosts(std::move(options->hosts));
  int slots = 0;
  for (const Host& host : options->hosts) {
    slots += host.slots;
    if (options->mpi && !host.here) {
      return refused("host \"" + host.name +
                     "\": with --mpi, mpirun is told of other hosts: --mpi-args=\"-H ...\"");
    }
  }
  if (options->processes == 0) options->processes = slots;
  if (options->processes == 0) return refused("how many ranks? Give -np N");
  if (slots > 0 && options->processes > slots) {
    return refused("-np " + std::to_string(options->processes) + " is more than the " +
                   std::to_string(slots) + " slots of the hosts");
  }
  if (options->program.empty()) {
    return refused("which program? khorusrun -np N PROGRAM [ARGUMENTS]");
  }
  return Status();
}

}  // namespace khorus::launch

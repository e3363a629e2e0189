// See communicator.h.
#include "backends/mpi/communicator.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "backends/operation.h"
#include "backends/plugin.h"
#include "core/base/reduce.h"
#include "khorus/types.h"

namespace khorus::backends::mpi {
namespace {

// What a rank says of itself. Plain bytes between processes of one build.
struct Card {
  int32_t world_rank = -1;
  int32_t world_size = 0;
};
struct Offer {
  uint64_t comm_id = 0;  // of the communicator it has for these ranks
  uint64_t number = 0;   // the first rank's is taken for the new one
};

template <class Value>
Result<std::vector<Value>> exchange_values(const khorus_host& host, const char* tag,
                                           const Value& mine, int size) {
  const std::string bytes(reinterpret_cast<const char*>(&mine), sizeof(mine));
  const Result<Exchanged> all = exchange(host, tag, bytes, size);
  if (!all) return all.status();
  std::vector<Value> values(all->size());
  for (size_t r = 0; r < values.size(); ++r) {
    if ((*all)[r].size() != sizeof(Value)) {
      return Status(StatusCode::kInternal, "rank " + std::to_string(r) + " of the group sent " +
                                               std::to_string((*all)[r].size()) +
                                               " bytes to meet by, not " +
                                               std::to_string(sizeof(Value)));
    }
    std::memcpy(&values[r], (*all)[r].data(), sizeof(Value));
  }
  return values;
}

// A group of one: there is nobody to talk to, and MPI is not needed.
void run_alone(const khorus_op& op) {
  const size_t bytes = op.count * width_of(op);
  if (bytes > 0 && op.output != op.input) std::memmove(op.output, op.input, bytes);
}

}  // namespace

Result<std::unique_ptr<Communicator>> Communicator::open(const khorus_group& group) {
  if (Status status = check_group(group, "mpi"); !status.ok()) return status;
  return std::unique_ptr<Communicator>(new Communicator(group));
}

Communicator::Communicator(const khorus_group& group)
    : rank_(group.rank),
      global_ranks_(group.global_ranks, group.global_ranks + group.size),
      hosts_(group.hosts, group.hosts + group.size),
      timeout_(group.timeout_ms),
      host_(group.host) {}

Status Communicator::connect() {
  if (interrupt_->raised()) return interrupt_->status();
  Status status = size() > 1 ? meet() : Status();
  if (interrupt_->raised()) status = interrupt_->status();
  connected_ = status.ok();
  return status;
}

Status Communicator::meet() {
  Process& process = Process::instance();
  if (Status status = process.start(interrupt_); !status.ok()) return status;
  const Result<std::vector<int>> world_ranks = learn_world_ranks();
  if (!world_ranks) return world_ranks.status();
  uint64_t number = 0;
  const Result<SharedComm> shared = shared_comm(*world_ranks, &number);
  if (!shared) return shared.status();

  MeshOptions options;
  options.library = &process.library();
  options.comm = shared->comm;
  options.tag = static_cast<int>(number % static_cast<uint64_t>(process.largest_tag()));
  options.rank = rank_;
  options.size = size();
  options.timeout = timeout_;
  options.interrupt = interrupt_;
  mesh_ = std::make_shared<Mesh>(options);
  collectives_.emplace(*mesh_);
  return {};
}

Result<std::vector<int>> Communicator::learn_world_ranks() {
  const Process& process = Process::instance();
  const Card mine{.world_rank = process.world_rank(), .world_size = process.world_size()};
  const auto cards = exchange_values(*host_, "mpi.place", mine, size());
  if (!cards) return cards.status();
  std::vector<int> world_ranks;
  for (size_t r = 0; r < cards->size(); ++r) {
    const Card& card = (*cards)[r];
    const auto twin = std::find(world_ranks.begin(), world_ranks.end(), card.world_rank);
    if (card.world_size != mine.world_size || twin != world_ranks.end()) {
      const size_t other =
          twin != world_ranks.end() ? static_cast<size_t>(twin - world_ranks.begin()) : 0;
      return Status(StatusCode::kUnavailable,
                    "the ranks are not in one MPI world: rank " + std::to_string(global_ranks_[r]) +
                        " is MPI rank " + std::to_string(card.world_rank) + " of " +
                        std::to_string(card.world_size) + " and rank " +
                        std::to_string(global_ranks_[other]) + " is " +
                        std::to_string((*cards)[other].world_rank) + " of " +
                        std::to_string((*cards)[other].world_size) +
                        "; start all of them with one mpirun");
    }
    world_ranks.push_back(card.world_rank);
  }
  return world_ranks;
}

// The ranks look whether they have a communicator of these ranks from an earlier group; whether
// they all do is the same answer everywhere.
Result<SharedComm> Communicator::shared_comm(const std::vector<int>& world_ranks,
                                             uint64_t* number) {
  Process& process = Process::instance();
  const SharedComm known = process.find_comm(world_ranks);
  const Offer mine{.comm_id = known.id, .number = process.next_number()};
  const auto offers = exchange_values(*host_, "mpi.channel", mine, size());
  if (!offers) return offers.status();
  *number = offers->front().number;
  const bool all_know = std::all_of(offers->begin(), offers->end(), [&](const Offer& offer) {
    return offer.comm_id != 0 && offer.comm_id == offers->front().comm_id;
  });
  if (all_know) return known;
  const Result<MPI_Comm> made = make_comm(world_ranks, *number);
  if (!made) return made.status();
  const SharedComm fresh{.id = *number, .comm = *made};
  process.keep_comm(world_ranks, fresh);
  return fresh;
}

Result<MPI_Comm> Communicator::make_comm(const std::vector<int>& world_ranks, uint64_t number) {
  Process& process = Process::instance();
  struct Made {
    MPI_Comm comm = nullptr;
    int code = MPI_SUCCESS;
  };
  const auto made = std::make_shared<Made>();
  // Groups that share ranks may be made at the same time: the tag tells them apart, for it differs
  // between any two numbers and between any two first ranks.
  const uint64_t unique = number * static_cast<uint64_t>(process.world_size()) +
                          static_cast<uint64_t>(world_ranks.front());
  const int tag = static_cast<int>(unique % static_cast<uint64_t>(process.largest_tag()));
  const bool ended = Interrupt::run(interrupt_, [made, world_ranks, tag, &mpi = process.library()] {
    MPI_Group everybody = mpi.no_group;
    MPI_Group members = mpi.no_group;
    made->code = mpi.comm_group(mpi.world, &everybody);
    if (made->code != MPI_SUCCESS) return;
    made->code = mpi.group_incl(everybody, static_cast<int>(world_ranks.size()), world_ranks.data(),
                                &members);
    if (made->code == MPI_SUCCESS) {
      made->code = mpi.comm_create_group(mpi.world, members, tag, &made->comm);
      mpi.group_free(&members);
    }
    mpi.group_free(&everybody);
    if (made->code == MPI_SUCCESS) mpi.comm_set_errhandler(made->comm, mpi.errors_return);
  });
  if (!ended) {
    process.abandon("an abort came while MPI_Comm_create_group waited for the other ranks", made);
    return interrupt_->status();
  }
  if (made->code == MPI_SUCCESS) return made->comm;
  return Status(StatusCode::kUnavailable,
                "MPI_Comm_create_group failed: " + process.library().describe(made->code));
}

Status Communicator::run(const khorus_op& op) {
  if (interrupt_->raised()) return interrupt_->status();
  if (!broken_.ok()) return broken_;
  if (!connected_) return Status(StatusCode::kInternal, "run before connect");
  if (mesh_ == nullptr) {
    run_alone(op);
    return {};
  }
  try {
    collectives_->run(op);
  } catch (const Failure& failure) {
    broken_ = explain(failure, op);
  } catch (const Interrupted&) {
    broken_ = interrupt_->status();
  }
  if (!broken_.ok()) {
    give_up(op);
    if (interrupt_->raised()) return interrupt_->status();
  }
  return broken_;
}

Status Communicator::explain(const Failure& failure, const khorus_op& op) const {
  if (failure.peer() < 0) return Status(StatusCode::kAborted, describe(op) + ": " + failure.what());
  const size_t peer = static_cast<size_t>(failure.peer());
  const int32_t global = global_ranks_[peer];
  return Status(failure.timed_out() ? StatusCode::kTimeout : StatusCode::kAborted,
                "rank " + std::to_string(global) + " (" + hosts_[peer] + "), in " + describe(op) +
                    ": " + failure.what(),
                global);
}

void Communicator::give_up(const khorus_op& op) {
  Process& process = Process::instance();
  process.skip_finalize();
  if (mesh_->give_up()) {
    process.abandon("an operation (" + describe(op) +
                        ") was aborted while its messages were on "
                        "their way",
                    mesh_);
  }
}

}  // namespace khorus::backends::mpi

// World: the ranks of one group as threads of the test, each with a communicator of a backend. In a
// test that runs as several processes (process_rank.h) this one's rank is the only member.
//
// Built by the test's thread; each Member is used by the thread of its rank, except abort().
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "khorus/backend.h"
#include "khorus/status.h"
#include "khorus/types.h"
#include "tests/conformance/exchange_table.h"
#include "tests/conformance/on_device.h"

namespace khorus::conformance {

struct WorldOptions {
  int size = 2;
  uint32_t timeout_ms = 30000;
  std::string interface = {};
  // Of the group's ranks, ascending; empty: some that are not the ranks in the group, so that a
  // mix-up shows.
  std::vector<int32_t> global_ranks = {};
  // By the group's ranks; empty: the same for all.
  std::vector<const char*> hosts = {};
};

// The group's ranks in the job.
std::vector<int32_t> global_ranks_of(const WorldOptions& options);

// The end of one rank.
class Member {
 public:
  Member(const khorus_backend& backend, Host& host, const WorldOptions& options);
  ~Member();
  Member(const Member&) = delete;
  Member& operator=(const Member&) = delete;

  int rank() const { return host_.rank; }
  int size() const { return size_; }
  const khorus_backend& backend() const { return backend_; }

  Status connect();
  void abort(const std::string& reason) { backend_.abort(comm_, reason.c_str()); }
  void disconnect();

  // Of the next operation; without this, one more than that of the last one.
  void set_sequence(uint64_t sequence) { sequence_ = sequence; }

  // In the first three `input` may be `output`.
  struct Allreduce {
    DataType dtype;
    ReduceOp op;
    size_t count;
    double scale = 1.0;  // of a backend that `scales`
  };
  Status allreduce(const Allreduce& what, const void* input, void* output);
  Status allgather(DataType dtype, const std::vector<uint64_t>& counts, const void* input,
                   void* output);
  Status broadcast(DataType dtype, size_t count, int root, const void* input, void* output);
  Status alltoall(DataType dtype, const std::vector<uint64_t>& counts,
                  const std::vector<uint64_t>& recv_counts, const void* input, void* output);
  struct Reducescatter {
    DataType dtype;
    ReduceOp op;
    std::vector<uint64_t> counts;
  };
  Status reducescatter(const Reducescatter& what, const void* input, void* output);
  struct SendRecv {
    DataType dtype;
    int peer;
    size_t count;
    size_t recv_count;
  };
  Status sendrecv(const SendRecv& what, const void* input, void* output);
  // The backend's memory, zeroed; null if it lends none.
  std::shared_ptr<std::byte> allocate(size_t bytes);
  // A sum of one int32, to see whether the communicator works.
  Status ping();

 private:
  khorus_op new_op(OpKind kind, DataType dtype);
  Status run(const khorus_op& op);

  const khorus_backend& backend_;
  Host& host_;
  const int size_;
  const std::unique_ptr<OnDevice> device_;  // null: the backend is one of the CPU
  khorus_comm* comm_ = nullptr;
  Status opened_;
  uint64_t sequence_ = 0;
};

class World {
 public:
  World(const khorus_backend& backend, const WorldOptions& options);
  ~World();

  int size() const { return options_.size; }
  Member& member(int rank) { return *members_[static_cast<size_t>(rank)]; }
  ExchangeTable& table() { return table_; }

  // Runs the function on one thread per rank and waits for all; as one process of several, for the
  // own rank.
  void each(const std::function<void(Member&)>& function);
  // connect() on every rank, each of which must succeed.
  void connect();

 private:
  const WorldOptions options_;
  ExchangeTable table_;
  std::vector<std::unique_ptr<Host>> hosts_;
  std::vector<std::unique_ptr<Member>> members_;
};

}  // namespace khorus::conformance

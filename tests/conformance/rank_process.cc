// One rank of a group as a process of its own; started by processes_test.cc.
//
// Its exchange goes over a socket to the test: a message up is {size, bytes}, the answer is all
// ranks' messages. Arguments: backend, rank, size, descriptor of that socket, what to do:
//   allreduce, alltoall, reducescatter, sendrecv
//               operations of several sizes until one fails; the exit code is that error's code.
//               sendrecv is one of every two ranks, in a total order
//   forked      as allreduce, but first forks a child that outlives everyone (a data-loader
//               worker); the child's process id goes up the socket
// After the first round of operations a word goes up the socket.
#include <sys/prctl.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "khorus/status.h"
#include "khorus/types.h"
#include "tests/conformance/framing.h"
#include "tests/conformance/on_device.h"
#include "tests/conformance/plugin.h"

namespace khorus::conformance {
namespace {

struct Parent {
  int socket;
  int size;
};

int32_t exchange_with_parent(void* engine, const char*, const void* bytes, size_t size,
                             void (*receive)(void*, int32_t, const void*, size_t), void* context,
                             khorus_error* error) {
  const Parent& parent = *static_cast<const Parent*>(engine);
  send_frame(parent.socket, std::string(static_cast<const char*>(bytes), size));
  for (int r = 0; r < parent.size; ++r) {
    std::string frame;
    if (!receive_frame(parent.socket, frame)) {
      error->code = static_cast<int32_t>(StatusCode::kAborted);
      std::snprintf(error->message, sizeof(error->message), "the test is gone");
      return error->code;
    }
    receive(context, r, frame.data(), frame.size());
  }
  return 0;
}

int fail(const char* what, const khorus_error& error) {
  std::fprintf(stderr, "%s: %s\n", what, error.message);
  return error.code;
}

// Runs operations of one kind on this rank, of elements that are all alike.
class Worker {
 public:
  Worker(const khorus_backend& backend, khorus_comm* comm, OnDevice* device, const Parent& parent,
         int rank)
      : backend_(backend), comm_(comm), device_(device), size_(parent.size), rank_(rank) {}

  // One round with `count` elements for each rank.
  int32_t run(const std::string& task, size_t count, khorus_error& error) {
    counts_.assign(static_cast<size_t>(size_), count);
    if (task == "alltoall") return run_one(OpKind::kAlltoall, count * counts_.size(), error);
    if (task == "reducescatter") {
      return run_one(OpKind::kReducescatter, count * counts_.size(), error);
    }
    if (task == "sendrecv") return run_pairs(count, error);
    return run_one(OpKind::kAllreduce, count, error);
  }

 private:
  int32_t run_one(OpKind kind, size_t count, khorus_error& error, int peer = 0) {
    input_.resize(count);
    output_.resize(count);
    khorus_op op{};
    op.struct_size = sizeof(op);
    op.kind = static_cast<uint8_t>(kind);
    op.dtype = static_cast<uint8_t>(DataType::kFloat32);
    op.reduce_op = static_cast<uint8_t>(ReduceOp::kMax);
    op.sequence = sequence_++;
    op.input = input_.data();
    op.output = output_.data();
    op.count = count;
    op.counts = counts_.data();
    op.recv_counts = counts_.data();
    op.recv_count = count;
    op.peer = peer;
    return run_anywhere(backend_, comm_, device_, op, bytes_of(op, rank_, size_), &error);
  }
  int32_t run_pairs(size_t count, khorus_error& error) {
    for (int a = 0; a < size_; ++a) {
      for (int b = a + 1; b < size_; ++b) {
        if (rank_ != a && rank_ != b) {
          ++sequence_;
          continue;
        }
        const int32_t code = run_one(OpKind::kSendRecv, count, error, a + b - rank_);
        if (code != 0) return code;
      }
    }
    return 0;
  }

  const khorus_backend& backend_;
  khorus_comm* const comm_;
  OnDevice* const device_;
  const int size_;
  const int rank_;
  uint64_t sequence_ = 0;
  std::vector<uint64_t> counts_;
  std::vector<float> input_;
  std::vector<float> output_;
};

int work(Worker& worker, const std::string& task, const Parent& parent) {
  for (size_t i = 0;; ++i) {
    khorus_error error{};
    const size_t count = i % 3 == 2 ? 1 + i % 20000 : size_t{1} << 20;
    if (worker.run(task, count, error) != 0) return fail("run", error);
    if (i == 0) send_frame(parent.socket, "working");
  }
}

void fork_worker(const Parent& parent) {
  const pid_t child = ::fork();
  if (child == 0) {
    // Lives until the test ends it, holding what it inherited; but must not outlive a test that
    // crashed.
    ::prctl(PR_SET_PDEATHSIG, 0);
    ::close(parent.socket);
    ::alarm(60);
    while (true) ::pause();
  }
  send_frame(parent.socket, std::to_string(child));
}

int run_rank(char** arguments) {
  const khorus_backend* backend = find_backend(arguments[1]);
  if (backend == nullptr) return 100;
  Parent parent{.socket = std::atoi(arguments[4]), .size = std::atoi(arguments[3])};
  const std::string task = arguments[5];
  const khorus_host host{.struct_size = sizeof(khorus_host),
                         .engine = &parent,
                         .exchange = exchange_with_parent,
                         .log = nullptr};
  std::vector<int32_t> ranks;
  for (int r = 0; r < parent.size; ++r) ranks.push_back(r);
  const std::vector<const char*> hosts(static_cast<size_t>(parent.size), "testhost");
  const std::unique_ptr<OnDevice> device =
      backend->finish == nullptr ? nullptr : OnDevice::make(std::atoi(arguments[2]));
  const khorus_group group{.struct_size = sizeof(khorus_group),
                           .rank = std::atoi(arguments[2]),
                           .size = parent.size,
                           .global_ranks = ranks.data(),
                           .hosts = hosts.data(),
                           .id = "processes",
                           .epoch = 0,
                           .network_interface = "",
                           .timeout_ms = 10000,
                           .host = &host,
                           .device = device == nullptr ? -1 : device->device()};
  khorus_error error{};
  khorus_comm* comm = nullptr;
  if (backend->open(&group, &comm, &error) != 0) return fail("open", error);
  int code = backend->connect(comm, &error);
  if (code != 0) {
    fail("connect", error);
  } else {
    if (task == "forked") fork_worker(parent);
    Worker worker(*backend, comm, device.get(), parent, group.rank);
    code = work(worker, task, parent);
  }
  backend->disconnect(comm);
  return code;
}

}  // namespace
}  // namespace khorus::conformance

int main(int count, char** arguments) {
  if (count != 6) return 101;
  return khorus::conformance::run_rank(arguments);
}

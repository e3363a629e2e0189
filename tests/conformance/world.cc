// See world.h.
#include "tests/conformance/world.h"

#include <gtest/gtest.h>

#include <numeric>
#include <thread>
#include <utility>

namespace khorus::conformance {
namespace {

Status status_of(int32_t code, const khorus_error& error) {
  EXPECT_EQ(code, error.code) << "the returned code and the error's differ";
  return code == 0 ? Status() : Status(static_cast<StatusCode>(code), error.message, error.rank);
}

}  // namespace

std::vector<int32_t> global_ranks_of(const WorldOptions& options) {
  std::vector<int32_t> ranks = options.global_ranks;
  if (!ranks.empty()) return ranks;
  for (int r = 0; r < options.size; ++r) ranks.push_back(3 * r + 2);
  return ranks;
}

Member::Member(const khorus_backend& backend, Host& host, const WorldOptions& options)
    : backend_(backend),
      host_(host),
      size_(options.size),
      device_(backend.finish == nullptr ? nullptr : OnDevice::make(host.rank)) {
  const size_t size = static_cast<size_t>(options.size);
  const std::vector<int32_t> ranks = global_ranks_of(options);
  std::vector<const char*> hosts = options.hosts;
  hosts.resize(size, "testhost");
  khorus_group group{};
  group.struct_size = sizeof(group);
  group.rank = host.rank;
  group.size = options.size;
  group.global_ranks = ranks.data();
  group.hosts = hosts.data();
  group.id = "conformance";
  group.epoch = 5;
  group.network_interface = options.interface.c_str();
  group.timeout_ms = options.timeout_ms;
  group.host = &host.c;
  group.device = device_ == nullptr ? -1 : device_->device();
  khorus_error error{};
  opened_ = status_of(backend_.open(&group, &comm_, &error), error);
  EXPECT_EQ(opened_.ok(), comm_ != nullptr);
}

Member::~Member() { disconnect(); }

void Member::disconnect() {
  if (comm_ != nullptr) backend_.disconnect(std::exchange(comm_, nullptr));
}

Status Member::connect() {
  if (!opened_.ok()) return opened_;
  khorus_error error{};
  const int32_t code = backend_.connect(comm_, &error);
  return status_of(code, error);
}

khorus_op Member::new_op(OpKind kind, DataType dtype) {
  khorus_op op{};
  op.struct_size = sizeof(op);
  op.kind = static_cast<uint8_t>(kind);
  op.dtype = static_cast<uint8_t>(dtype);
  op.epoch = 5;
  op.sequence = sequence_++;
  return op;
}

Status Member::run(const khorus_op& op) {
  khorus_error error{};
  const int32_t code =
      run_anywhere(backend_, comm_, device_.get(), op, bytes_of(op, rank(), size_), &error);
  return status_of(code, error);
}

Status Member::allreduce(const Allreduce& what, const void* input, void* output) {
  khorus_op op = new_op(OpKind::kAllreduce, what.dtype);
  op.reduce_op = static_cast<uint8_t>(what.op);
  op.input = input;
  op.output = output;
  op.count = what.count;
  op.scale = what.scale;
  return run(op);
}

std::shared_ptr<std::byte> Member::allocate(size_t bytes) {
  if (backend_.allocate == nullptr) return nullptr;
  khorus_memory memory{};
  memory.struct_size = sizeof(memory);
  khorus_error error{};
  const int32_t code = backend_.allocate(comm_, bytes, &memory, &error);
  EXPECT_EQ(code, 0) << error.message;
  if (code != 0) return nullptr;
  return {static_cast<std::byte*>(memory.data),
          [memory](std::byte*) { memory.release(memory.owner); }};
}

Status Member::allgather(DataType dtype, const std::vector<uint64_t>& counts, const void* input,
                         void* output) {
  khorus_op op = new_op(OpKind::kAllgather, dtype);
  op.input = input;
  op.output = output;
  op.count = counts[static_cast<size_t>(rank())];
  op.counts = counts.data();
  return run(op);
}

Status Member::broadcast(DataType dtype, size_t count, int root, const void* input, void* output) {
  khorus_op op = new_op(OpKind::kBroadcast, dtype);
  op.root = root;
  op.input = input;
  op.output = output;
  op.count = count;
  return run(op);
}

Status Member::alltoall(DataType dtype, const std::vector<uint64_t>& counts,
                        const std::vector<uint64_t>& recv_counts, const void* input, void* output) {
  khorus_op op = new_op(OpKind::kAlltoall, dtype);
  op.input = input;
  op.output = output;
  op.count = std::accumulate(counts.begin(), counts.end(), uint64_t{0});
  op.counts = counts.data();
  op.recv_counts = recv_counts.data();
  return run(op);
}

Status Member::reducescatter(const Reducescatter& what, const void* input, void* output) {
  khorus_op op = new_op(OpKind::kReducescatter, what.dtype);
  op.reduce_op = static_cast<uint8_t>(what.op);
  op.input = input;
  op.output = output;
  op.count = std::accumulate(what.counts.begin(), what.counts.end(), uint64_t{0});
  op.counts = what.counts.data();
  return run(op);
}

Status Member::sendrecv(const SendRecv& what, const void* input, void* output) {
  khorus_op op = new_op(OpKind::kSendRecv, what.dtype);
  op.peer = what.peer;
  op.input = input;
  op.output = output;
  op.count = what.count;
  op.recv_count = what.recv_count;
  return run(op);
}

Status Member::ping() {
  int32_t value = 1;
  const Status status = allreduce({DataType::kInt32, ReduceOp::kSum, 1}, &value, &value);
  if (status.ok()) {
    EXPECT_EQ(value, size());
  }
  return status;
}

World::World(const khorus_backend& backend, const WorldOptions& options)
    : options_(options), table_(options.size) {
  const ProcessRank* const process = ProcessRank::current();
  EXPECT_TRUE(process == nullptr || process->size() == options.size)
      << "a world of " << options.size << " with another number of processes";
  for (int r = 0; r < options.size; ++r) {
    hosts_.push_back(std::make_unique<Host>(table_, r));
    const bool is_here = process == nullptr || process->rank() == r;
    members_.push_back(is_here ? std::make_unique<Member>(backend, *hosts_.back(), options)
                               : nullptr);
  }
}

// The members leave before the hosts they were given.
World::~World() { members_.clear(); }

void World::each(const std::function<void(Member&)>& function) {
  if (const ProcessRank* const process = ProcessRank::current()) {
    return function(member(process->rank()));
  }
  std::vector<std::jthread> threads;
  for (auto& member : members_) {
    threads.emplace_back([&function, &one = *member] { function(one); });
  }
}

void World::connect() {
  each([](Member& member) {
    const Status status = member.connect();
    ASSERT_TRUE(status.ok()) << "rank " << member.rank() << ": " << status.to_string();
  });
}

}  // namespace khorus::conformance

// bench_backend: times allreduce on a backend itself, without the engine, and memcpy beside it.
//
//   bench_backend [--backend shm] [--ranks 2] [--type float32] [--least 4]
//                 [--most 67108864] [--seconds 0.2] [--arena 1]
//
// With --arena the tensor lies in memory that the backend lends.
//
// Every rank is a process. For every size, blocks of allreduce and of memcpy of the same bytes by
// all ranks at once alternate, so that what else the machine does touches both; the table has the
// median time of the blocks in nccl-tests' columns (algbw: bytes / time; busbw: times 2 (n-1) / n),
// and the median, least and largest ratio of neighbouring blocks. Rank 0 prints; times are its own.
#include <pthread.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/base/reduce.h"
#include "khorus/backend.h"
#include "khorus/types.h"
#include "tests/conformance/plugin.h"

namespace {

using Clock = std::chrono::steady_clock;
constexpr size_t kMostRanks = 64;
constexpr int kBlocks = 7;  // of each kind per size

struct Options {
  std::string backend = "shm";
  int ranks = 2;
  khorus::DataType type = khorus::DataType::kFloat32;
  size_t least = 4, most = size_t{64} << 20;
  double seconds = 0.2;
  bool arena = false;
};

// What the ranks share beside what they measure: the exchange, and rank 0's choice of rounds.
struct Common {
  pthread_barrier_t barrier;
  std::array<std::array<char, 4096>, kMostRanks> cards;
  std::array<size_t, kMostRanks> card_sizes;
  int rounds;
};

struct Rank {
  Common& common;
  const Options& options;
  int rank;
};

void meet(const Rank& self) { pthread_barrier_wait(&self.common.barrier); }

int32_t exchange(void* engine, const char*, const void* bytes, size_t size,
                 void (*receive)(void*, int32_t, const void*, size_t), void* context,
                 khorus_error*) {
  const Rank& self = *static_cast<const Rank*>(engine);
  const auto mine = static_cast<size_t>(self.rank);
  if (size > self.common.cards[mine].size()) return 1;
  std::memcpy(self.common.cards[mine].data(), bytes, size);
  self.common.card_sizes[mine] = size;
  meet(self);
  for (int r = 0; r < self.options.ranks; ++r) {
    const auto i = static_cast<size_t>(r);
    receive(context, r, self.common.cards[i].data(), self.common.card_sizes[i]);
  }
  meet(self);
  return 0;
}

void check(int32_t code, const khorus_error& error) {
  if (code != 0) throw std::runtime_error(error.message);
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Microseconds per call, of `rounds` calls that all ranks begin together.
double time_block(const Rank& self, int rounds, const std::function<void()>& once) {
  meet(self);
  const auto start = Clock::now();
  for (int i = 0; i < rounds; ++i) once();
  return std::chrono::duration<double, std::micro>(Clock::now() - start).count() / rounds;
}

class Bench {
 public:
  Bench(const Rank& self, const khorus_backend& backend, khorus_comm* comm)
      : self_(self), backend_(backend), comm_(comm) {}

  void run_size(size_t bytes) {
    const size_t width = element_size(self_.options.type);
    const size_t count = std::max<size_t>(1, bytes / width);
    bytes = count * width;
    make_data(bytes);
    copy_.assign(bytes, 0);
    const size_t wrong = count_wrong(count);
    const auto reduce = [&] { allreduce(count, khorus::ReduceOp::kMax); };
    const auto copy = [&] {
      std::memcpy(copy_.data(), data_.get(), bytes);
      asm volatile("" : : "r"(copy_.data()) : "memory");
    };
    const double once = time_block(self_, 3, reduce);
    if (self_.rank == 0) {
      const double rounds = self_.options.seconds * 1e6 / kBlocks / once;
      self_.common.rounds = std::clamp(static_cast<int>(rounds), 2, 20000);
    }
    meet(self_);
    std::vector<double> reduces, copies, ratios;
    for (int block = 0; block < kBlocks; ++block) {
      reduces.push_back(time_block(self_, self_.common.rounds, reduce));
      copies.push_back(time_block(self_, self_.common.rounds, copy));
      ratios.push_back(reduces.back() / copies.back());
    }
    if (self_.rank != 0) return;
    const double time = median(reduces);
    const double bandwidth = static_cast<double>(bytes) / time / 1e3;
    const double ranks = self_.options.ranks;
    std::printf("%12zu %12zu %10s %6s %10.2f %8.2f %8.2f %7zu %10.2f %7.2f %7.2f %7.2f\n", bytes,
                count, std::string(to_string(self_.options.type)).c_str(), "max", time, bandwidth,
                bandwidth * 2 * (ranks - 1) / ranks, wrong, median(copies), median(ratios),
                *std::min_element(ratios.begin(), ratios.end()),
                *std::max_element(ratios.begin(), ratios.end()));
    std::fflush(stdout);
  }

 private:
  void make_data(size_t bytes) {
    size_ = bytes;
    data_.reset();
    if (self_.options.arena && backend_.allocate != nullptr) {
      khorus_memory memory{};
      memory.struct_size = sizeof(memory);
      khorus_error error{};
      check(backend_.allocate(comm_, bytes, &memory, &error), error);
      data_ = {static_cast<unsigned char*>(memory.data),
               [memory](unsigned char*) { memory.release(memory.owner); }};
    } else {
      data_ = std::shared_ptr<unsigned char>(new unsigned char[bytes](),
                                             std::default_delete<unsigned char[]>());
    }
  }

  void allreduce(size_t count, khorus::ReduceOp reduce_op) {
    khorus_op op{};
    op.struct_size = sizeof(op);
    op.kind = static_cast<uint8_t>(khorus::OpKind::kAllreduce);
    op.dtype = static_cast<uint8_t>(self_.options.type);
    op.reduce_op = static_cast<uint8_t>(reduce_op);
    op.sequence = sequence_++;
    op.input = op.output = data_.get();
    op.count = count;
    khorus_error error{};
    check(backend_.run(comm_, &op, &error), error);
  }

  // Of a sum of elements whose bytes differ by rank and place.
  size_t count_wrong(size_t count) {
    std::vector<std::vector<unsigned char>> inputs;
    std::vector<const void*> sources;
    for (int r = 0; r < self_.options.ranks; ++r) {
      std::vector<unsigned char>& input = inputs.emplace_back(size_);
      for (size_t i = 0; i < input.size(); ++i) {
        input[i] = static_cast<unsigned char>((i * 7 + static_cast<size_t>(r) * 3) % 61);
      }
      sources.push_back(input.data());
    }
    std::vector<unsigned char> expected(size_);
    khorus::base::reduce({self_.options.type, khorus::ReduceOp::kSum, count}, expected.data(),
                         sources);
    std::memcpy(data_.get(), inputs[static_cast<size_t>(self_.rank)].data(), size_);
    allreduce(count, khorus::ReduceOp::kSum);
    size_t wrong = 0;
    for (size_t i = 0; i < expected.size(); ++i) wrong += expected[i] != data_.get()[i] ? 1 : 0;
    return wrong;
  }

  const Rank& self_;
  const khorus_backend& backend_;
  khorus_comm* const comm_;
  uint64_t sequence_ = 0;
  std::shared_ptr<unsigned char> data_;
  size_t size_ = 0;  // of it, in bytes
  std::vector<unsigned char> copy_;
};

void run_rank(const Rank& self) {
  const khorus_backend* backend = khorus::conformance::find_backend(self.options.backend);
  if (backend == nullptr) throw std::runtime_error("no backend " + self.options.backend);
  khorus_host host{};
  host.struct_size = sizeof(host);
  host.engine = const_cast<Rank*>(&self);
  host.exchange = exchange;
  std::vector<int32_t> ranks;
  for (int r = 0; r < self.options.ranks; ++r) ranks.push_back(r);
  const std::vector<const char*> hosts(ranks.size(), "here");
  khorus_group group{};
  group.struct_size = sizeof(group);
  group.rank = self.rank;
  group.size = self.options.ranks;
  group.global_ranks = ranks.data();
  group.hosts = hosts.data();
  group.id = "bench";
  group.network_interface = "";
  group.timeout_ms = 60000;
  group.host = &host;
  khorus_error error{};
  khorus_comm* comm = nullptr;
  check(backend->open(&group, &comm, &error), error);
  check(backend->connect(comm, &error), error);
  if (self.rank == 0) {
    std::printf("# %s (%s), %d ranks, in place%s; memcpy of the same bytes by all ranks at once\n",
                backend->name, backend->version, self.options.ranks,
                self.options.arena ? " in an arena" : "");
    std::printf("%12s %12s %10s %6s %10s %8s %8s %7s %10s %7s %7s %7s\n", "size(B)", "count",
                "type", "redop", "time(us)", "algbw", "busbw", "#wrong", "memcpy(us)", "ratio",
                "least", "most");
  }
  Bench bench(self, *backend, comm);
  for (size_t bytes = self.options.least; bytes < self.options.most; bytes *= 4)
    bench.run_size(bytes);
  bench.run_size(self.options.most);
  meet(self);
  backend->disconnect(comm);
}

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; i += 2) {
    const std::string flag = argv[i];
    if (i + 1 == argc) throw std::runtime_error(flag + " needs a value");
    const std::string value = argv[i + 1];
    if (flag == "--backend") {
      options.backend = value;
    } else if (flag == "--ranks") {
      options.ranks = std::clamp(std::stoi(value), 1, static_cast<int>(kMostRanks));
    } else if (flag == "--least") {
      options.least = std::max<size_t>(1, std::stoul(value));
    } else if (flag == "--most") {
      options.most = std::stoul(value);
    } else if (flag == "--seconds") {
      options.seconds = std::stod(value);
    } else if (flag == "--arena") {
      options.arena = std::stoi(value) != 0;
    } else if (flag == "--type") {
      int type = 0;
      while (type < khorus::kDataTypeCount && to_string(khorus::DataType(type)) != value) ++type;
      if (type == khorus::kDataTypeCount) throw std::runtime_error("no type " + value);
      options.type = khorus::DataType(type);
    } else {
      throw std::runtime_error("unknown flag " + flag);
    }
  }
  return options;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const Options options = parse(argc, argv);
    auto* const common = static_cast<Common*>(
        ::mmap(nullptr, sizeof(Common), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    if (common == MAP_FAILED) throw std::runtime_error("mmap");
    pthread_barrierattr_t attributes;
    pthread_barrierattr_init(&attributes);
    pthread_barrierattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_barrier_init(&common->barrier, &attributes, static_cast<unsigned>(options.ranks));
    const auto work = [&](int rank) {
      try {
        run_rank({*common, options, rank});
        return 0;
      } catch (const std::exception& error) {
        std::fprintf(stderr, "bench_backend, rank %d: %s\n", rank, error.what());
        ::kill(0, SIGTERM);  // the others would wait in a barrier
        return 1;
      }
    };
    ::setpgid(0, 0);
    for (int rank = 1; rank < options.ranks; ++rank) {
      if (::fork() != 0) continue;
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      std::_Exit(work(rank));
    }
    const int code = work(0);
    while (::wait(nullptr) > 0) {
    }
    return code;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_backend: %s\n", error.what());
    return 1;
  }
}

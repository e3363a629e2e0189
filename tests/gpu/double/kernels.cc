// See kernels.h.
#include "tests/gpu/double/kernels.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "backends/nccl/kernels/adasum_body.h"
#include "backends/nccl/kernels/body.h"

// What CUfunction points at.
struct CUfunc_st {
  const char* name;
  void (*launch)(const std::string& what, const khorus::gpu_double::Grid& grid, void** parameters,
                 const khorus::gpu_double::StreamPtr& stream);
};

namespace khorus::gpu_double {
namespace {

using namespace khorus::backends::nccl;  // the names in KHORUS_KERNELS

// ---- moves ----

bool is_equal(const std::vector<Move>& moves, const std::byte* table) {
  return std::memcmp(moves.data(), table, moves.size() * sizeof(Move)) == 0;
}

std::vector<Access> accesses_of(const std::string& what, const std::vector<Move>& moves) {
  std::vector<Access> accesses;
  for (const Move& move : moves) {
    expect_device_memory(what, move.from, move.bytes);
    expect_device_memory(what, move.to, move.bytes);
    accesses.push_back({move.from, move.bytes, false});
    accesses.push_back({move.to, move.bytes, true});
  }
  return accesses;
}

// The blocks of a launch have no order: none may write what another one uses.
void expect_no_races(const std::string& what, const std::vector<Move>& moves) {
  struct Range {
    const std::byte* begin;
    const std::byte* end;
    bool is_written;
  };
  std::vector<Range> ranges;
  for (const Move& move : moves) {
    ranges.push_back({move.to, move.to + move.bytes, true});
    if (move.from != move.to) ranges.push_back({move.from, move.from + move.bytes, false});
  }
  std::sort(ranges.begin(), ranges.end(),
            [](const Range& a, const Range& b) { return a.begin < b.begin; });
  const std::byte* read_end = nullptr;
  const std::byte* written_end = nullptr;
  for (const Range& range : ranges) {
    if (range.begin < written_end || (range.is_written && range.begin < read_end)) {
      violation(what + " writes memory that another of its blocks uses");
    }
    const std::byte*& end = range.is_written ? written_end : read_end;
    end = std::max(end, range.end);
  }
}

template <class Element>
void launch_moves(const std::string& what, const Grid& grid, void** parameters,
                  const StreamPtr& stream) {
  const auto* const table = *static_cast<const std::byte* const*>(parameters[0]);
  const uint32_t count = *static_cast<const uint32_t*>(parameters[1]);
  const Scaling scaling = *static_cast<const Scaling*>(parameters[2]);
  if (count == 0) violation(what + " is launched for nothing");
  std::vector<Move> moves(count);
  const size_t bytes = count * sizeof(Move);
  expect_device_memory(what, table, bytes);
  std::memcpy(moves.data(), uploaded_from(what, table, bytes), bytes);
  expect_no_races(what, moves);
  std::vector<Access> accesses = accesses_of(what, moves);
  accesses.push_back({table, bytes, false});
  // The same with the addresses that the double reads and writes.
  std::vector<Move> views = moves;
  for (Move& move : views) {
    move.from = view_of(move.from, move.bytes);
    move.to = view_of(move.to, move.bytes);
  }
  enqueue(
      stream, what, accesses,
      [what, grid, scaling, moves = std::move(moves), views = std::move(views),
       there = view_of(table, bytes)] {
        if (!is_equal(moves, there)) {
          violation(what + " finds another table than the host had written when it was launched");
        }
        for (unsigned int block = 0; block < grid.blocks; ++block) {
          for (unsigned int thread = 0; thread < grid.threads; ++thread) {
            run_thread<Element>(views.data(), static_cast<uint32_t>(views.size()), scaling, block,
                                thread);
          }
        }
      });
}

// ---- Adasum ----

// Goes through what a launch reads and writes.
class Uses {
 public:
  explicit Uses(std::string what) : what_(std::move(what)) {}
  template <class T>
  void reads(const T*& at, uint64_t count) {
    use(at, count, false);
  }
  template <class T>
  void writes(T*& at, uint64_t count) {
    use(at, count, true);
  }
  const std::vector<Access>& accesses() const { return accesses_; }

 private:
  // Its address becomes the one that the double reads and writes.
  template <class T>
  void use(T*& at, uint64_t count, bool writes) {
    const size_t bytes = count * sizeof(T);
    if (bytes == 0) return;
    expect_device_memory(what_, at, bytes);
    accesses_.push_back({at, bytes, writes});
    at = reinterpret_cast<T*>(view_of(at, bytes));
  }

  const std::string what_;
  std::vector<Access> accesses_;
};

template <class T>
void note(Uses& uses, DotsOf<T>& work, const Grid& grid) {
  uses.reads(work.a, work.count);
  uses.reads(work.b, work.count);
  uses.writes(work.sums, grid.blocks);
}
void note(Uses& uses, TotalOf& work, const Grid& grid) {
  if (grid.blocks != 1) violation("more than one block adds up the sums of Adasum");
  uses.reads(work.sums, work.count);
  uses.writes(work.total, 1);
}
template <class T>
void note(Uses& uses, Combination<T>& work, const Grid&) {
  uses.reads(work.a, work.count);
  uses.reads(work.b, work.count);
  uses.writes(work.to, work.count);
  uses.reads(work.dots, 1);
}
template <class Conversion>
void note(Uses& uses, Conversion& work, const Grid&) {
  uses.reads(work.from, work.count);
  uses.writes(work.to, work.count);
}

template <class Work>
void launch_blocks(const std::string& what, const Grid& grid, void** parameters,
                   const StreamPtr& stream) {
  Work work = *static_cast<const Work*>(parameters[0]);
  Uses uses(what);
  note(uses, work, grid);
  enqueue(stream, what, uses.accesses(), [work, grid] {
    for (unsigned int block = 0; block < grid.blocks; ++block) {
      run_block(work, {block, grid.blocks});
    }
  });
}

// ---- both ----

CUfunc_st kKernels[] = {
#define KHORUS_KERNEL(name, Element) {"khorus_" #name, launch_moves<Element>},
    KHORUS_KERNELS(KHORUS_KERNEL)
#undef KHORUS_KERNEL
#define KHORUS_KERNEL(name, Work) {"khorus_" #name, launch_blocks<Work>},
        KHORUS_ADASUM_KERNELS(KHORUS_KERNEL)
#undef KHORUS_KERNEL
};

}  // namespace

CUfunction find_kernel(const char* name) {
  for (CUfunc_st& kernel : kKernels) {
    if (std::strcmp(kernel.name, name) == 0) return &kernel;
  }
  return nullptr;
}

void launch(CUfunction function, const Grid& grid, void** parameters, const StreamPtr& stream) {
  if (grid.threads != kThreads || grid.blocks == 0) {
    violation(std::string(function->name) + " is launched with a grid that it does not expect");
  }
  function->launch(function->name, grid, parameters, stream);
}

}  // namespace khorus::gpu_double

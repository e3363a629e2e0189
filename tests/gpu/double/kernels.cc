// See kernels.h.
#include "tests/gpu/double/kernels.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "backends/nccl/kernels/body.h"

using khorus::backends::nccl::Move;
using khorus::backends::nccl::Scaling;

// What CUfunction points at.
struct CUfunc_st {
  const char* name;
  void (*run_thread)(const Move* moves, uint32_t count, const Scaling& scaling, uint64_t chunk,
                     uint32_t thread);
};

namespace khorus::gpu_double {
namespace {

using namespace khorus::backends::nccl;  // the names in KHORUS_KERNELS

#define KHORUS_KERNEL(name, Element) {"khorus_" #name, run_thread<Element>},
CUfunc_st kKernels[] = {KHORUS_KERNELS(KHORUS_KERNEL)};
#undef KHORUS_KERNEL

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

}  // namespace

CUfunction find_kernel(const char* name) {
  for (CUfunc_st& kernel : kKernels) {
    if (std::strcmp(kernel.name, name) == 0) return &kernel;
  }
  return nullptr;
}

void launch(CUfunction function, const Grid& grid, void** parameters, const StreamPtr& stream) {
  const std::string what = function->name;
  const auto* const table = *static_cast<const std::byte* const*>(parameters[0]);
  const uint32_t count = *static_cast<const uint32_t*>(parameters[1]);
  const Scaling scaling = *static_cast<const Scaling*>(parameters[2]);
  if (count == 0 || grid.threads != kThreads) violation(what + " is launched for nothing");
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
      [what, function, grid, scaling, moves = std::move(moves), views = std::move(views),
       there = view_of(table, bytes)] {
        if (!is_equal(moves, there)) {
          violation(what + " finds another table than the host had written when it was launched");
        }
        for (unsigned int block = 0; block < grid.blocks; ++block) {
          for (unsigned int thread = 0; thread < grid.threads; ++thread) {
            function->run_thread(views.data(), static_cast<uint32_t>(views.size()), scaling, block,
                                 thread);
          }
        }
      });
}

}  // namespace khorus::gpu_double

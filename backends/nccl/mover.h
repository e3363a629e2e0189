// Mover: copies many runs of the device's memory at once, and scales them on the way.
//
// By one launch of a kernel (kernels/), where this Khorus has one that the device can run; the
// table of the runs is uploaded on the stream before it. Else by one copy for each run, and what is
// to be scaled goes through the host, to a function that the stream calls, which is slow. The bits
// are the same, but for the payload of a NaN.
//
// Thread rule: the thread that runs the operations. Every function but the destructor REQUIRES that
// the device's context is current.
#pragma once

#include <deque>
#include <initializer_list>
#include <memory>
#include <utility>
#include <vector>

#include "backends/nccl/device.h"
#include "backends/nccl/kernels/module.h"
#include "backends/nccl/kernels/move.h"
#include "khorus/status.h"
#include "khorus/types.h"

namespace khorus::backends::nccl {

// Runs that are copied together and scaled alike.
struct MoveList {
  DataType dtype = DataType::kUint8;
  Scaling scaling = {};
  std::vector<Move> moves = {};
  uint64_t chunks = 0;    // of all moves
  CUdeviceptr table = 0;  // once uploaded

  bool is_scaled() const { return scaling.factor != 1.0 || scaling.divisor != 1; }
  // Nothing where there is nothing to do. `from` may equal `to`, else they do not overlap.
  void add(void* to, const void* from, size_t bytes);
};

class Mover {
 public:
  // `module`: null where there are no kernels.
  Mover(Device& device, std::unique_ptr<Module> module)
      : device_(device), module_(std::move(module)) {}
  // REQUIRES: nothing is under way.
  ~Mover();
  Mover(const Mover&) = delete;
  Mover& operator=(const Mover&) = delete;

  // Null: there are none.
  const Module* kernels() const { return module_.get(); }
  // Puts what run() needs of these lists into the stream, by one copy.
  Status upload(std::initializer_list<MoveList*> lists);
  // Puts the moves into the stream. REQUIRES: upload() had the list.
  Status run(const MoveList& list);

 private:
  // Memory for tables: the device's is used in the order of the stream; the pinned one is written
  // to when `uploaded` has come.
  struct Table {
    size_t bytes = 0;
    void* pinned = nullptr;
    CUdeviceptr memory = 0;
    CUevent uploaded = nullptr;
  };
  bool is_launched(const MoveList& list) const {
    return module_ != nullptr && (list.moves.size() > 1 || list.is_scaled()) && list.chunks > 0;
  }
  // Of at least so many bytes, which nobody uses any more.
  Result<Table*> free_table(size_t bytes);
  Status scale_on_host(const MoveList& list);
  Status scale_on_host(const MoveList& list, std::byte* data, size_t bytes);

  Device& device_;
  const std::unique_ptr<Module> module_;
  std::deque<Table> tables_;
};

}  // namespace khorus::backends::nccl

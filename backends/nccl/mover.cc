// See mover.h.
#include "backends/nccl/mover.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "backends/nccl/host_step.h"
#include "core/base/reduce.h"

namespace khorus::backends::nccl {
namespace {

// A thousand tensors, packed and unpacked.
constexpr size_t kSmallestTable = size_t{64} << 10;

size_t bytes_of(const std::vector<Move>& moves) { return moves.size() * sizeof(Move); }

}  // namespace

void MoveList::add(void* to, const void* from, size_t bytes) {
  if (bytes == 0 || (to == from && !is_scaled())) return;
  moves.push_back(
      {static_cast<const std::byte*>(from), static_cast<std::byte*>(to), bytes, chunks});
  chunks += chunks_of(bytes);
}

Mover::~Mover() {
  const DeviceScope scope(device_.driver(), device_.context());
  for (const Table& table : tables_) {
    if (table.pinned != nullptr) device_.driver().mem_free_host(table.pinned);
    if (table.memory != 0) device_.driver().mem_free(table.memory);
  }
}

Result<Mover::Table*> Mover::free_table(size_t bytes) {
  const auto is_free = [&](const Table& table) {
    return table.bytes >= bytes && (table.uploaded == nullptr ||
                                    device_.driver().event_query(table.uploaded) == CUDA_SUCCESS);
  };
  const auto found = std::find_if(tables_.begin(), tables_.end(), is_free);
  if (found != tables_.end()) {
    if (found->uploaded != nullptr) device_.give_back(std::exchange(found->uploaded, nullptr));
    return &*found;
  }
  Table& made = tables_.emplace_back();
  const size_t size = std::bit_ceil(std::max(bytes, kSmallestTable));
  Status status =
      device_.status_of(device_.driver().mem_host_alloc(&made.pinned, size, 0), "cuMemHostAlloc");
  if (status.ok()) {
    status = device_.status_of(device_.driver().mem_alloc(&made.memory, size), "cuMemAlloc");
  }
  if (!status.ok()) return status;
  made.bytes = size;
  return &made;
}

Status Mover::upload(std::initializer_list<MoveList*> lists) {
  size_t bytes = 0;
  for (const MoveList* list : lists) bytes += is_launched(*list) ? bytes_of(list->moves) : 0;
  if (bytes == 0) return {};
  const Result<Table*> table = free_table(bytes);
  if (!table) return table.status();
  size_t at = 0;
  for (MoveList* list : lists) {
    if (!is_launched(*list)) continue;
    std::memcpy(static_cast<std::byte*>((*table)->pinned) + at, list->moves.data(),
                bytes_of(list->moves));
    list->table = (*table)->memory + at;
    at += bytes_of(list->moves);
  }
  Status status =
      device_.copy_from_host(reinterpret_cast<void*>((*table)->memory), (*table)->pinned, bytes);
  if (!status.ok()) return status;
  const Result<CUevent> uploaded = device_.record(device_.stream());
  if (uploaded) (*table)->uploaded = *uploaded;
  return uploaded.status();
}

Status Mover::run(const MoveList& list) {
  if (is_launched(list)) {
    const Module::Launch launch{list.table, static_cast<uint32_t>(list.moves.size()), list.chunks,
                                list.scaling};
    return device_.status_of(list.is_scaled() ? module_->scale(list.dtype, launch, device_.stream())
                                              : module_->copy(launch, device_.stream()),
                             "cuLaunchKernel");
  }
  for (const Move& move : list.moves) {
    if (Status status = device_.copy(move.to, move.from, move.bytes); !status.ok()) return status;
  }
  return list.is_scaled() ? scale_on_host(list) : Status();
}

// What lies side by side goes together.
Status Mover::scale_on_host(const MoveList& list) {
  for (size_t i = 0; i < list.moves.size();) {
    std::byte* const begin = list.moves[i].to;
    std::byte* end = begin;
    for (; i < list.moves.size() && list.moves[i].to == end; ++i) end += list.moves[i].bytes;
    Status status = scale_on_host(list, begin, static_cast<size_t>(end - begin));
    if (!status.ok()) return status;
  }
  return {};
}

Status Mover::scale_on_host(const MoveList& list, std::byte* data, size_t bytes) {
  const size_t width = element_size(list.dtype);
  const auto scale = [dtype = list.dtype, scaling = list.scaling](
                         const std::vector<std::byte*>& columns, size_t count) {
    base::scale(dtype, columns[0], count, scaling.factor);
    if (scaling.divisor != 1) base::divide(dtype, columns[0], count, scaling.divisor);
  };
  return run_on_host(device_, {{data, width, Column::Use::kBoth}}, bytes / width, scale);
}

}  // namespace khorus::backends::nccl

// DeviceRunner: puts one agreed operation on the device, and does not wait for it.
//
// The counterpart of CollectiveRunner for tensors of a GPU. Tensors that travel together are
// handed to the backend as pieces of one operation, which packs them where they do not lie side by
// side. Scaling is the backend's, too, before and after (backends/README.md). Results of a size
// that the caller does not know lie in the backend's memory.
//
// Thread rule: the device lane's thread; the counters from any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/runtime/data_plane.h"
#include "core/runtime/lane.h"
#include "core/runtime/timeline.h"
#include "khorus/backend.h"
#include "khorus/status.h"

namespace khorus::runtime {

// Why the operation is not possible on a GPU; nothing if it is.
std::optional<std::string> objection_on_device(const wire::Request& request, int group_size);

class DeviceRunner {
 public:
  struct Options {
    std::shared_ptr<DataPlane> plane;
    int rank = 0;            // in the group
    std::vector<int> ranks;  // global, by rank in the group
    uint64_t epoch = 0;
    Device device;
    DataPlane::Exchange exchange;
    Timeline* timeline = nullptr;
  };
  explicit DeviceRunner(Options options);

  // What is on the device of a job.
  struct Launched {
    uint64_t sequence = 0;                      // of its last operation
    std::vector<std::shared_ptr<void>> memory;  // of joined ranks: needed until the end
  };
  // The works get their results and marks. After an error nothing more may be run.
  Status launch(const Job& job, Launched* launched);
  // For the timeline, when the job is complete; the first one by the thread that saw it so.
  void note_time_on_device(const Job& job);
  void note_end(const Job& job);

  uint64_t executed() const noexcept { return executed_.load(std::memory_order_relaxed); }
  uint64_t bytes_reduced() const noexcept { return bytes_reduced_.load(std::memory_order_relaxed); }

 private:
  // One tensor of a job.
  struct Part {
    const wire::ResponseTensor& tensor;
    WorkState& work;
    uint64_t sequence;
    TensorView input;  // with memory also where the rank has joined
    TensorView output;
  };
  // Null memory of a rank that has joined becomes zeros.
  Status fill_in(Part& part, Launched* launched) const;
  Status launch_part(Part& part);
  // Allreduces and broadcasts, as one operation.
  Status launch_fused(std::vector<Part>& parts);
  Status allreduce(Part& part);
  Status broadcast(Part& part);
  Status allgather(Part& part);
  Status alltoall(Part& part);
  Status reducescatter(Part& part);
  Status send_recv(Part& part);

  khorus_op operation_of(const Part& part) const;
  Status run(const Part& part, khorus_op op);
  // Memory of the device for `rows` rows of a result.
  Result<TensorView> result_of(const Part& part, int64_t rows) const;
  Result<std::shared_ptr<void>> memory(const char* what, size_t bytes) const;
  int group_rank(int global_rank) const;
  int size() const noexcept { return static_cast<int>(options_.ranks.size()); }
  void note(const Job& job, std::string_view event);

  const Options options_;
  const std::string backend_event_;  // "NCCL_"
  std::atomic<uint64_t> executed_{0};
  std::atomic<uint64_t> bytes_reduced_{0};
};

}  // namespace khorus::runtime

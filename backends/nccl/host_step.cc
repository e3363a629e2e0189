// See host_step.h.
#include "backends/nccl/host_step.h"

#include <algorithm>
#include <memory>
#include <utility>

namespace khorus::backends::nccl {
namespace {

// A call that waits in the stream.
struct Call {
  HostStep step;
  std::vector<std::byte*> columns;
  size_t count;
};

void make(void* data) {
  const std::unique_ptr<Call> call(static_cast<Call*>(data));
  call->step(call->columns, call->count);
}

}  // namespace

Status run_on_host(Device& device, const std::vector<Column>& columns, size_t count,
                   const HostStep& step) {
  constexpr size_t kAlignment = 64;  // of every column
  const Result<std::byte*> scratch = device.host_scratch();
  if (!scratch) return scratch.status();
  size_t width = 0;
  for (const Column& column : columns) width += column.width;
  const size_t room = Device::kScratchBytes - kAlignment * columns.size();
  const size_t longest = std::max<size_t>(room / width, 1);
  for (size_t done = 0; done < count; done += longest) {
    const size_t here = std::min(longest, count - done);
    auto call = std::make_unique<Call>(Call{step, {}, here});
    std::byte* place = *scratch;
    for (const Column& column : columns) {
      const size_t bytes = here * column.width;
      call->columns.push_back(place);
      if (column.use != Column::Use::kWritten) {
        Status status = device.copy_to_host(place, column.data + done * column.width, bytes);
        if (!status.ok()) return status;
      }
      place += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    }
    const std::vector<std::byte*> places = call->columns;
    Status status = device.call(make, call.get());
    if (!status.ok()) return status;
    static_cast<void>(call.release());  // make() has it
    for (size_t i = 0; i < columns.size(); ++i) {
      const Column& column = columns[i];
      if (column.use == Column::Use::kRead) continue;
      status =
          device.copy_from_host(column.data + done * column.width, places[i], here * column.width);
      if (!status.ok()) return status;
    }
  }
  return {};
}

}  // namespace khorus::backends::nccl

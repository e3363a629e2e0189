// OnDevice: one rank's GPU, for a backend that works on one: puts the test's memory there, runs the
// operation as a framework would, and brings back what came of it.
//
// on_device.cc of tests/gpu is built where the nccl backend is, no_device.cc elsewhere.
// Used by the thread of its rank.
#pragma once

#include <cstdint>
#include <memory>

#include "khorus/backend.h"

namespace khorus::conformance {

class OnDevice {
 public:
  virtual ~OnDevice() = default;
  // The device of rank `rank`: they share those there are. Null: there are none.
  static std::unique_ptr<OnDevice> make(int rank);
  virtual int device() const = 0;

  // op's memory is the host's. The copies and the operation are on streams, and the host waits for
  // the last of them.
  struct Bytes {
    uint64_t input;
    uint64_t output;
  };
  virtual int32_t run(const khorus_backend& backend, khorus_comm* comm, const khorus_op& op,
                      const Bytes& bytes, khorus_error* error) = 0;
};

// Of one rank's memory in an operation.
OnDevice::Bytes bytes_of(const khorus_op& op, int rank, int size);
// Runs the operation where the backend wants it: `device` is null for one of the CPU.
int32_t run_anywhere(const khorus_backend& backend, khorus_comm* comm, OnDevice* device,
                     const khorus_op& op, const OnDevice::Bytes& bytes, khorus_error* error);

}  // namespace khorus::conformance

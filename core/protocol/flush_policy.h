// FlushPolicy: whether what is ready is dispatched now, or waits for more to be fused with.
//
// A pure function of the state, with the reason.
#pragma once

#include "core/protocol/node.h"

namespace khorus::protocol {

struct FlushState {
  int64_t ready_bytes = 0;
  TimeUs oldest_ready = kNever;   // when the first ready tensor became so
  TimeUs last_arrival = -kNever;  // when the last incomplete tensor was first submitted by a rank
  bool others_on_their_way = false;  // some rank has submitted a tensor that others have not
  int in_flight = 0;                 // responses on the root's data plane
  bool urgent = false;               // something that is not fused is ready, or the job ends
};

struct FlushVerdict {
  bool flush = false;
  TimeUs deadline = kNever;  // when to ask again, if nothing else happens
  const char* reason = "";
};

inline FlushVerdict decide_flush(const FlushState& state, const NodeOptions& options, TimeUs now) {
  if (state.urgent) return {true, kNever, "urgent"};
  if (state.oldest_ready == kNever) return {false, kNever, "nothing is ready"};
  if (state.ready_bytes >= options.fusion_threshold_bytes) return {true, kNever, "full"};
  // More in the queue would not run sooner; what becomes ready meanwhile is fused.
  if (state.in_flight >= options.max_in_flight) return {false, kNever, "data plane busy"};
  // Tensors submitted long ago that are still incomplete are late, not on their way.
  const bool expected =
      state.others_on_their_way && now - state.last_arrival < options.flush_window_us;
  if (!expected) return {true, kNever, "nothing else on its way"};
  const TimeUs deadline = state.oldest_ready + options.flush_window_us;
  if (now >= deadline) return {true, kNever, "window over"};
  return {false, deadline, "others are on their way"};
}

}  // namespace khorus::protocol

// Patterns of use, each a mode of khorus-bench: what a single operation over and over does not
// show.
//
// Every function is a collective operation; rank 0 prints a line per figure and returns the
// numbers.
#pragma once

#include <nlohmann/json.hpp>

namespace khorus::bench {

// 4 bytes from submit to done, under a new name each time (negotiated in full) and under one name
// (negotiated by its number in the response cache), alternating.
nlohmann::json run_latency(double seconds);

// Many small tensors submitted at once, and therefore fused, against one after the other.
nlohmann::json run_many(size_t tensors, size_t bytes);

// The same tensors submitted at once in one order on all ranks, against another order on each rank
// and in each step, alternating; control messages and bytes per step.
nlohmann::json run_order();

// Processor time of a process whose engine has nothing to do, and of one whose thread is blocked in
// a collective that the other ranks enter seconds later.
nlohmann::json run_idle(double seconds);

}  // namespace khorus::bench

// What the tests of engines on GPUs share: ranks as threads of one process, each with a GPU of its
// own (or all with one, where there is one), and values to reduce.
#pragma once

#include <cstddef>
#include <functional>
#include <vector>

#include "khorus/device.h"
#include "khorus/engine.h"
#include "tests/gpu/framework.h"
#include "tests/unit/runtime/ranks.h"

namespace khorus::test {

inline int devices() { return (*backends::nccl::Driver::load())->devices; }

// The body of a rank, with its framework.
inline void on_gpus(int size, const std::function<void(Engine&, Framework&)>& body) {
  Ranks ranks(size, {"local", false});
  ranks.run([&](Engine& engine) {
    Framework framework(engine.rank() % devices());
    body(engine, framework);
  });
}

inline std::vector<float> numbers(int rank, size_t count = 1000) {
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i)
    values[i] = static_cast<float>(i % 100 + static_cast<size_t>(rank) * 100);
  return values;
}
// What numbers() of ranks 0 to size - 1 add up to.
inline std::vector<float> sums(int size, size_t count = 1000) {
  std::vector<float> values(count);
  for (int rank = 0; rank < size; ++rank) {
    const std::vector<float> part = numbers(rank, count);
    for (size_t i = 0; i < count; ++i) values[i] += part[i];
  }
  return values;
}

}  // namespace khorus::test

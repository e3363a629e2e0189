// Random: the only source of chance in the simulator; the same numbers from a seed on any machine.
//
// A value (splitmix64; Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
// 2014). Copy it to replay; derive() makes an independent stream, so that drawing more in one place
// does not change another.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace khorus::sim {

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t next() {
    state_ += 0x9E3779B97F4A7C15U;
    uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
    return z ^ (z >> 31);
  }
  // 0 .. bound-1. The bias of the modulo does not matter here.
  uint64_t below(uint64_t bound) { return bound == 0 ? 0 : next() % bound; }
  // first .. last, both possible.
  int64_t between(int64_t first, int64_t last) {
    return first + static_cast<int64_t>(below(static_cast<uint64_t>(last - first) + 1));
  }
  bool chance(double probability) {
    return static_cast<double>(next() >> 11) * 0x1.0p-53 < probability;
  }
  template <class T>
  const T& pick(const std::vector<T>& values) {
    return values[below(values.size())];
  }
  template <class T>
  void shuffle(std::vector<T>* values) {
    for (size_t i = values->size(); i > 1; --i) std::swap((*values)[i - 1], (*values)[below(i)]);
  }
  Random derive(uint64_t a, uint64_t b = 0, uint64_t c = 0) const {
    Random child(state_ ^ (a * 0xD6E8FEB86659FD93U));
    child.state_ = child.next() ^ (b * 0xA0761D6478BD642FU);
    child.state_ = child.next() ^ (c * 0xE7037ED1A0B428DBU);
    child.next();
    return child;
  }

 private:
  uint64_t state_;
};

}  // namespace khorus::sim

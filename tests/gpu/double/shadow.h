// Shadow: what one allocation remembers of each byte: the last write, and the reads since. As in
// race detectors for threads (Flanagan and Freund, "FastTrack", 2009), with streams for threads.
//
// Thread rule: one thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

#include "tests/gpu/double/machine.h"

namespace khorus::gpu_double {

class Shadow {
 public:
  struct Use {
    int stream = 0;  // 0: nobody
    uint64_t tick = 0;
    std::string what;  // "copy to the device on stream 3"
  };

  explicit Shadow(size_t bytes) : bytes_(bytes) { pieces_[0]; }

  // Each returns what is wrong, or nothing. `clock`: what the use is ordered after.
  std::string read(size_t begin, size_t bytes, const Use& use, const Clock& clock);
  std::string write(size_t begin, size_t bytes, const Use& use, const Clock& clock);
  std::string free(const Clock& host) const;

 private:
  // From its key in the map to the next one.
  struct Piece {
    Use written;
    std::map<int, Use> read_by;  // by stream, the last
  };
  using Pieces = std::map<size_t, Piece>;

  static bool is_before(const Use& use, const Clock& clock) {
    const auto it = clock.find(use.stream);
    return use.stream == 0 || (it != clock.end() && it->second >= use.tick);
  }
  // The first use that is not ordered before `clock`.
  static const Use* unordered_use(const Piece& piece, const Clock& clock, bool reads_matter);
  // Makes a piece begin here.
  Pieces::iterator cut(size_t at);

  size_t bytes_;
  Pieces pieces_;
};

}  // namespace khorus::gpu_double

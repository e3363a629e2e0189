// See shadow.h.
#include "tests/gpu/double/shadow.h"

#include <iterator>

namespace khorus::gpu_double {
namespace {

std::string complain(const Shadow::Use& now, const char* verb, const Shadow::Use& before) {
  return now.what + " " + verb + " memory that " + before.what +
         " uses, and is not ordered after that: an event wait is missing";
}

}  // namespace

const Shadow::Use* Shadow::unordered_use(const Piece& piece, const Clock& clock,
                                         bool reads_matter) {
  if (!is_before(piece.written, clock)) return &piece.written;
  if (!reads_matter) return nullptr;
  for (const auto& [stream, use] : piece.read_by) {
    if (!is_before(use, clock)) return &use;
  }
  return nullptr;
}

Shadow::Pieces::iterator Shadow::cut(size_t at) {
  const auto after = pieces_.upper_bound(at);
  const auto holder = std::prev(after);
  if (holder->first == at || at >= bytes_) return at >= bytes_ ? pieces_.end() : holder;
  return pieces_.emplace_hint(after, at, holder->second);
}

std::string Shadow::read(size_t begin, size_t bytes, const Use& use, const Clock& clock) {
  const auto first = cut(begin);
  const auto last = cut(begin + bytes);
  for (auto it = first; it != last; ++it) {
    if (const Use* other = unordered_use(it->second, clock, false)) {
      return complain(use, "reads", *other);
    }
    it->second.read_by[use.stream] = use;
  }
  return {};
}

std::string Shadow::write(size_t begin, size_t bytes, const Use& use, const Clock& clock) {
  const auto first = cut(begin);
  const auto last = cut(begin + bytes);
  for (auto it = first; it != last; ++it) {
    if (const Use* other = unordered_use(it->second, clock, true)) {
      return complain(use, "writes", *other);
    }
  }
  // One piece again: what was there before is over.
  first->second = {use, {}};
  pieces_.erase(std::next(first), last);
  return {};
}

std::string Shadow::free(const Clock& host) const {
  for (const auto& [begin, piece] : pieces_) {
    if (const Use* other = unordered_use(piece, host, true)) {
      return "memory is freed that " + other->what + " uses, and the host has not seen it complete";
    }
  }
  return {};
}

}  // namespace khorus::gpu_double

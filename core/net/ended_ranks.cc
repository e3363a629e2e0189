// See ended_ranks.h.
#include "core/net/ended_ranks.h"

#include <algorithm>
#include <charconv>
#include <string_view>

#include "core/net/quoted.h"
#include "core/net/text_bytes.h"

namespace khorus::net {
namespace {

constexpr const char* kTold = "ended/told";
constexpr std::string_view kYes = "yes";
constexpr size_t kLongestText = 256;

std::string shown(std::string_view text) { return printable(text.substr(0, kLongestText)); }

// Up to the end of the line, and removed from `text`.
std::string_view take_line(std::string_view* text) {
  const std::string_view line = text->substr(0, text->find('\n'));
  text->remove_prefix(std::min(text->size(), line.size() + 1));
  return line;
}

}  // namespace

Status promise_ends(Store& store) { return store.set(kTold, bytes_of(kYes)); }

Result<bool> are_ends_promised(Store& store) {
  const auto value = store.get(kTold, std::chrono::milliseconds(0));
  if (value.ok()) return true;
  if (value.status().code() == StatusCode::kTimeout) return false;
  return value.status();
}

Status tell_end(Store& store, uint64_t* next, const EndedRank& ended) {
  const std::string text =
      std::to_string(ended.rank) + "\n" + shown(ended.where) + "\n" + shown(ended.how) + "\n";
  for (;;) {
    Status told = store.set(ended_key((*next)++), bytes_of(text));
    if (told.code() != StatusCode::kPermissionDenied) return told;
    // Somebody else has told of another one. There are no more entries than ranks.
  }
}

std::string ended_key(uint64_t number) { return "ended/" + std::to_string(number); }

std::optional<EndedRank> decode_ended_rank(std::span<const std::byte> value) {
  const std::string whole = text_of(value);
  std::string_view text(whole);
  const std::string_view number = take_line(&text);
  EndedRank out;
  const auto parsed = std::from_chars(number.data(), number.data() + number.size(), out.rank);
  if (parsed.ec != std::errc() || parsed.ptr != number.data() + number.size() || out.rank < 0) {
    return std::nullopt;
  }
  out.where = shown(take_line(&text));
  out.how = shown(take_line(&text));
  return out;
}

std::string process_key(uint64_t epoch, int rank) {
  return "process/" + std::to_string(epoch) + "/" + std::to_string(rank);
}

}  // namespace khorus::net

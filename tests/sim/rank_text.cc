// See rank_text.h.
#include "tests/sim/rank_text.h"

#include <charconv>

namespace khorus::sim {
namespace {

std::optional<int> read_number(std::string_view* text) {
  int number = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), number);
  if (error != std::errc()) return std::nullopt;
  text->remove_prefix(static_cast<size_t>(end - text->data()));
  return number;
}

bool skip(std::string_view* text, std::string_view prefix) {
  if (!text->starts_with(prefix)) return false;
  text->remove_prefix(prefix.size());
  return true;
}

}  // namespace

std::string rank_text(const std::vector<int>& ranks) {
  if (ranks.size() == 1) return "rank " + std::to_string(ranks.front());
  std::string text = "ranks ";
  for (size_t i = 0; i < ranks.size();) {
    size_t last = i;
    while (last + 1 < ranks.size() && ranks[last + 1] == ranks[last] + 1) ++last;
    if (i > 0) text += ',';
    text += std::to_string(ranks[i]);
    if (last > i) text += (last == i + 1 ? "," : "-") + std::to_string(ranks[last]);
    i = last + 1;
  }
  return text;
}

std::optional<std::vector<int>> read_ranks(std::string_view text) {
  if (!skip(&text, "ranks ") && !skip(&text, "rank ")) return std::nullopt;
  std::vector<int> ranks;
  do {
    std::string_view ahead = text;
    const auto first = read_number(&ahead);
    if (!first) break;  // the comma belonged to the sentence
    text = ahead;
    int last = *first;
    if (skip(&text, "-")) last = read_number(&text).value_or(*first);
    for (int rank = *first; rank <= last; ++rank) ranks.push_back(rank);
  } while (skip(&text, ","));
  if (ranks.empty()) return std::nullopt;
  return ranks;
}

}  // namespace khorus::sim

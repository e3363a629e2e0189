// See slurm_lists.h.
#include "core/base/slurm_lists.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <utility>

namespace khorus::base {
namespace {

constexpr size_t kMostEntries = 65536;
constexpr size_t kMostDigits = 9;

using Names = std::vector<std::string>;

Status refused(std::string_view text, const std::string& why) {
  return Status(StatusCode::kInvalidArgument, "\"" + std::string(text) + "\": " + why);
}

std::optional<int64_t> number_in(std::string_view digits) {
  int64_t value = 0;
  if (digits.empty() || digits.size() > kMostDigits) return std::nullopt;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  const bool good = error == std::errc() && end == digits.data() + digits.size() && value >= 0;
  return good ? std::optional(value) : std::nullopt;
}

// What stands between commas; one empty part of an empty text.
std::vector<std::string_view> parts_of(std::string_view text) {
  std::vector<std::string_view> parts;
  while (true) {
    const size_t comma = text.find(',');
    parts.push_back(text.substr(0, comma));
    if (comma == std::string_view::npos) return parts;
    text.remove_prefix(comma + 1);
  }
}

// "1-3" or "07", as wide as it is written. False: it is no range, or too long a one.
bool add_range(std::string_view text, Names* out) {
  const size_t dash = text.find('-');
  const std::string_view first = text.substr(0, dash);
  const std::string_view last = dash == std::string_view::npos ? first : text.substr(dash + 1);
  const auto from = number_in(first), to = number_in(last);
  if (!from || !to || *to < *from || static_cast<size_t>(*to - *from) >= kMostEntries) return false;
  for (int64_t i = *from; i <= *to; ++i) {
    std::string digits = std::to_string(i);
    if (digits.size() < first.size()) digits.insert(0, first.size() - digits.size(), '0');
    out->push_back(std::move(digits));
  }
  return out->size() <= kMostEntries;
}

// Every one of `names` with every one of `ends`. False: too many.
bool append_each(const Names& ends, Names* names) {
  if (names->size() * ends.size() > kMostEntries) return false;
  Names longer;
  for (const std::string& name : *names) {
    for (const std::string& end : ends) longer.push_back(name + end);
  }
  *names = std::move(longer);
  return true;
}

bool good_characters(std::string_view text) {
  return std::ranges::all_of(
      text, [](unsigned char c) { return c > ' ' && c != 0x7f && c != '[' && c != ']'; });
}

// Takes one entry, up to a comma that is in no bracket, and adds its names.
Status take_entry(std::string_view whole, std::string_view* text, Names* out) {
  Names names = {""};
  bool any = false;
  while (!text->empty() && text->front() != ',') {
    any = true;
    Names ends;
    if (text->front() != '[') {
      const std::string_view plain = text->substr(0, text->find_first_of(",["));
      text->remove_prefix(plain.size());
      if (!good_characters(plain)) return refused(whole, "expected names such as node[1-4]");
      ends.emplace_back(plain);
    } else {
      const size_t close = text->find(']');
      if (close == std::string_view::npos) return refused(whole, "a \"[\" has no \"]\"");
      for (const std::string_view range : parts_of(text->substr(1, close - 1))) {
        if (!add_range(range, &ends)) return refused(whole, "expected ranges such as [1-4,07]");
      }
      text->remove_prefix(close + 1);
    }
    if (!append_each(ends, &names)) return refused(whole, "these are too many names");
  }
  if (!any) return refused(whole, "a name is empty");
  out->insert(out->end(), names.begin(), names.end());
  if (out->size() > kMostEntries) return refused(whole, "these are too many names");
  return Status();
}

}  // namespace

Result<Names> expand_node_list(std::string_view text) {
  const std::string_view whole = text;
  Names names;
  while (true) {
    if (Status status = take_entry(whole, &text, &names); !status.ok()) return status;
    if (text.empty()) return names;
    text.remove_prefix(1);  // the comma
  }
}

Result<std::vector<int64_t>> expand_counts(std::string_view text) {
  std::vector<int64_t> counts;
  for (std::string_view part : parts_of(text)) {
    std::optional<int64_t> times = 1;
    if (const size_t open = part.find("(x"); open != std::string_view::npos && part.back() == ')') {
      times = number_in(part.substr(open + 2, part.size() - open - 3));
      part = part.substr(0, open);
    }
    const auto count = number_in(part);
    if (!count || !times || *times < 1) return refused(text, "expected numbers such as 2(x3),1");
    if (counts.size() + static_cast<size_t>(*times) > kMostEntries) {
      return refused(text, "these are too many numbers");
    }
    counts.insert(counts.end(), static_cast<size_t>(*times), *count);
  }
  return counts;
}

}  // namespace khorus::base

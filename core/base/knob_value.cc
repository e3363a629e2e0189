// Reading the value of one knob from text; see config_table.h.
#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <numeric>

#include "core/base/config_table.h"

namespace khorus::base {
namespace {

struct Unit {
  std::string_view name;  // lower case
  double factor;
};
constexpr Unit kByteUnits[] = {
    {"", 1},        {"b", 1},         {"k", 1024}, {"kib", 1024}, {"m", 1 << 20}, {"mib", 1 << 20},
    {"g", 1 << 30}, {"gib", 1 << 30}, {"kb", 1e3}, {"mb", 1e6},   {"gb", 1e9},
};
constexpr Unit kSecondUnits[] = {{"", 1},     {"us", 1e-6}, {"ms", 1e-3}, {"s", 1},
                                 {"min", 60}, {"m", 60},    {"h", 3600}};
constexpr Unit kMillisecondUnits[] = {{"", 1},      {"us", 1e-3}, {"ms", 1},   {"s", 1e3},
                                      {"min", 6e4}, {"m", 6e4},   {"h", 3.6e6}};

std::string lower(std::string_view text) {
  std::string result(text);
  std::transform(result.begin(), result.end(), result.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return result;
}

std::string_view trimmed(std::string_view text) {
  const auto is_space = [](char c) { return c == ' ' || c == '\t' || c == '\n'; };
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
  return text;
}

// A finite number followed by one of `units`.
std::optional<double> parse_number(std::string_view text, std::span<const Unit> units) {
  double number = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number, std::chars_format::general);
  if (error != std::errc() || !std::isfinite(number)) return std::nullopt;
  const std::string suffix =
      lower(trimmed(std::string_view(rest, static_cast<size_t>(end - rest))));
  for (const Unit& unit : units) {
    if (suffix == unit.name) return number * unit.factor;
  }
  return std::nullopt;
}

std::optional<int64_t> parse_integer(std::string_view text) {
  int64_t number = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc() || rest != end) return std::nullopt;
  return number;
}

std::optional<int64_t> parse_bytes(std::string_view text) {
  if (const auto whole = parse_integer(text)) return whole;
  const auto number = parse_number(text, kByteUnits);
  if (!number || std::abs(*number) >= 9e18) return std::nullopt;
  return static_cast<int64_t>(*number);
}

std::optional<LogLevel> parse_level(const std::string& text) {
  constexpr std::string_view kNames[] = {"trace", "debug", "info", "warning", "error", "fatal"};
  for (size_t i = 0; i < std::size(kNames); ++i) {
    if (text == kNames[i]) return static_cast<LogLevel>(i);
  }
  return std::nullopt;
}

template <class T>
bool assign(const std::optional<T>& parsed, KnobValue* value) {
  if (parsed) *value = *parsed;
  return parsed.has_value();
}

// False: `text` is no value of this type.
bool parse_by_type(KnobType type, std::string_view text, KnobValue* value) {
  constexpr Unit kNoUnit[] = {{"", 1}};
  switch (type) {
    case KnobType::kBool:
      return assign(parse_bool(text), value);
    case KnobType::kInteger:
      return assign(parse_integer(text), value);
    case KnobType::kReal:
      return assign(parse_number(text, kNoUnit), value);
    case KnobType::kBytes:
      return assign(parse_bytes(text), value);
    case KnobType::kMilliseconds:
      return assign(parse_number(text, kMillisecondUnits), value);
    case KnobType::kSeconds:
      return assign(parse_number(text, kSecondUnits), value);
    case KnobType::kText:
      *value = std::string(text);
      return true;
    case KnobType::kName:
      *value = lower(text);
      return true;
    case KnobType::kLevel:
      return assign(parse_level(lower(text)), value);
  }
  return false;
}

bool below(const KnobValue& value, double minimum) {
  if (const auto* integer = std::get_if<int64_t>(&value)) {
    return static_cast<double>(*integer) < minimum;
  }
  if (const auto* real = std::get_if<double>(&value)) return *real < minimum;
  return false;
}

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({substituted, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row.back();
}

}  // namespace

std::string_view unit_of(KnobType type) noexcept {
  switch (type) {
    case KnobType::kBytes:
      return "bytes";
    case KnobType::kMilliseconds:
      return "milliseconds";
    case KnobType::kSeconds:
      return "seconds";
    default:
      return "";
  }
}

std::string expectation(const Knob& knob) {
  std::string text;
  switch (knob.type) {
    case KnobType::kBool:
      return "true or false (1, 0, yes, no, on, off)";
    case KnobType::kInteger:
      text = "a whole number";
      break;
    case KnobType::kReal:
      text = "a number";
      break;
    case KnobType::kBytes:
      text = "a size in bytes, such as 67108864 or 64MiB";
      break;
    case KnobType::kMilliseconds:
      text = "a time in milliseconds, such as 1, 0.5ms or 2s";
      break;
    case KnobType::kSeconds:
      text = "a time in seconds, such as 60, 500ms or 2min";
      break;
    case KnobType::kText:
      return "text";
    case KnobType::kName:
      return "a name";
    case KnobType::kLevel:
      return "one of trace, debug, info, warning, error, fatal";
  }
  if (knob.minimum > std::numeric_limits<double>::lowest()) {
    char minimum[32];
    std::snprintf(minimum, sizeof minimum, "%g", knob.minimum);
    text += std::string(", at least ") + minimum;
  }
  return text;
}

std::optional<bool> parse_bool(std::string_view text) {
  const std::string word = lower(text);
  if (word == "1" || word == "true" || word == "yes" || word == "on") return true;
  if (word == "0" || word == "false" || word == "no" || word == "off") return false;
  return std::nullopt;
}

Result<KnobValue> parse_knob(const Knob& knob, std::string_view source, std::string_view text) {
  const bool literal = knob.type == KnobType::kText;
  KnobValue value;
  const bool parsed = parse_by_type(knob.type, literal ? text : trimmed(text), &value);
  if (!parsed || below(value, knob.minimum)) {
    return Status(StatusCode::kInvalidArgument, std::string(source) + "=\"" + std::string(text) +
                                                    "\": expected " + expectation(knob));
  }
  return value;
}

std::string nearest_variable(std::string_view variable) {
  constexpr std::string_view kPrefix = "KHORUS_";
  if (variable.starts_with(kPrefix)) variable.remove_prefix(kPrefix.size());
  const auto all = knobs();
  const auto nearest = std::min_element(all.begin(), all.end(), [&](const Knob& a, const Knob& b) {
    return edit_distance(variable, a.name) < edit_distance(variable, b.name);
  });
  return std::string(kPrefix) + std::string(nearest->name);
}

}  // namespace khorus::base

// The table of knobs: every setting of Khorus, defined once.
//
// Parsing of the environment (config.cc), the launcher's flags, `khorusrun --help` and
// docs/knobs.md are all made from `knobs()`. A knob is read from KHORUS_<name>, else
// KHORUS_<horovod>, else HOROVOD_<horovod>; an empty value counts as not set. Constant data: any
// thread.
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "khorus/options.h"

namespace khorus::base {

// How a value is written. The unit of a bare number belongs to the type.
enum class KnobType : uint8_t {
  kBool,          // 1, 0, true, false, yes, no, on, off
  kInteger,       // 4096
  kReal,          // 0.8
  kBytes,         // 67108864, 64MiB
  kMilliseconds,  // 1, 0.5ms, 2s
  kSeconds,       // 60, 500ms, 2min
  kText,          // anything
  kName,          // a word; upper case is taken as lower case
  kLevel,         // trace .. fatal
};

// Which part of the documentation a knob stands in.
enum class KnobSection : uint8_t { kNegotiation, kPlace, kData, kWatching, kUnused };

// Where a knob's value goes; monostate: accepted for compatibility, and without effect.
using KnobMember = std::variant<std::monostate, bool Config::*, int64_t Config::*, double Config::*,
                                std::string Config::*, LogLevel Config::*>;
using KnobValue = std::variant<bool, int64_t, double, std::string, LogLevel>;

struct Knob {
  std::string_view name;
  std::string_view horovod = {};  // empty: Horovod has no such knob
  KnobType type = KnobType::kText;
  std::string_view standard = {};   // the default, as it would be written
  std::string_view flag = {};       // of khorusrun, without the dashes; empty: none
  std::string_view flag_unit = {};  // appended to a flag's value ("--fusion-threshold-mb 64")
  KnobSection section = KnobSection::kUnused;
  std::string_view sentence = {};
  KnobMember member = {};
  double minimum = std::numeric_limits<double>::lowest();  // of numbers, in the type's unit

  bool used() const noexcept { return member.index() != 0; }
};

std::span<const Knob> knobs() noexcept;

// The knob of KHORUS_<name>, also under Horovod's name; nullptr if there is none.
const Knob* find_knob(std::string_view name) noexcept;
const Knob* find_knob_by_flag(std::string_view flag) noexcept;

// "bytes", "milliseconds", "seconds" or "".
std::string_view unit_of(KnobType type) noexcept;
// "true or false", "a time in seconds, such as 60, 500ms or 2min": what a message expects.
std::string expectation(const Knob& knob);

// true, yes, on, 1, or false, no, off, 0, in upper or lower case.
std::optional<bool> parse_bool(std::string_view text);

// Reads `text` as a value of `knob`. InvalidArgument names `source` (a variable or a flag), the
// text and what was expected.
Result<KnobValue> parse_knob(const Knob& knob, std::string_view source, std::string_view text);

// The known variable that is spelled most like `variable` ("KHORUS_FUSION_TRESHOLD").
std::string nearest_variable(std::string_view variable);

}  // namespace khorus::base

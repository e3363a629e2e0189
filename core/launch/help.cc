// Help and documentation from the tables; see help.h.
#include "core/launch/help.h"

#include <sstream>

#include "core/base/config_table.h"
#include "core/launch/options.h"

namespace khorus::launch {
namespace {

using base::Knob;
using base::KnobSection;

constexpr size_t kWidth = 98;
constexpr std::string_view kIndent = "      ";

// `text` broken at blanks, each line behind `indent`.
std::string wrapped(std::string_view text, std::string_view indent) {
  std::istringstream words{std::string(text)};
  std::string result, line(indent);
  for (std::string word; words >> word;) {
    if (line.size() > indent.size() && line.size() + 1 + word.size() > kWidth) {
      result += line + "\n";
      line = indent;
    }
    if (line.size() > indent.size()) line += ' ';
    line += word;
  }
  return result + line + "\n";
}

std::string entry(std::string_view spellings, std::string_view value, std::string_view sentence) {
  std::string head = std::string(spellings) + (value.empty() ? "" : " " + std::string(value));
  return wrapped(head, "  ") + wrapped(sentence, kIndent);
}

std::string value_name(const Knob& knob) {
  if (!knob.flag_unit.empty()) return std::string(knob.flag_unit);
  switch (knob.type) {
    case base::KnobType::kBool:
      return "";
    case base::KnobType::kMilliseconds:
      return "MS";
    case base::KnobType::kSeconds:
      return "SECONDS";
    case base::KnobType::kLevel:
      return "LEVEL";
    case base::KnobType::kText:
    case base::KnobType::kName:
      return "TEXT";
    default:
      return "N";
  }
}

std::string knob_sentence(const Knob& knob) {
  std::string text(knob.sentence);
  if (!knob.standard.empty() && knob.type != base::KnobType::kBool) {
    text += " Default " + std::string(knob.standard) + ".";
  }
  return text + " (KHORUS_" + std::string(knob.name) + ")";
}

struct SectionTitle {
  KnobSection section;
  std::string_view title;
};
constexpr SectionTitle kSections[] = {
    {KnobSection::kNegotiation, "Fusion and negotiation"},
    {KnobSection::kPlace, "Place and meeting"},
    {KnobSection::kData, "Data plane"},
    {KnobSection::kWatching, "Watching"},
    {KnobSection::kUnused, "Accepted, without effect in this version"},
};

// Those that have flags.
std::string knob_entries(const SectionTitle& section) {
  std::string text;
  for (const Knob& knob : base::knobs()) {
    if (knob.section != section.section || knob.flag.empty() || !knob.used()) continue;
    text += entry("--" + std::string(knob.flag), value_name(knob), knob_sentence(knob));
  }
  return text.empty() ? text : "\n" + std::string(section.title) + "\n" + text;
}

std::string code(std::string_view text) {
  return text.empty() ? std::string() : "`" + std::string(text) + "`";
}

std::string table_row(const Knob& knob) {
  const std::string horovod =
      knob.horovod.empty() ? "" : code("HOROVOD_" + std::string(knob.horovod));
  const std::string flag =
      knob.flag.empty() || !knob.used() ? "" : code("--" + std::string(knob.flag));
  const std::string_view unit = base::unit_of(knob.type);
  return "| " + code("KHORUS_" + std::string(knob.name)) + " | " + horovod + " | " + flag + " | " +
         std::string(unit) + " | " + code(knob.standard) + " | " + std::string(knob.sentence) +
         " |\n";
}

}  // namespace

std::string help_text() {
  std::string text =
      "khorusrun: start and watch the ranks of a job.\n\n"
      "  khorusrun -np 4 train.py                      on this machine\n"
      "  khorusrun -H node1:4,node2:4 ./train --lr 1   on others, over ssh\n"
      "  khorusrun -np 2 --config-file job.yaml ./train\n"
      "  khorusrun -np 2 --as-horovod train.py         a script written for Horovod\n\n"
      "Options stand before the program; what follows it is the program's own (-- ends options).\n"
      "A value may follow as the next word or after \"=\"; underscores in long names are dashes.\n"
      "The exit code is that of the rank that failed first; 2: wrong options, 127: no such "
      "program.\n\nOptions\n";
  std::string not_built;
  for (const Flag& flag : flags()) {
    if (flag.spellings.empty()) {
      text += "\n" + std::string(flag.sentence) + "\n";
      continue;
    }
    const bool built = flag.action != FlagAction::kNotBuilt;
    (built ? text : not_built) += entry(flag.spellings, flag.value, flag.sentence);
  }
  text +=
      "\nSettings of the ranks. Each may also be given as the environment variable in "
      "parentheses,\n"
      "which the option beats; docs/knobs.md has those that are variables only.\n";
  for (const SectionTitle& section : kSections) text += knob_entries(section);
  return text + "\nKnown from horovodrun and torchrun, and not built yet\n" + not_built;
}

std::string knobs_markdown() {
  std::string text =
      "# Knobs\n\n"
      "Made from the table in `core/base/config_table.cc` by `khorusrun --knobs-markdown`; a test "
      "keeps it so.\n\n"
      "A knob is read when an engine is made, from its `KHORUS_` variable, else from the "
      "`HOROVOD_` one. An\nempty value counts as not set. A value that does not parse is an error "
      "that names the variable; an unknown\n`KHORUS_` name is a warning that names the nearest "
      "known one. A bare number is in the unit given here; sizes\nmay say `KiB`, `MiB`, `GiB` and "
      "times `us`, `ms`, `s`, `min`, `h`. Flags are those of `khorusrun`;\n"
      "`--fusion-threshold-mb` counts in MiB.\n";
  for (const SectionTitle& section : kSections) {
    text += "\n## " + std::string(section.title) +
            "\n\n| variable | alias | flag | unit | default | meaning |\n"
            "|---|---|---|---|---|---|\n";
    for (const Knob& knob : base::knobs()) {
      if (knob.section == section.section) text += table_row(knob);
    }
  }
  return text;
}

}  // namespace khorus::launch

// Config from the environment, on top of the table of knobs (config_table.h). Called on the thread
// that makes an engine, before any other thread of it exists.
#include <unistd.h>

#include "core/base/config_table.h"
#include "core/base/launcher_place.h"
#include "core/base/log.h"

namespace khorus {
namespace {

using base::Knob;
using base::KnobValue;
using Variables = std::map<std::string, std::string>;

// The variable that sets `knob`, in order of precedence; end() if none does.
Variables::const_iterator find_setting(const Variables& variables, const Knob& knob) {
  std::vector<std::string> names = {"KHORUS_" + std::string(knob.name)};
  if (!knob.horovod.empty()) {
    if (knob.horovod != knob.name) names.push_back("KHORUS_" + std::string(knob.horovod));
    names.push_back("HOROVOD_" + std::string(knob.horovod));
  }
  for (const std::string& name : names) {
    const auto found = variables.find(name);
    if (found != variables.end() && !found->second.empty()) return found;
  }
  return variables.end();
}

void assign(const Knob& knob, const KnobValue& value, Config* config) {
  std::visit(
      [&](auto member) {
        using Member = decltype(member);
        if constexpr (!std::is_same_v<Member, std::monostate>) {
          using Value = std::remove_reference_t<decltype(config->*member)>;
          config->*member = std::get<Value>(value);
        }
      },
      knob.member);
}

// Where our own variables say nothing of the place, another launcher's may.
Status take_launcher_place(const Variables& variables, Config* config) {
  if (config->rank >= 0 || config->size >= 0) return {};
  const Result<std::optional<base::LauncherPlace>> found = base::find_launcher_place(variables);
  if (!found.ok() || !*found) return found.status();
  const base::LauncherPlace& place = **found;
  config->launcher = place.launcher;
  if (config->job_id.empty()) config->job_id = place.job_id;
  if (config->store.empty()) config->store = place.store;
  config->error_file = place.error_file;
  config->rank = place.rank;
  config->size = place.size;
  config->local_rank = place.local_rank;
  config->local_size = place.local_size;
  config->cross_rank = place.cross_rank;
  config->cross_size = place.cross_size;
  return {};
}

// An accepted knob without effect is worth a word when it asks for something.
bool asks_for_something(const Knob& knob, const KnobValue& value) {
  const Result<KnobValue> standard = base::parse_knob(knob, knob.name, knob.standard);
  return !standard.ok() || *standard != value;
}

Status check_place(const Config& config) {
  const auto check = [](const char* what, int64_t rank, int64_t size) {
    if (rank < 0 && size < 0) return Status();
    if (rank >= 0 && size > rank) return Status();
    return Status(StatusCode::kInvalidArgument,
                  "KHORUS_" + std::string(what) + "RANK is " + std::to_string(rank) +
                      " and KHORUS_" + what + "SIZE is " + std::to_string(size) +
                      " (-1: not set): expected both, with 0 <= rank < size");
  };
  if (Status status = check("", config.rank, config.size); !status.ok()) return status;
  if (Status status = check("LOCAL_", config.local_rank, config.local_size); !status.ok()) {
    return status;
  }
  return check("CROSS_", config.cross_rank, config.cross_size);
}

void warn_of_unknown(const Variables& variables, std::vector<std::string>* warnings) {
  constexpr std::string_view kPrefix = "KHORUS_";
  constexpr std::string_view kForTests = "KHORUS_TEST_";
  for (auto it = variables.lower_bound(std::string(kPrefix));
       it != variables.end() && it->first.starts_with(kPrefix); ++it) {
    if (it->first.starts_with(kForTests)) continue;
    if (base::find_knob(std::string_view(it->first).substr(kPrefix.size()))) continue;
    warnings->push_back(it->first + " is not a knob of Khorus and has no effect; the nearest is " +
                        base::nearest_variable(it->first));
  }
}

}  // namespace

Result<Config> Config::from_map(const std::map<std::string, std::string>& variables,
                                std::vector<std::string>* warnings) {
  Config config;
  for (const Knob& knob : base::knobs()) {
    const auto setting = find_setting(variables, knob);
    if (setting == variables.end()) continue;
    const Result<KnobValue> value = base::parse_knob(knob, setting->first, setting->second);
    if (!value.ok()) return value.status();
    assign(knob, *value, &config);
    if (!knob.used() && warnings && asks_for_something(knob, *value)) {
      warnings->push_back(setting->first + " is accepted but has no effect in this version");
    }
  }
  if (Status status = check_place(config); !status.ok()) return status;
  if (Status status = take_launcher_place(variables, &config); !status.ok()) return status;
  if (warnings) warn_of_unknown(variables, warnings);
  return config;
}

Result<Config> Config::from_environment() {
  Variables variables;
  for (char** entry = environ; entry && *entry; ++entry) {
    const std::string_view text(*entry);
    const size_t equals = text.find('=');
    if (equals == std::string_view::npos) continue;
    variables.emplace(text.substr(0, equals), text.substr(equals + 1));
  }
  std::vector<std::string> warnings;
  Result<Config> config = from_map(variables, &warnings);
  if (!config.ok() || config->rank > 0) return config;  // rank 0 speaks for all
  const base::Logger logger(
      {.level = config->log_level, .hide_time = config->log_hide_time, .rank = -1, .sink = {}});
  for (const std::string& warning : warnings) logger.warning(warning);
  return config;
}

}  // namespace khorus

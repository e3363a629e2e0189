// Parsing khorusrun's command line; see options.h.
#include "core/launch/options.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>
#include <set>

#include "core/base/config_table.h"
#include "core/launch/allocation.h"
#include "core/launch/config_file.h"
#include "core/launch/hosts.h"

namespace khorus::launch {
namespace {

constexpr int kMaxProcesses = 8192;

Status refused(std::string message) {
  return Status(StatusCode::kInvalidArgument, std::move(message));
}

// "--Num_proc" -> "num-proc": without dashes in front; torchrun's underscores are dashes.
std::string flag_name(std::string_view spelling) {
  const bool is_long = spelling.starts_with("--");
  while (spelling.starts_with('-')) spelling.remove_prefix(1);
  std::string name(spelling);
  if (is_long) std::replace(name.begin(), name.end(), '_', '-');
  return name;
}

template <class Visit>
void for_each_spelling(std::string_view spellings, const Visit& visit) {
  while (!spellings.empty()) {
    const size_t comma = spellings.find(", ");
    visit(spellings.substr(0, comma));
    spellings.remove_prefix(comma == std::string_view::npos ? spellings.size() : comma + 2);
  }
}

const Flag* find_flag(std::string_view name) {
  const Flag* found = nullptr;
  for (const Flag& flag : flags()) {
    for_each_spelling(flag.spellings, [&](std::string_view spelling) {
      if (flag_name(spelling) == name) found = &flag;
    });
  }
  return found;
}

// Flags of one subject say the same thing, or the opposite. Empty: each adds something.
std::string subject_of(const Flag& flag) {
  switch (flag.action) {
    case FlagAction::kSetKnob:
      return std::string(flag.knob);
    case FlagAction::kConfigFile:
    case FlagAction::kForward:
      return "";
    case FlagAction::kHosts:
    case FlagAction::kHostfile:
      return "-H";
    case FlagAction::kPrefix:
    case FlagAction::kNoPrefix:
      return "--prefix";
    case FlagAction::kMpi:
    case FlagAction::kGloo:
      return "--mpi";
    case FlagAction::kRendezvous:
    case FlagAction::kMasterAddress:
      return "--rdzv-endpoint";
    default:
      return std::string(flag.spellings);
  }
}

Result<int> parse_count(const std::string& flag, std::string_view text, int least, int most) {
  int value = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || rest != end || value < least || value > most) {
    return refused(flag + " \"" + std::string(text) + "\": expected a whole number from " +
                   std::to_string(least) + " to " + std::to_string(most));
  }
  return value;
}

// Walks over the arguments; each method handles one thing.
class Parser {
 public:
  Parser(std::span<const std::string> arguments, const std::map<std::string, std::string>& around)
      : left_(arguments), around_(around) {}

  Result<LaunchOptions> parse() {
    while (!left_.empty() && left_.front().starts_with('-') && left_.front() != "-") {
      const std::string argument = left_.front();
      left_ = left_.subspan(1);
      if (argument == "--") break;
      if (Status status = take(argument); !status.ok()) return status;
    }
    options_.program.assign(left_.begin(), left_.end());
    if (options_.action != LaunchAction::kRun) return std::move(options_);
    if (Status status = take_files(); !status.ok()) return status;
    if (Status status = take_torch_variables(); !status.ok()) return status;
    if (options_.rendezvous.empty() && !master_address_.empty()) {
      const bool v6 = master_address_.find(':') != std::string::npos;
      options_.rendezvous =
          (v6 ? "[" + master_address_ + "]" : master_address_) + ":" + std::to_string(master_port_);
    }
    if (Status status = take_slurm_hosts(around_, &options_); !status.ok()) return status;
    if (Status status = check(&options_); !status.ok()) return status;
    return std::move(options_);
  }

 private:
  Status take(const std::string& argument) {
    const size_t equals = argument.find('=');
    spelling_ = argument.substr(0, equals);
    attached_.reset();
    if (equals != std::string::npos) attached_ = argument.substr(equals + 1);
    const std::string name = flag_name(spelling_);
    if (const Flag* flag = find_flag(name)) {
      return is_overridden(subject_of(*flag)) ? Status() : take_flag(*flag);
    }
    if (const base::Knob* knob = base::find_knob_by_flag(name)) {
      return is_overridden(std::string(knob->name)) ? Status() : take_knob(*knob);
    }
    // "-np4", as mpirun and horovodrun allow
    if (name.size() > 2 && name.starts_with("np") && !attached_) {
      attached_ = name.substr(2);
      spelling_ = "-np";
      if (attached_->find_first_not_of("0123456789") == std::string::npos) {
        return take_flag(*find_flag("np"));
      }
    }
    return refused("unknown option " + spelling_ +
                   "; `khorusrun --help` lists them. Options of your program stand after it.");
  }

  // What the command line says beats what a file says, and a later file an earlier one.
  Status take_files() {
    std::ranges::reverse(config_files_);
    for (const std::string& path : config_files_) {
      const Result<std::vector<FileSetting>> settings = read_config_file(path);
      if (!settings.ok()) return settings.status();
      given_.merge(std::exchange(given_by_file_, {}));
      in_file_ = true;
      for (const FileSetting& setting : *settings) {
        const Status status = take_setting(setting);
        if (!status.ok()) return Status(status.code(), setting.where + ": " + status.message());
      }
    }
    return Status();
  }

  // They count least, and not at all where -H or --mpi say where to run.
  Status take_torch_variables() {
    if (!options_.hosts.empty() || options_.mpi) return Status();
    given_.merge(given_by_file_);
    for (const VariableFlag& variable : torch_variables(around_)) {
      const auto flag = std::ranges::find(flags(), variable.action, &Flag::action);
      if (given_.contains(subject_of(*flag))) continue;
      spelling_ = variable.name;
      if (Status status = apply(variable.action, variable.value); !status.ok()) return status;
    }
    return Status();
  }

  Status take_setting(const FileSetting& setting) {
    const Flag* flag = find_flag(setting.flag);
    const base::Knob* knob = base::find_knob_by_flag(setting.flag);
    if (flag == nullptr && knob == nullptr) {
      return refused("unknown key \"" + setting.flag +
                     "\": neither a section nor an option of khorusrun");
    }
    const bool is_switch =
        flag != nullptr ? flag->value.empty() : knob->type == base::KnobType::kBool;
    if (!is_switch) return take("--" + setting.flag + "=" + setting.value);
    const Result<bool> wanted = setting.is_true();
    if (!wanted.ok()) return wanted.status();
    if (*wanted) return take("--" + setting.flag);
    return flag != nullptr || !knob->used() ? Status() : take("--" + setting.flag + "=0");
  }

  // In a file: whether something stronger has said it already.
  bool is_overridden(const std::string& subject) {
    if (subject.empty()) return false;  // of which there may be several
    if (in_file_ && given_.contains(subject)) return true;
    (in_file_ ? given_by_file_ : given_).insert(subject);
    return false;
  }

  Result<std::string> value() {
    if (attached_) return *std::exchange(attached_, std::nullopt);
    if (left_.empty()) return refused(spelling_ + " needs a value");
    const std::string text = left_.front();
    left_ = left_.subspan(1);
    return text;
  }

  Status take_flag(const Flag& flag) {
    if (flag.action == FlagAction::kNotBuilt) {
      return refused(spelling_ + " is not built yet (" + std::string(flag.sentence) +
                     "); this version runs a fixed number of ranks");
    }
    std::string text;
    if (!flag.value.empty()) {
      Result<std::string> given = value();
      if (!given.ok()) return given.status();
      text = std::move(*given);
    }
    if (attached_) return refused(spelling_ + " takes no value");
    if (flag.action == FlagAction::kSetKnob) {
      options_.environment["KHORUS_" + std::string(flag.knob)] = flag.knob_value;
      return Status();
    }
    return apply(flag.action, text);
  }

  Status apply(FlagAction action, const std::string& text) {
    switch (action) {
      case FlagAction::kProcesses:
        return set_count(text, 1, kMaxProcesses, &options_.processes);
      case FlagAction::kHosts:
        return add_hosts(parse_hosts(text));
      case FlagAction::kHostfile:
        return add_hosts(read_hostfile(text));
      case FlagAction::kSshPort:
        return set_count(text, 1, 65535, &options_.ssh.port);
      case FlagAction::kHostSilence:
        return set_count(text, 1, 86400, &options_.ssh.silence_s);
      case FlagAction::kForward:
        return forward(text);
      case FlagAction::kAgent:
        options_.action = LaunchAction::kAgent;
        return set_count(text, 1, 1 << 30, &options_.agent_patience_s);
      case FlagAction::kSshIdentity:
        options_.ssh.identity_file = text;
        break;
      case FlagAction::kSshUser:
        options_.ssh.user = text;
        break;
      case FlagAction::kSshCommand:
        options_.ssh.command = text;
        break;
      case FlagAction::kRemoteLauncher:
        options_.ssh.remote_launcher = text;
        break;
      case FlagAction::kNodes:
        return set_count(text, 1, kMaxProcesses, &options_.nodes);
      case FlagAction::kNodeRank:
        return set_count(text, 0, kMaxProcesses, &options_.node_rank);
      case FlagAction::kMasterPort:
        return set_count(text, 1, 65535, &master_port_);
      case FlagAction::kMasterAddress:
        master_address_ = text;
        break;
      case FlagAction::kRendezvous:
        options_.rendezvous = text;
        break;
      case FlagAction::kRendezvousId:
        options_.rendezvous_id = text;
        break;
      case FlagAction::kFailureGrace:
        return set_grace(text);
      case FlagAction::kRestarts:
        return set_count(text, 0, kMaxProcesses, &options_.restarts);
      case FlagAction::kOutput:
        options_.output_directory = text;
        break;
      case FlagAction::kPrefix:
        options_.prefix = text;
        options_.prefix_given = true;
        break;
      case FlagAction::kNoPrefix:
        options_.prefix.clear();
        break;
      case FlagAction::kVerbose:
        options_.verbose = true;
        break;
      case FlagAction::kMpi:
        options_.mpi = true;
        break;
      case FlagAction::kGloo:
        options_.mpi = false;
        break;
      case FlagAction::kConfigFile:
        config_files_.push_back(text);
        break;
      case FlagAction::kMpiArguments:
        options_.mpi_args = text;
        break;
      case FlagAction::kAsHorovod:
        options_.as_horovod = true;
        break;
      case FlagAction::kPythonPackage:
        options_.python_package = text;
        break;
      case FlagAction::kHelp:
        options_.action = LaunchAction::kHelp;
        break;
      case FlagAction::kVersion:
        options_.action = LaunchAction::kVersion;
        break;
      case FlagAction::kCheckBuild:
        options_.action = LaunchAction::kCheckBuild;
        break;
      case FlagAction::kKnobsMarkdown:
        options_.action = LaunchAction::kKnobsMarkdown;
        break;
      case FlagAction::kSetKnob:
      case FlagAction::kNothing:
      case FlagAction::kNotBuilt:
        break;
    }
    return Status();
  }

  Status take_knob(const base::Knob& knob) {
    if (!knob.used()) {
      return refused(spelling_ + " is not built yet (" + std::string(knob.sentence) + ")");
    }
    std::string text = "1";
    if (knob.type != base::KnobType::kBool || attached_) {
      Result<std::string> given = value();
      if (!given.ok()) return given.status();
      text = std::move(*given);
    }
    text += knob.flag_unit;
    const Result<base::KnobValue> parsed = base::parse_knob(knob, spelling_, text);
    if (!parsed.ok()) return parsed.status();
    options_.environment["KHORUS_" + std::string(knob.name)] = text;
    return Status();
  }

  Status set_count(const std::string& text, int least, int most, int* count) {
    const Result<int> value = parse_count(spelling_, text, least, most);
    if (!value.ok()) return value.status();
    *count = *value;
    return Status();
  }

  Status set_grace(const std::string& text) {
    double seconds = 0;
    const char* end = text.data() + text.size();
    const auto [rest, error] = std::from_chars(text.data(), end, seconds);
    if (error != std::errc() || rest != end || !(seconds >= 0) || seconds > 1e6) {
      return refused(spelling_ + " \"" + text + "\": expected a time in seconds");
    }
    options_.failure_grace_s = seconds;
    return Status();
  }

  Status add_hosts(const Result<std::vector<Host>>& hosts) {
    if (!hosts.ok()) return hosts.status();
    options_.hosts.insert(options_.hosts.end(), hosts->begin(), hosts->end());
    return Status();
  }

  // "NAME" or "NAME=VALUE"
  Status forward(const std::string& text) {
    const size_t equals = text.find('=');
    const std::string name = text.substr(0, equals);
    if (name.empty()) return refused(spelling_ + " \"" + text + "\": expected NAME or NAME=VALUE");
    if (equals != std::string::npos && !(in_file_ && options_.environment.contains(name))) {
      options_.environment[name] = text.substr(equals + 1);
    }
    options_.forwarded.push_back(name);
    return Status();
  }

  std::span<const std::string> left_;
  const std::map<std::string, std::string>& around_;
  LaunchOptions options_;
  std::string spelling_;                 // of the flag under way, as it was given
  std::optional<std::string> attached_;  // its value, of "--flag=value"
  std::vector<std::string> config_files_;
  std::set<std::string> given_;          // the subjects of what cannot be overridden any more
  std::set<std::string> given_by_file_;  // of the file under way
  bool in_file_ = false;
  std::string master_address_;
  int master_port_ = 29500;  // as torchrun's
};

}  // namespace

Result<LaunchOptions> parse_options(std::span<const std::string> arguments,
                                    const std::map<std::string, std::string>& variables) {
  return Parser(arguments, variables).parse();
}

}  // namespace khorus::launch

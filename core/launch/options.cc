// Parsing khorusrun's command line; see options.h.
#include "core/launch/options.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>

#include "core/base/config_table.h"
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
  explicit Parser(std::span<const std::string> arguments) : left_(arguments) {}

  Result<LaunchOptions> parse() {
    while (!left_.empty() && left_.front().starts_with('-') && left_.front() != "-") {
      const std::string argument = left_.front();
      left_ = left_.subspan(1);
      if (argument == "--") break;
      if (Status status = take(argument); !status.ok()) return status;
    }
    options_.program.assign(left_.begin(), left_.end());
    if (options_.action != LaunchAction::kRun) return std::move(options_);
    if (Status status = check(); !status.ok()) return status;
    return std::move(options_);
  }

 private:
  Status take(const std::string& argument) {
    const size_t equals = argument.find('=');
    spelling_ = argument.substr(0, equals);
    attached_.reset();
    if (equals != std::string::npos) attached_ = argument.substr(equals + 1);
    const std::string name = flag_name(spelling_);
    if (const Flag* flag = find_flag(name)) return take_flag(*flag);
    if (const base::Knob* knob = base::find_knob_by_flag(name)) return take_knob(*knob);
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
      case FlagAction::kMpiArguments:
        options_.mpi_args = text;
        break;
      case FlagAction::kAsHorovod:
        options_.as_horovod = true;
        break;
      case FlagAction::kPythonPackage:
        options_.python_package = text;
        break;
      case FlagAction::kDisableCache:
        options_.environment["KHORUS_CACHE_CAPACITY"] = "0";
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
    if (equals != std::string::npos) options_.environment[name] = text.substr(equals + 1);
    options_.forwarded.push_back(name);
    return Status();
  }

  Status check_nodes() {
    LaunchOptions& options = options_;
    if (options.node_rank >= options.nodes) {
      return refused("--node-rank " + std::to_string(options.node_rank) + ": of " +
                     std::to_string(options.nodes) + " nodes the last is " +
                     std::to_string(options.nodes - 1));
    }
    if (options.rendezvous.empty() && !master_address_.empty()) {
      const bool v6 = master_address_.find(':') != std::string::npos;
      options.rendezvous =
          (v6 ? "[" + master_address_ + "]" : master_address_) + ":" + std::to_string(master_port_);
    }
    if (options.nodes == 1) return Status();
    const size_t colon = options.rendezvous.rfind(':');
    if (colon == std::string::npos || colon == 0 || colon + 1 == options.rendezvous.size()) {
      return refused("--nnodes " + std::to_string(options.nodes) +
                     " needs --rdzv-endpoint HOST:PORT, an address of node 0");
    }
    if (options.mpi || !options.hosts.empty() || options.restarts > 0) {
      return refused("--nnodes does not go with -H, --mpi or --reset-limit");
    }
    if (options.rendezvous_id.empty() || options.rendezvous_id.size() > 48) {
      return refused("--rdzv-id \"" + options.rendezvous_id + "\": expected 1 to 48 characters");
    }
    return Status();
  }

  Status check() {
    if (Status status = check_nodes(); !status.ok()) return status;
    if (!options_.mpi && !options_.mpi_args.empty()) {
      return refused("--mpi-args \"" + options_.mpi_args + "\" need --mpi");
    }
    if (options_.mpi && options_.restarts > 0) {
      return refused("--reset-limit " + std::to_string(options_.restarts) +
                     " does not go with --mpi: mpirun ends a job that lost a rank");
    }
    options_.hosts = merge_hosts(std::move(options_.hosts));
    int slots = 0;
    for (const Host& host : options_.hosts) {
      slots += host.slots;
      if (options_.mpi && !host.here) {
        return refused("host \"" + host.name +
                       "\": with --mpi, mpirun is told of other hosts: --mpi-args=\"-H ...\"");
      }
    }
    if (options_.processes == 0) options_.processes = slots;
    if (options_.processes == 0) return refused("how many ranks? Give -np N");
    if (slots > 0 && options_.processes > slots) {
      return refused("-np " + std::to_string(options_.processes) + " is more than the " +
                     std::to_string(slots) + " slots of the hosts");
    }
    if (options_.program.empty()) {
      return refused("which program? khorusrun -np N PROGRAM [ARGUMENTS]");
    }
    return Status();
  }

  std::span<const std::string> left_;
  LaunchOptions options_;
  std::string spelling_;                 // of the flag under way, as it was given
  std::optional<std::string> attached_;  // its value, of "--flag=value"
  std::string master_address_;
  int master_port_ = 29500;  // as torchrun's
};

}  // namespace

Result<LaunchOptions> parse_options(std::span<const std::string> arguments) {
  return Parser(arguments).parse();
}

}  // namespace khorus::launch

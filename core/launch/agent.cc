// See agent.h.
#include "core/launch/agent.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include "core/launch/agent_job.h"
#include "core/launch/agent_protocol.h"
#include "core/launch/hosts.h"
#include "core/launch/message_stream.h"
#include "core/net/dial.h"
#include "core/net/mac.h"
#include "khorus/version.h"

namespace khorus::launch {
namespace {

using std::chrono::steady_clock;

// "10.0.0.1 51234 10.0.0.2 22" -> "10.0.0.1"; sshd(8).
std::string launcher_address() {
  const char* connection = std::getenv("SSH_CONNECTION");
  const std::string text = connection == nullptr ? "" : connection;
  return text.substr(0, text.find(' '));
}

Result<AgentPlan> receive_plan(int descriptor, std::chrono::seconds patience) {
  Result<std::vector<std::byte>> bytes = read_message(descriptor, steady_clock::now() + patience);
  if (!bytes.ok()) return bytes.status();
  std::optional<LauncherMessage> message = decode_launcher_message(*bytes);
  net::wipe(*bytes);
  if (!message || !std::holds_alternative<AgentPlan>(*message)) {
    return Status(StatusCode::kInvalidArgument, "what came is not from khorusrun");
  }
  return std::get<AgentPlan>(std::move(*message));
}

void keep_alive(int socket, int silence_s) {
  const int on = 1, interval_s = sign_interval_s(silence_s);
  ::setsockopt(socket, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  ::setsockopt(socket, IPPROTO_TCP, TCP_KEEPIDLE, &interval_s, sizeof on);
  ::setsockopt(socket, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof on);
  ::setsockopt(socket, IPPROTO_TCP, TCP_KEEPCNT, &kSignsOfLife, sizeof on);
}

Result<net::Socket> connect_to_store(const AgentPlan& plan) {
  const Result<std::vector<net::Address>> addresses = net::resolve(plan.store);
  if (!addresses.ok()) return addresses.status();
  net::DialOptions dial;
  dial.address = addresses->front();
  dial.key = plan.key;
  dial.self = {net::Role::kStoreClient, -1, 0, plan.job_id};
  dial.self.tls = plan.tls;
  dial.peer_role = net::Role::kStoreServer;
  dial.deadline = steady_clock::now() + std::chrono::milliseconds(plan.start_timeout_ms);
  Result<net::Dialed> dialed = net::dial_and_wait(dial);
  if (!dialed.ok()) {
    return Status(dialed.status().code(),
                  "the launcher cannot be reached from there: " + dialed.status().message() +
                      "; --network-interfaces chooses its address");
  }
  // Nothing is said on it, so that it needs no TLS any more.
  net::Socket socket = std::move(dialed->stream.socket());
  keep_alive(socket.fd(), plan.host_silence_s);
  return socket;
}

Status enter(const AgentPlan& plan) {
  for (const auto& [name, value] : plan.variables) {
    if (name == "PATH") ::setenv("PATH", value.c_str(), 1);  // where the program is looked up
  }
  if (::chdir(plan.directory.c_str()) == 0) return Status();
  return Status(StatusCode::kUnavailable,
                "the working directory \"" + plan.directory +
                    "\" cannot be entered there: " + std::strerror(errno));
}

bool is_pipe(int descriptor) {
  struct stat info {};
  return ::fstat(descriptor, &info) == 0 && (S_ISFIFO(info.st_mode) || S_ISSOCK(info.st_mode));
}

// srun that holds nothing back (--unbuffered) gives its task a terminal to write to. Bytes must
// come through it as they are.
bool is_raw_terminal_of_srun(int descriptor) {
  termios settings{};
  if (std::getenv("SLURM_STEP_ID") == nullptr || ::tcgetattr(descriptor, &settings) != 0) {
    return false;
  }
  ::cfmakeraw(&settings);
  return ::tcsetattr(descriptor, TCSANOW, &settings) == 0;
}

// Takes a standard stream away from whoever might print, or be started later.
Descriptor take_stream(int number, int replacement) {
  Descriptor taken(::fcntl(number, F_DUPFD_CLOEXEC, 3));
  ::dup2(replacement, number);
  return taken;
}

struct Prepared {
  net::Socket store;
  PreparedJob job;
  Guard guard;
};

Result<Prepared> prepare(const AgentPlan& plan, const AgentOptions& options) {
  Prepared prepared;
  if (Status status = enter(plan); !status.ok()) return status;
  Result<net::Socket> store = connect_to_store(plan);
  if (!store.ok()) return store.status();
  prepared.store = std::move(*store);
  // The ranks listen where the launcher was reached from.
  Result<PreparedJob> job = prepare_ranks(plan, prepared.store.local_address().host());
  if (!job.ok()) return job.status();
  prepared.job = std::move(*job);
  prepared.job.plan.signal_mask = options.signal_mask;
  prepared.job.plan.open_files = options.open_files;
  Result<Guard> guard = fork_guard(&prepared.job, options.title);
  if (!guard.ok()) return guard.status();
  prepared.guard = std::move(*guard);
  return prepared;
}

}  // namespace

int run_agent(const AgentOptions& options) {
  if (!is_pipe(STDIN_FILENO) ||
      !(is_pipe(STDOUT_FILENO) || is_raw_terminal_of_srun(STDOUT_FILENO))) {
    std::fprintf(stderr, "khorusrun: --agent is started by khorusrun on another host\n");
    return 2;
  }
  ::signal(SIGPIPE, SIG_IGN);
  const Descriptor nothing(::open("/dev/null", O_RDWR | O_CLOEXEC));
  Descriptor from_launcher = take_stream(STDIN_FILENO, nothing.get());
  Descriptor to_launcher = take_stream(STDOUT_FILENO, STDERR_FILENO);
  const AgentHello hello{KHORUS_VERSION_STRING, host_name(), launcher_address()};
  if (!write_message(to_launcher.get(), encode(AgentMessage(hello))).ok()) return 1;
  Result<AgentPlan> plan = receive_plan(from_launcher.get(), options.patience);
  if (!plan.ok()) {
    std::fprintf(stderr, "khorusrun --agent: no plan: %s\n", plan.status().message().c_str());
    return 1;
  }
  Result<Prepared> prepared = prepare(*plan, options);
  if (!prepared.ok()) {
    const AgentRefused refused{prepared.status().message()};
    // A launcher that is gone needs no answer.
    static_cast<void>(write_message(to_launcher.get(), encode(AgentMessage(refused))));
    return 1;
  }
  AgentJob job({std::move(prepared->job), std::move(prepared->guard), std::move(prepared->store),
                std::move(from_launcher), std::move(to_launcher)});
  return job.run(plan->store);
}

}  // namespace khorus::launch

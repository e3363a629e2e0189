// What the launcher and its agents on other hosts say to each other; see agent.h for the order.
//
// The agent's messages: hello, refused, notice, event, output, page. The launcher's: plan, command,
// credit. Both ends are the same version of khorusrun, which the hello makes sure of; every string
// and count is bounded all the same. Values; pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "core/base/status_page.h"
#include "core/launch/guard.h"
#include "core/net/job_key.h"

namespace khorus::launch {

// Output that an agent may send before the launcher has found a reader for it.
inline constexpr size_t kOutputWindowBytes = size_t{1} << 20;

// The agent's first word.
struct AgentHello {
  std::string version;   // of khorusrun
  std::string host;      // its name
  std::string launcher;  // the launcher's address as seen from there (SSH_CONNECTION); may be empty
};

// The agent cannot start the ranks; it ends.
struct AgentRefused {
  std::string why;
};

// What was set for the user.
struct AgentNotice {
  std::string text;
};

struct AgentOutput {
  int32_t rank = -1;  // of the host's ranks, from 0 on, as in every message
  bool is_error = false;
  std::string bytes;
};

struct AgentPage {
  int32_t rank = -1;
  base::StatusPageContents contents;
};

using AgentMessage =
    std::variant<AgentHello, AgentRefused, AgentNotice, GuardEvent, AgentOutput, AgentPage>;

// All the agent needs to start its ranks.
struct AgentPlan {
  std::string job_id;
  net::JobKey key;
  std::string store;      // host:port
  std::string directory;  // to work in
  std::vector<std::pair<std::string, std::string>> variables;
  std::vector<std::string> program;  // and its arguments
  int32_t first_rank = 0, ranks = 0, size = 0;
  int32_t host_index = 0, hosts = 0;
  int32_t restarts = 0;
  int64_t start_timeout_ms = 0;
  int32_t host_silence_s = 0;  // SshOptions::silence_s
  bool tls = false;            // whether the store speaks TLS
};

struct AgentCredit {
  uint64_t bytes = 0;
};

using LauncherMessage = std::variant<AgentPlan, GuardCommand, AgentCredit>;

std::vector<std::byte> encode(const AgentMessage& message);
std::vector<std::byte> encode(const LauncherMessage& message);
// Nothing: it is none.
std::optional<AgentMessage> decode_agent_message(std::span<const std::byte> bytes);
std::optional<LauncherMessage> decode_launcher_message(std::span<const std::byte> bytes);

}  // namespace khorus::launch

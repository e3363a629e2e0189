// AgentJob: the agent's event loop, once its ranks are planned; see agent.h.
//
// Thread rule: the only thread of its process.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/launch/agent_protocol.h"
#include "core/launch/guard.h"
#include "core/launch/job_plan.h"
#include "core/launch/message_stream.h"
#include "core/net/socket.h"
#include "core/net/watch.h"

namespace khorus::launch {

class AgentJob {
 public:
  struct Parts {
    PreparedJob job;
    Guard guard;
    net::Socket store;  // ends with the launcher; nothing is said on it
    Descriptor from_launcher, to_launcher;
  };
  explicit AgentJob(Parts parts);
  ~AgentJob();
  AgentJob(const AgentJob&) = delete;
  AgentJob& operator=(const AgentJob&) = delete;

  // Starts the ranks, returns the exit code when nothing of them is left.
  int run(const std::string& store);

 private:
  // One output stream of one rank.
  struct Pipe {
    int32_t rank = -1;
    bool is_error = false;
    net::asio::posix::stream_descriptor stream;
    bool waiting = false;
  };

  void open_pipes();
  void resume_pipes();
  void read_pipe(Pipe* pipe);
  bool pass_on(Pipe* pipe);
  void drain_pipes();

  void watch_guard();
  void on_event(const GuardEvent& event);
  void on_guard_lost();
  void watch_store();
  void on_message(std::span<const std::byte> bytes);
  void finish(int left);
  void send(const AgentMessage& message) { launcher_.send(encode(message)); }
  void command(const GuardCommand& command);
  void over(int exit_code);

  net::asio::io_context io_;
  PreparedJob job_;
  pid_t guard_pid_;
  net::asio::posix::stream_descriptor guard_socket_;
  net::Socket store_;
  net::Watch store_watch_;
  MessageStream launcher_;
  std::vector<std::unique_ptr<Pipe>> pipes_;
  std::vector<bool> running_;  // by rank
  size_t credit_ = kOutputWindowBytes;
  bool finished_ = false;  // all has been said; what is left is to write it
  bool over_ = false;
  int exit_code_ = 0;
};

}  // namespace khorus::launch

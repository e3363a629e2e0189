// RemoteHost: the launcher's side of the agent on one other host: the ssh to it, and what came.
//
// Thread rule: the launcher's thread.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "core/launch/agent_protocol.h"
#include "core/launch/job_plan.h"
#include "core/launch/message_stream.h"
#include "core/launch/rank_stream.h"

namespace khorus::launch {

class RemoteHost {
 public:
  struct Events {
    std::function<void()> on_hello;
    std::function<void(const std::string& text)> on_notice;
    // Ranks are those of the host, from 0 on; checked.
    std::function<void(const GuardEvent& event)> on_event;
    std::function<void(const AgentOutput& output)> on_output;
    std::function<void(const AgentPage& page)> on_page;
    // What the agent says is why it cannot start its ranks, or is nonsense. It ends.
    std::function<void(const std::string& why)> on_refused;
  };

  // `standard_error` shows what ssh says.
  RemoteHost(net::asio::io_context* io, CarrierEnds ends, int ranks, OutputWriter* standard_error,
             Events events);
  RemoteHost(const RemoteHost&) = delete;
  RemoteHost& operator=(const RemoteHost&) = delete;

  const std::string& name() const noexcept { return host_.name; }
  const std::optional<AgentHello>& hello() const noexcept { return hello_; }
  bool is_over() const noexcept { return over_; }

  void send(const LauncherMessage& message);
  // This much output has found its reader, or will: it is granted again by grant().
  void owe(size_t bytes) { owed_ += bytes; }
  void grant();
  // Goes on reading what ssh says.
  void resume() { words_.resume(); }
  // Its ssh has ended: takes what is left.
  void end();
  // What ssh said last; may be empty.
  const std::string& last_words() const noexcept { return words_.last_line(); }

 private:
  void on_message(std::span<const std::byte> bytes);
  void take(const AgentHello& hello);
  void take(const AgentRefused& refused) { events_.on_refused(refused.why); }
  void take(const AgentNotice& notice) { events_.on_notice(notice.text); }
  void take(const GuardEvent& event);
  void take(const AgentOutput& output);
  void take(const AgentPage& page);
  bool has_rank(int32_t rank) const { return rank >= 0 && rank < ranks_; }

  const Host host_;
  const int ranks_;
  Events events_;
  std::optional<AgentHello> hello_;
  MessageStream stream_;
  RankStream words_;  // ssh's standard error
  size_t owed_ = 0;
  bool over_ = false;
};

}  // namespace khorus::launch

// The other hosts of a job; see job.h and agent.h.
#include <sys/wait.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "core/launch/job.h"
#include "core/net/address.h"

namespace khorus::launch {

using net::ErrorCode;

namespace {

// Between the last rank's end and that of the last ssh: SIGTERM and SIGKILL for what ranks left.
constexpr auto kFinishBound = std::chrono::seconds(40);
constexpr int kNotFound = 127;  // a shell's exit code

// Where this machine is reached from a host: as its ssh server sees us, or, behind address
// translation or without ssh, by our own route to it.
Result<std::string> address_for(const RemoteHost& host) {
  const std::string& seen = host.hello()->launcher;
  if (!seen.empty() && net::interface_address(seen).ok()) return seen;
  const bool v6 = host.name().find(':') != std::string::npos;
  const auto peer = net::resolve((v6 ? "[" + host.name() + "]" : host.name()) + ":1");
  if (!peer.ok()) return peer.status();
  const Result<net::Address> route = net::address_towards(peer->front());
  if (!route.ok()) return route.status();
  return route->host();
}

std::string describe_carrier_end(const std::string& carrier, const RemoteHost& host,
                                 int wait_status) {
  std::string text = carrier + " ended with " + describe_end(wait_status);
  if (!host.last_words().empty()) text += ": " + host.last_words();
  if (!host.hello() && exit_code_of(wait_status) == kNotFound) {
    text += "; --remote-launcher says where khorusrun is there";
  }
  return text;
}

}  // namespace

void Job::open_remotes() {
  auto carrier = job_.carriers.begin();
  for (const HostRanks& place : job_.hosts) {
    if (place.host.here) continue;
    remotes_.push_back({place, nullptr, "", false});
    for (int i = 0; i < place.count; ++i) {
      ranks_[static_cast<size_t>(place.first + i)].outcome.host = place.host.name;
    }
  }
  for (Remote& remote : remotes_) {
    Remote* const that = &remote;
    const auto rank_of = [that](int32_t rank) {
      return static_cast<size_t>(that->place.first + rank);
    };
    RemoteHost::Events events;
    events.on_hello = [this, that] { say_if_verbose("host " + that->link->name() + " answers"); };
    events.on_notice = [this, that](const std::string& text) {
      if (std::exchange(job_.notice, text).empty()) say("khorusrun: " + text);
    };
    events.on_event = [this, that](const GuardEvent& event) { on_remote_event(that, event); };
    events.on_output = [this, that](const AgentOutput& output) { on_remote_output(*that, output); };
    events.on_page = [this, rank_of](const AgentPage& page) {
      ranks_[rank_of(page.rank)].outcome.page = page.contents;
    };
    events.on_refused = [this, that](const std::string& why) { on_remote_refused(that, why); };
    remote.link = std::make_unique<RemoteHost>(&io_, std::move(*carrier++), remote.place.count,
                                               error_.get(), std::move(events));
    ++carriers_;
  }
}

Status Job::wait_for_remotes() {
  const auto silent = [](const Remote& remote) { return !remote.link->hello(); };
  net::asio::steady_timer patience(io_, job_.start_timeout);
  patience.async_wait([&](ErrorCode error) {
    if (error) return;
    std::string names;
    for (const Remote& remote : remotes_) {
      if (!silent(remote)) continue;
      names += (names.empty() ? "" : ", ") + remote.place.host.name;
      if (!remote.link->last_words().empty()) names += " (" + remote.link->last_words() + ")";
    }
    meeting_failure_ = Status(StatusCode::kTimeout,
                              "no answer within " + std::to_string(job_.start_timeout.count()) +
                                  " ms from " + names + "; see whether " + options_.ssh.name() +
                                  " reaches it, or raise --start-timeout");
  });
  while (meeting_failure_.ok() && std::ranges::any_of(remotes_, silent)) io_.run_one();
  return meeting_failure_;
}

Result<std::string> Job::store_address() const {
  if (remotes_.empty()) return std::string("127.0.0.1");
  if (!job_.network_interface.empty()) {
    const Result<net::Address> named = net::interface_address(job_.network_interface);
    if (!named.ok()) return named.status();
    return named->host();
  }
  std::set<std::string> addresses;
  std::string who;
  for (const Remote& remote : remotes_) {
    const Result<std::string> address = address_for(*remote.link);
    if (!address.ok()) return address.status();
    addresses.insert(*address);
    who += (who.empty() ? "" : ", ") + remote.place.host.name + " by " + *address;
  }
  if (addresses.size() == 1) return *addresses.begin();
  return Status(StatusCode::kInvalidArgument, "the hosts reach this one by different addresses (" +
                                                  who + "); --network-interfaces chooses one");
}

void Job::start_remotes(const std::string& store) {
  if (remotes_.empty()) return;
  for (const Remote& remote : remotes_) {
    AgentPlan plan;
    plan.job_id = job_.job_id;
    plan.key = job_.key;
    plan.store = store;
    std::error_code ignored;  // an empty directory is refused there, by name
    plan.directory = std::filesystem::current_path(ignored).string();
    plan.variables = job_.forwarded;
    plan.program = options_.program;
    plan.first_rank = remote.place.first;
    plan.ranks = remote.place.count;
    plan.size = options_.processes;
    const auto same = [&](const HostRanks& ranks) { return ranks.first == remote.place.first; };
    plan.host_index =
        static_cast<int32_t>(std::ranges::find_if(job_.hosts, same) - job_.hosts.begin());
    plan.hosts = static_cast<int32_t>(job_.hosts.size());
    plan.start_timeout_ms = job_.start_timeout.count();
    plan.restarts = options_.restarts;
    plan.host_silence_s = options_.ssh.silence_s;
    plan.tls = job_.tls;
    remote.link->send(plan);
  }
}

void Job::tell_remotes(const GuardCommand& command) {
  for (const Remote& remote : remotes_) {
    if (!remote.link->is_over()) remote.link->send(command);
  }
}

// To the guard that has this rank.
void Job::command_for(size_t rank, GuardCommand command) {
  const int number = static_cast<int>(rank);
  for (const Remote& remote : remotes_) {
    if (number < remote.place.first || number >= remote.place.first + remote.place.count) continue;
    command.rank = number - remote.place.first;
    return remote.link->send(command);
  }
  command.rank = number - static_cast<int>(first_here_);
  this->command(command);
}

void Job::on_remote_event(Remote* remote, const GuardEvent& event) {
  const auto rank = static_cast<size_t>(remote->place.first + std::max(0, event.rank));
  switch (event.kind) {
    case GuardEvent::Kind::kStarted:
      return on_started(rank, event.pid);
    case GuardEvent::Kind::kNotForked:
      return on_not_forked(rank, event.status);
    case GuardEvent::Kind::kEnded:
      return on_ended(rank, event.status);
    case GuardEvent::Kind::kCarrierEnded:
      return;  // an agent has none
    case GuardEvent::Kind::kFinished:
      left_over_ += event.status;
      remote->finished = true;
  }
}

void Job::on_remote_output(const Remote& remote, const AgentOutput& output) {
  const Rank& rank = ranks_[static_cast<size_t>(remote.place.first + output.rank)];
  RankStream* const stream =
      output.is_error ? rank.standard_error.get() : rank.standard_output.get();
  stream->feed(output.bytes);
  remote.link->owe(output.bytes.size());
  if (!backed_up()) remote.link->grant();
}

void Job::on_remote_refused(Remote* remote, const std::string& why) {
  remote->refusal = why;
  const std::string text = "host " + remote->place.host.name + ": " + why;
  if (state_ == State::kMeeting) meeting_failure_ = Status(StatusCode::kUnavailable, text);
  if (state_ == State::kRunning) lose(*remote, text);
}

void Job::on_carrier_ended(Remote* remote, int wait_status) {
  remote->link->end();
  --carriers_;
  const std::string how = describe_carrier_end(options_.ssh.name(), *remote->link, wait_status);
  const std::string name = "host " + remote->place.host.name;
  if (state_ == State::kMeeting && meeting_failure_.ok()) {
    meeting_failure_ = Status(StatusCode::kUnavailable, name + " cannot be used: " + how);
  }
  if (!remote->finished && remote->refusal.empty()) {
    if (state_ == State::kRunning) lose(*remote, name + " is lost: " + how);
    if (state_ == State::kFinishing) {
      say("khorusrun: " + name + " is lost: " + how + "; its agent ends what the ranks left");
    }
  }
  if (state_ == State::kFinishing && carriers_ == 0) {
    grace_.cancel();
    command({.kind = GuardCommand::Kind::kFinish});
  }
}

// Its ranks count as failed: nobody knows. Its agent kills them when it sees that we are gone.
void Job::lose(const Remote& remote, const std::string& why) {
  bool any = false;
  for (int i = 0; i < remote.place.count; ++i) {
    const auto index = static_cast<size_t>(remote.place.first + i);
    if (!ranks_[index].running) continue;
    any = true;
    ranks_[index].outcome.lost = why;
    note_end(index, W_EXITCODE(255, 0));
  }
  if (any) after_end(true);
}

void Job::finish_remotes() {
  tell_remotes({.kind = GuardCommand::Kind::kFinish});
  grace_.expires_after(kFinishBound);
  grace_.async_wait([this](ErrorCode error) {
    if (error) return;
    for (const Remote& remote : remotes_) {
      if (remote.link->is_over()) continue;
      say("khorusrun: host " + remote.place.host.name +
          " does not end; its connection is closed, at which its agent kills what is left");
    }
    command({.kind = GuardCommand::Kind::kFinish});
  });
}

}  // namespace khorus::launch

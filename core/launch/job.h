// Job: the launcher's event loop: output, signals, the guard's messages, and when to end what.
//
// One thread, one io_context. meet_hosts() waits for the agents on other hosts; the ranks are
// started by run() and are over, with everything that came from them, when it returns.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "core/launch/guard.h"
#include "core/launch/output_writer.h"
#include "core/launch/rank_stream.h"
#include "core/launch/remote_host.h"
#include "core/launch/verdict.h"
#include "core/net/store.h"

namespace khorus::launch {

class Job {
 public:
  // `job.plan` has gone to the guard.
  Job(const LaunchOptions& options, PreparedJob job, Guard guard);
  ~Job();
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;

  // Waits until every other host has answered. Returns the address of this machine on which to
  // serve the store: loopback when all ranks are here. Otherwise the error names the hosts, or the
  // log file that cannot be made; abandon() must follow. REQUIRES: the signals of handled_signals()
  // are blocked.
  Result<std::string> meet_hosts();
  // Ends a job that cannot start, says why, and returns the exit code.
  int abandon(const Status& why);
  // Runs the job to its end, says what there is to say, and returns the exit code. `store` is the
  // address of the job's store.
  int run(const std::string& store);

 private:
  enum class State { kMeeting, kRunning, kFinishing, kOver };
  struct Rank {
    bool running = false;
    bool ended = false;
    std::unique_ptr<RankStream> standard_output, standard_error;
    RankOutcome outcome;
  };
  // Another host, with its ranks.
  struct Remote {
    HostRanks place;
    std::unique_ptr<RemoteHost> link;
    std::string refusal;    // why its agent could not start the ranks, in its words
    bool finished = false;  // nothing of its ranks is left
  };

  Status open_streams();
  Status name_speakers(bool with_prefix, size_t child, RankStream::Options* output,
                       RankStream::Options* error);
  Status open_logs(size_t rank, Descriptor* standard_output, Descriptor* standard_error);
  void resume_streams();

  void open_remotes();
  Status wait_for_remotes();
  Result<std::string> store_address() const;
  void start_remotes(const std::string& store);
  void tell_remotes(const GuardCommand& command);
  void command_for(size_t rank, GuardCommand command);
  void on_remote_event(Remote* remote, const GuardEvent& event);
  void on_remote_output(const Remote& remote, const AgentOutput& output);
  void on_remote_refused(Remote* remote, const std::string& why);
  void on_carrier_ended(Remote* remote, int wait_status);
  void lose(const Remote& remote, const std::string& why);
  void finish_remotes();

  void watch_guard();
  void on_event(const GuardEvent& event);
  void on_started(size_t rank, int pid);
  void on_not_forked(size_t rank, int error);
  void on_ended(size_t rank, int wait_status);
  void note_end(size_t rank, int wait_status);
  void after_end(bool failed);
  void on_guard_lost();
  Status open_store(const std::string& address);
  bool restart(size_t rank, int wait_status);
  void note_ended(size_t rank);
  void tell_end(size_t rank);
  void end_round(size_t rank);
  std::string place_of(size_t rank) const;
  void command(const GuardCommand& command);

  void watch_signals();
  void on_signal(int signal);
  void stop_after_grace(int signal);
  void stop(int signal);
  void finish();

  int conclude();
  std::string name_of(size_t rank) const;
  void say(const std::string& line);
  void say_if_verbose(const std::string& line);
  bool backed_up() const;

  const LaunchOptions options_;
  PreparedJob job_;
  Guard guard_;
  net::asio::io_context io_;
  net::asio::posix::stream_descriptor guard_socket_;
  net::asio::posix::stream_descriptor signals_;
  net::asio::steady_timer grace_;
  // One writer when standard output and error are the same file, so that their lines do not mix.
  std::unique_ptr<OutputWriter> output_, error_;
  std::vector<Rank> ranks_;
  size_t first_here_ = 0;  // the first rank of this machine
  std::vector<Remote> remotes_;
  size_t carriers_ = 0;  // that have not ended
  Status meeting_failure_;
  std::string network_interface_;  // for the ranks here, if the user named none
  size_t running_ = 0;
  int ended_ = 0;
  int restarts_ = 0;
  std::unique_ptr<net::Store> store_;  // null: it is gone, or ranks are mpirun's
  uint64_t next_end_ = 0;              // core/net/ended_ranks.h
  uint64_t last_round_ = 0;            // core/net/rounds.h: that this launcher has begun
  State state_ = State::kMeeting;
  bool grace_running_ = false;
  bool stopping_ = false;   // because a rank failed
  int interrupted_by_ = 0;  // the user's first signal
  bool interrupted_first_ = false;
  bool guard_lost_ = false;
  int left_over_ = 0;
};

// SIGINT, SIGTERM and SIGHUP as far as they are not ignored (nohup, background), and SIGCHLD.
sigset_t handled_signals();

}  // namespace khorus::launch

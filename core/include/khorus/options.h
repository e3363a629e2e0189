// Options: where this process stands in the job, and how the engine behaves.
//
// Config is filled from one table, core/base/config_table.cc: the table names every knob, its
// type, unit, default, environment variable, launcher flag and sentence. Parsing, `--help` and
// docs/knobs.md come from that table.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "khorus/export.h"
#include "khorus/status.h"
#include "khorus/types.h"

namespace khorus {

// This process's place in the job. Ranks are numbered 0 .. size-1; a host's ranks are contiguous.
struct Place {
  int rank = 0;
  int size = 1;
  int local_rank = 0;  // among the ranks of this host
  int local_size = 1;
  int cross_rank = 0;  // the host's index
  int cross_size = 1;
  bool operator==(const Place&) const = default;
};

enum class LogLevel : uint8_t { kTrace, kDebug, kInfo, kWarning, kError, kFatal };

// Every knob, parsed. Defaults are those of the table.
struct KHORUS_API Config {
  // Fusion and negotiation
  int64_t fusion_threshold_bytes = 64 << 20;
  double cycle_time_ms = 1.0;
  int64_t cache_capacity = 4096;
  int64_t control_fan_in = 8;
  int64_t max_in_flight = 2;
  bool autotune = false;  // looks for the best of the two above while the job runs (rank 0)
  std::string autotune_log;
  int64_t autotune_warmup_samples = 3;
  int64_t autotune_steps_per_sample = 10;
  int64_t autotune_max_samples = 20;
  // Place and meeting
  int64_t rank = -1, size = -1, local_rank = -1, local_size = -1, cross_rank = -1, cross_size = -1;
  std::string launcher;    // who else gave the place: "mpirun (Open MPI)"; empty: our variables
  std::string store;       // "host:port" of the rendezvous store
  std::string job_id;      // names the job in the store and in handshakes
  int64_t key_fd = -1;     // descriptor from which the job key (32 bytes) is read, then closed
  std::string key_file;    // file with the job key as 64 hex digits
  int64_t status_fd = -1;  // descriptor of this rank's status page (core/base/status_page.h)
  std::string network_interface;
  bool tls = false;  // control messages travel under TLS; the same on all ranks
  double start_timeout_s = 30;
  double shutdown_timeout_s = 30;
  // Data plane
  std::string backend;       // "auto", "local", "gloo", ...
  std::string backend_path;  // extra directory with backend plugins
  double gloo_timeout_s = 300;
  // Watching
  double liveness_timeout_s = 1;  // 0: not watched
  bool stall_check_disable = false;
  double stall_warning_s = 60;
  double stall_shutdown_s = 0;            // 0: never
  bool stack_dumps = false;               // a rank that others wait for logs its stacks
  std::string straggler_report = "auto";  // or "always", "never"
  std::string timeline;                   // path; rank 0 writes it, rank r writes PATH.r
  bool timeline_mark_cycles = false;
  std::string metrics_file;       // Prometheus text; rank 0 writes it, rank r writes PATH.r
  std::string metrics_json_file;  // a line of JSON per interval; ranks as above
  double metrics_interval_s = 10;
  int64_t flight_recorder_entries = 2000;  // the last operations that are kept; 0: none
  std::string flight_recorder_path;        // a failed engine of rank r dumps them to PATHr
  std::string error_file;                  // torchrun's, which gets the failure of the engine
  LogLevel log_level = LogLevel::kWarning;
  bool log_hide_time = false;

  // Reads every knob from the environment (KHORUS_X, else HOROVOD_X where it means the same).
  // InvalidArgument names the variable, its value and what was expected. An unknown KHORUS_* name
  // is logged as a warning with the nearest known one.
  static Result<Config> from_environment();
  // The same from a map of variables, for tests; unknown names are appended to `warnings`.
  static Result<Config> from_map(const std::map<std::string, std::string>& variables,
                                 std::vector<std::string>* warnings = nullptr);
};

// A world of N engines in one process: what they need to find each other. Create one, give it to
// N EngineOptions with ranks 0 .. N-1, and create the engines from N threads. May be used for one
// generation of engines at a time. Thread-safe.
class InProcessWorld;
KHORUS_API std::shared_ptr<InProcessWorld> make_in_process_world(int size);

// What a process remembers of its jobs from one engine to the next: the job key, which may be
// readable only once, and how often it has joined. Needed by who makes several engines of one TCP
// job one after the other; the default engine has its own. Thread-safe.
class JobSession;
KHORUS_API std::shared_ptr<JobSession> make_job_session();

struct KHORUS_API EngineOptions {
  Place place;
  Config config;
  // Set: the ranks are threads of this process and talk through it. Not set: TCP.
  std::shared_ptr<InProcessWorld> world;
  // Not set: a fresh one.
  std::shared_ptr<JobSession> session;
  // Process sets to begin with (see Engine::add_process_set): ids 1, 2, ... in this order. The same
  // on every rank.
  std::vector<std::vector<int>> process_sets;
  // Gives the stacks of an interpreter in this process, such as Python's, for Config::stack_dumps;
  // may be empty. Called on a thread of Khorus; must not need a lock that a stuck thread may hold.
  std::function<std::string()> interpreter_stacks;

  // Place and config from the environment: what khorus::init() uses.
  static Result<EngineOptions> from_environment();
};

}  // namespace khorus

// The knobs themselves; see config_table.h. Sentences end up in `khorusrun --help` and in
// docs/knobs.md, which tests/launch keeps equal to this table.
#include "core/base/config_table.h"

namespace khorus::base {
namespace {

using enum KnobType;
using enum KnobSection;

// clang-format off
constexpr Knob kKnobs[] = {
    // Fusion and negotiation
    {.name = "FUSION_THRESHOLD", .horovod = "FUSION_THRESHOLD", .type = kBytes, .standard = "64MiB",
     .flag = "fusion-threshold-mb", .flag_unit = "MiB", .section = kNegotiation,
     .sentence = "Tensors are fused into one operation up to this many bytes; 0 turns fusion off.",
     .member = &Config::fusion_threshold_bytes, .minimum = 0},
    {.name = "CYCLE_TIME", .horovod = "CYCLE_TIME", .type = kMilliseconds, .standard = "1",
     .flag = "cycle-time-ms", .section = kNegotiation,
     .sentence = "Longest time that a tensor waits for others to be fused with.",
     .member = &Config::cycle_time_ms, .minimum = 0},
    {.name = "CACHE_CAPACITY", .horovod = "CACHE_CAPACITY", .type = kInteger, .standard = "4096",
     .flag = "cache-capacity", .section = kNegotiation,
     .sentence = "How many negotiated operations are remembered; 0 turns the response cache off.",
     .member = &Config::cache_capacity, .minimum = 0},
    {.name = "CONTROL_FAN_IN", .type = kInteger, .standard = "8", .section = kNegotiation,
     .sentence = "Children of each rank in the control tree.",
     .member = &Config::control_fan_in, .minimum = 1},
    {.name = "MAX_IN_FLIGHT", .type = kInteger, .standard = "2", .section = kNegotiation,
     .sentence = "How many negotiated operations may run on the data plane before the next is sent.",
     .member = &Config::max_in_flight, .minimum = 1},
    {.name = "AUTOTUNE", .horovod = "AUTOTUNE", .type = kBool, .standard = "0", .flag = "autotune",
     .section = kNegotiation,
     .sentence = "Looks for the fusion threshold and the time above that move most bytes per second, "
                 "while the job runs.",
     .member = &Config::autotune},
    {.name = "AUTOTUNE_LOG", .horovod = "AUTOTUNE_LOG", .type = kText, .flag = "autotune-log-file",
     .section = kNegotiation,
     .sentence = "File to which rank 0 writes the tuner's samples, as comma-separated values.",
     .member = &Config::autotune_log},
    {.name = "AUTOTUNE_WARMUP_SAMPLES", .horovod = "AUTOTUNE_WARMUP_SAMPLES", .type = kInteger,
     .standard = "3", .flag = "autotune-warmup-samples", .section = kNegotiation,
     .sentence = "Samples that the tuner discards at the beginning.",
     .member = &Config::autotune_warmup_samples, .minimum = 0},
    {.name = "AUTOTUNE_STEPS_PER_SAMPLE", .horovod = "AUTOTUNE_STEPS_PER_SAMPLE", .type = kInteger,
     .standard = "10", .flag = "autotune-steps-per-sample", .section = kNegotiation,
     .sentence = "Steps in one of the tuner's samples; a step ends where an operation comes again.",
     .member = &Config::autotune_steps_per_sample, .minimum = 1},
    {.name = "AUTOTUNE_BAYES_OPT_MAX_SAMPLES", .horovod = "AUTOTUNE_BAYES_OPT_MAX_SAMPLES",
     .type = kInteger, .standard = "20", .flag = "autotune-bayes-opt-max-samples",
     .section = kNegotiation,
     .sentence = "The tuner's largest number of samples (it is a pattern search; the name is "
                 "Horovod's).",
     .member = &Config::autotune_max_samples, .minimum = 0},

    // Place and meeting
    {.name = "RANK", .horovod = "RANK", .type = kInteger, .standard = "-1", .section = kPlace,
     .sentence = "This process's rank in the job; khorusrun sets it. -1: not given.",
     .member = &Config::rank, .minimum = -1},
    {.name = "SIZE", .horovod = "SIZE", .type = kInteger, .standard = "-1", .section = kPlace,
     .sentence = "Number of ranks in the job; khorusrun sets it. -1: not given.",
     .member = &Config::size, .minimum = -1},
    {.name = "LOCAL_RANK", .horovod = "LOCAL_RANK", .type = kInteger, .standard = "-1",
     .section = kPlace, .sentence = "This process's rank among those of its host; khorusrun sets it.",
     .member = &Config::local_rank, .minimum = -1},
    {.name = "LOCAL_SIZE", .horovod = "LOCAL_SIZE", .type = kInteger, .standard = "-1",
     .section = kPlace, .sentence = "Number of ranks on this host; khorusrun sets it.",
     .member = &Config::local_size, .minimum = -1},
    {.name = "CROSS_RANK", .horovod = "CROSS_RANK", .type = kInteger, .standard = "-1",
     .section = kPlace, .sentence = "The index of this host; khorusrun sets it.",
     .member = &Config::cross_rank, .minimum = -1},
    {.name = "CROSS_SIZE", .horovod = "CROSS_SIZE", .type = kInteger, .standard = "-1",
     .section = kPlace, .sentence = "Number of hosts; khorusrun sets it.",
     .member = &Config::cross_size, .minimum = -1},
    {.name = "STORE", .type = kText, .section = kPlace,
     .sentence = "host:port of the store where the ranks meet; khorusrun sets it. Under another "
                 "launcher rank 0 serves it there.",
     .member = &Config::store},
    {.name = "LAUNCHER", .type = kText, .section = kPlace,
     .sentence = "Who gave this rank its place, if not khorusrun, which serves the store: rank 0 "
                 "serves it then. khorus.ray and khorus.dask set it.",
     .member = &Config::launcher},
    {.name = "JOB_ID", .type = kText, .section = kPlace,
     .sentence = "Names the job in the store and in handshakes; khorusrun sets it.",
     .member = &Config::job_id},
    {.name = "KEY_FD", .type = kInteger, .standard = "-1", .section = kPlace,
     .sentence = "Open descriptor from which the 32 bytes of the job key are read, after which it is "
                 "closed; khorusrun sets it.",
     .member = &Config::key_fd, .minimum = -1},
    {.name = "KEY_FILE", .type = kText, .section = kPlace,
     .sentence = "File that holds the job key as 64 hexadecimal digits, for launchers other than "
                 "khorusrun.",
     .member = &Config::key_file},
    {.name = "STATUS_FD", .type = kInteger, .standard = "-1", .section = kPlace,
     .sentence = "Open descriptor of the page where a rank leaves its last operation for the "
                 "launcher's failure summary; khorusrun sets it.",
     .member = &Config::status_fd, .minimum = -1},
    {.name = "NETWORK_INTERFACE", .horovod = "GLOO_IFACE", .type = kText,
     .flag = "network-interfaces", .section = kPlace,
     .sentence = "Name or address of the network interface to listen on and to connect from; empty: "
                 "chosen, loopback when all ranks are on one host.",
     .member = &Config::network_interface},
    {.name = "TLS", .type = kBool, .standard = "0", .flag = "tls", .section = kPlace,
     .sentence = "Control messages (names, shapes, errors) travel under TLS 1.3, with a key made of the "
                 "job key; the same for khorusrun and all ranks.",
     .member = &Config::tls},
    {.name = "START_TIMEOUT", .horovod = "START_TIMEOUT", .type = kSeconds, .standard = "30",
     .flag = "start-timeout", .section = kPlace,
     .sentence = "How long init() waits for all ranks to be there.",
     .member = &Config::start_timeout_s, .minimum = 0},
    {.name = "SHUTDOWN_TIMEOUT", .type = kSeconds, .standard = "30", .section = kPlace,
     .sentence = "How long shutdown() waits for the other ranks to drain.",
     .member = &Config::shutdown_timeout_s, .minimum = 0},

    // Data plane
    {.name = "BACKEND", .horovod = "CPU_OPERATIONS", .type = kName, .standard = "",
     .flag = "backend", .section = kData,
     .sentence = "What moves the data: auto (also the empty default), local, shm, gloo, mpi.",
     .member = &Config::backend},
    {.name = "BACKEND_PATH", .type = kText, .section = kData,
     .sentence = "A further folder in which to look for backend plugins.",
     .member = &Config::backend_path},
    {.name = "GLOO_TIMEOUT_SECONDS", .horovod = "GLOO_TIMEOUT_SECONDS", .type = kSeconds,
     .standard = "300", .flag = "gloo-timeout-seconds", .section = kData,
     .sentence = "Longest time that gloo and shm wait for a silent peer.",
     .member = &Config::gloo_timeout_s, .minimum = 0},

    // Watching
    {.name = "LIVENESS_TIMEOUT", .type = kSeconds, .standard = "1", .flag = "liveness-timeout",
     .section = kWatching,
     .sentence = "A rank that is stopped, or whose host or network is silent, is lost within this "
                 "time, of which 0.5 s are the least; 0: never.",
     .member = &Config::liveness_timeout_s, .minimum = 0},
    {.name = "STALL_CHECK_DISABLE", .horovod = "STALL_CHECK_DISABLE", .type = kBool, .standard = "0",
     .flag = "no-stall-check", .section = kWatching,
     .sentence = "Do not report tensors that some ranks submitted and others did not.",
     .member = &Config::stall_check_disable},
    {.name = "STALL_CHECK_TIME_SECONDS", .horovod = "STALL_CHECK_TIME_SECONDS", .type = kSeconds,
     .standard = "60", .flag = "stall-check-warning-time-seconds", .section = kWatching,
     .sentence = "A tensor that waits for other ranks longer than this is reported.",
     .member = &Config::stall_warning_s, .minimum = 0},
    {.name = "STALL_SHUTDOWN_TIME_SECONDS", .horovod = "STALL_SHUTDOWN_TIME_SECONDS",
     .type = kSeconds, .standard = "0", .flag = "stall-check-shutdown-time-seconds",
     .section = kWatching,
     .sentence = "A tensor that waits longer than this ends the job; 0: never.",
     .member = &Config::stall_shutdown_s, .minimum = 0},
    {.name = "STACK_DUMPS", .type = kBool, .standard = "0", .flag = "stack-dumps",
     .section = kWatching,
     .sentence = "A rank that others wait for writes the stacks of its threads to its log, before each "
                 "stall report.",
     .member = &Config::stack_dumps},
    {.name = "STRAGGLER_REPORT", .type = kName, .standard = "auto", .flag = "straggler-report",
     .section = kWatching,
     .sentence = "Whether rank 0 says at the end whom the others waited for: always, never, or auto: "
                 "if one rank was the last in most operations and cost more than a tenth of the time.",
     .member = &Config::straggler_report},
    {.name = "TIMELINE", .horovod = "TIMELINE", .type = kText, .flag = "timeline-filename",
     .section = kWatching,
     .sentence = "Writes a Chrome trace: rank 0 to this path, rank r to PATH.r.",
     .member = &Config::timeline},
    {.name = "TIMELINE_MARK_CYCLES", .horovod = "TIMELINE_MARK_CYCLES", .type = kBool,
     .standard = "0", .flag = "timeline-mark-cycles", .section = kWatching,
     .sentence = "Marks the start of each decision round in the timeline.",
     .member = &Config::timeline_mark_cycles},
    {.name = "METRICS_FILE", .type = kText, .flag = "metrics-filename", .section = kWatching,
     .sentence = "Writes metrics as Prometheus text: rank 0 to this path, rank r to PATH.r; with "
                 "{rank} in it, each rank to its own.",
     .member = &Config::metrics_file},
    {.name = "METRICS_JSON_FILE", .type = kText, .flag = "metrics-json-filename",
     .section = kWatching,
     .sentence = "Appends metrics as one line of JSON per interval; ranks as in KHORUS_METRICS_FILE.",
     .member = &Config::metrics_json_file},
    {.name = "METRICS_INTERVAL", .type = kSeconds, .standard = "10", .flag = "metrics-interval",
     .section = kWatching,
     .sentence = "How often metrics are written, besides at the end.",
     .member = &Config::metrics_interval_s, .minimum = 0.01},
    {.name = "FLIGHT_RECORDER_ENTRIES", .type = kInteger, .standard = "2000", .section = kWatching,
     .sentence = "How many of its last operations each rank remembers for a dump; 0: none.",
     .member = &Config::flight_recorder_entries, .minimum = 0},
    {.name = "FLIGHT_RECORDER_PATH", .type = kText, .flag = "flight-recorder-path",
     .section = kWatching,
     .sentence = "When its engine fails, rank r writes its last operations as JSON to PATHr "
                 "(a prefix such as dumps/rank_); empty: nowhere.",
     .member = &Config::flight_recorder_path},
    {.name = "LOG_LEVEL", .horovod = "LOG_LEVEL", .type = kLevel, .standard = "warning",
     .flag = "log-level", .section = kWatching,
     .sentence = "The least severe log lines that are written.",
     .member = &Config::log_level},
    {.name = "LOG_HIDE_TIME", .horovod = "LOG_HIDE_TIME", .type = kBool, .standard = "0",
     .flag = "log-without-timestamp", .section = kWatching,
     .sentence = "Leaves the time of day out of log lines.",
     .member = &Config::log_hide_time},

    // Known from Horovod, without effect so far
    {.name = "HIERARCHICAL_ALLREDUCE", .horovod = "HIERARCHICAL_ALLREDUCE", .type = kBool,
     .standard = "0", .flag = "hierarchical-allreduce",
     .sentence = "Reduce inside each host before between hosts."},
    {.name = "HIERARCHICAL_ALLGATHER", .horovod = "HIERARCHICAL_ALLGATHER", .type = kBool,
     .standard = "0", .flag = "hierarchical-allgather",
     .sentence = "Gather inside each host before between hosts."},
    {.name = "AUTOTUNE_GAUSSIAN_PROCESS_NOISE", .horovod = "AUTOTUNE_GAUSSIAN_PROCESS_NOISE",
     .type = kReal, .standard = "0.8", .flag = "autotune-gaussian-process-noise",
     .sentence = "Noise that Horovod's tuner assumes; Khorus' search has no such model."},
    {.name = "THREAD_AFFINITY", .horovod = "THREAD_AFFINITY", .type = kText,
     .flag = "thread-affinity", .sentence = "Core of each local rank's background thread."},
    {.name = "CONTROLLER", .horovod = "CONTROLLER", .type = kName, .standard = "gloo",
     .sentence = "What negotiates; Khorus always uses its own control channel."},
    {.name = "NUM_NCCL_STREAMS", .horovod = "NUM_NCCL_STREAMS", .type = kInteger, .standard = "1",
     .flag = "num-nccl-streams", .sentence = "Streams for NCCL operations.", .minimum = 1},
    {.name = "DYNAMIC_PROCESS_SETS", .horovod = "DYNAMIC_PROCESS_SETS", .type = kBool,
     .standard = "0", .sentence = "Process sets may be added after init()."},
    {.name = "ENABLE_ASYNC_COMPLETION", .horovod = "ENABLE_ASYNC_COMPLETION", .type = kBool,
     .standard = "0", .sentence = "Finish device operations by events."},
    {.name = "ELASTIC_TIMEOUT", .horovod = "ELASTIC_TIMEOUT", .type = kSeconds, .standard = "600",
     .flag = "elastic-timeout", .sentence = "How long an elastic job waits for enough ranks."},
    {.name = "SECRET_KEY", .horovod = "SECRET_KEY", .type = kText,
     .sentence = "Horovod's launcher key; Khorus takes its job key from KHORUS_KEY_FD or "
                 "KHORUS_KEY_FILE only, because an environment can be read by others."},
};
// clang-format on

}  // namespace

std::span<const Knob> knobs() noexcept { return kKnobs; }

const Knob* find_knob(std::string_view name) noexcept {
  for (const Knob& knob : kKnobs) {
    if (name == knob.name) return &knob;
  }
  for (const Knob& knob : kKnobs) {
    if (!name.empty() && name == knob.horovod) return &knob;
  }
  return nullptr;
}

const Knob* find_knob_by_flag(std::string_view flag) noexcept {
  for (const Knob& knob : kKnobs) {
    if (!flag.empty() && flag == knob.flag) return &knob;
  }
  return nullptr;
}

}  // namespace khorus::base

// The table of khorusrun's flags that are no knobs; see options.h. `khorusrun --help` prints it; an
// entry without spellings is a heading there.
#include "core/launch/options.h"

namespace khorus::launch {
namespace {

using enum FlagAction;

// clang-format off
constexpr Flag kFlags[] = {
    {"-np, -n, --num-proc, --nproc-per-node", "N", kProcesses, "Number of ranks."},
    {"-H, --hosts", "HOST:SLOTS", kHosts,
     "Where to run: HOST:SLOTS,USER@HOST:SLOTS,... filled in this order. Other hosts than this one "
     "are reached with ssh, without passwords. Without -np: as many ranks as slots. Without hosts, in "
     "a Slurm allocation: its nodes, with srun."},
    {"--hostfile", "FILE", kHostfile, "The same from a file with lines \"HOST slots=SLOTS\"."},
    {"--config-file", "FILE", kConfigFile,
     "Options from a YAML file with the sections of horovodrun's; see docs/launching.md. What the "
     "command line says counts more."},
    {"-v, --verbose", "", kVerbose, "Say what the launcher does."},
    {"-h, --help", "", kHelp, "Print this text, and exit."},
    {"--version", "", kVersion, "Print the version, and exit."},
    {"-cb, --check-build", "", kCheckBuild, "Print what this installation can do, and exit."},

    {"", "", kNothing, "Output"},
    {"--output-filename, --log-dir", "DIR", kOutput,
     "Also write each rank's output to DIR/rank.R/stdout and stderr."},
    {"--prefix", "TEXT", kPrefix,
     "What stands before each line of output; {rank} is the rank. Default \"rank {rank}: \", and "
     "nothing with one rank."},
    {"--no-prefix", "", kNoPrefix, "Nothing stands before lines of output."},

    {"", "", kNothing, "When a rank fails"},
    {"--failure-grace-s", "SECONDS", kFailureGrace,
     "When a rank has failed: how long the others may take to end by themselves, and how long again "
     "between SIGTERM and SIGKILL. Default 5."},
    {"--reset-limit, --max-restarts", "N", kRestarts,
     "Start a rank that failed again, as long as none has ended well, at most N times in all. The "
     "others meet it in khorus::init() after shutdown(); khorus.torch.elastic.run does that. Default "
     "0: a failure ends the job."},

    {"", "", kNothing, "Other hosts, over ssh"},
    {"-p, --ssh-port", "PORT", kSshPort, "Of the other hosts' ssh servers."},
    {"-i, --ssh-identity-file", "FILE", kSshIdentity, "The private key for them."},
    {"-l, --ssh-user", "USER", kSshUser, "The user there, of hosts that name none."},
    {"--ssh-command", "COMMAND", kSshCommand,
     "What to run instead of ssh; it gets ssh's options: --ssh-command=\"ssh -F FILE\"."},
    {"-x, --forward", "NAME[=VALUE]", kForward,
     "Set this environment variable also for ranks on other hosts. Those of Khorus, NCCL, OpenMP, "
     "Python, PATH, LD_LIBRARY_PATH and LANG are anyway."},
    {"--remote-launcher", "PATH", kRemoteLauncher,
     "Where khorusrun is on the other hosts. Default: the same path as here."},
    {"--host-silence-s", "SECONDS", kHostSilence,
     "Give up another host when its connection has shown no sign of life for so long; the ranks "
     "there are killed as soon. Default 15."},

    {"", "", kNothing, "Other hosts, without ssh: a khorusrun on each"},
    {"--nnodes", "N", kNodes,
     "Without ssh: how many hosts run a khorusrun of their own with -np ranks each. They need the "
     "same key in KHORUS_KEY_FILE."},
    {"--node-rank", "INDEX", kNodeRank, "Of these hosts: which this is, from 0 on."},
    {"--rdzv-endpoint", "HOST:PORT", kRendezvous,
     "Of these hosts: where they meet, an address and a free port of node 0."},
    {"--master-addr", "HOST", kMasterAddress, "The host of --rdzv-endpoint."},
    {"--master-port", "PORT", kMasterPort, "The port of --rdzv-endpoint. Default 29500."},
    {"--rdzv-id", "NAME", kRendezvousId, "The job's name, the same on all of these hosts."},

    {"", "", kNothing, "Horovod and MPI"},
    {"--as-horovod", "", kAsHorovod,
     "For Python programs written for Horovod: `import horovod.torch` and its kin become Khorus."},
    {"--python-package", "DIR", kPythonPackage,
     "Where the Python package khorus is, for --as-horovod. Default: beside this program."},
    {"--mpi, --use-mpi", "", kMpi,
     "Start the ranks with Open MPI's mpirun, which must be in PATH; the data moves over MPI unless "
     "KHORUS_BACKEND or --backend says otherwise."},
    {"--mpi-args", "ARGUMENTS", kMpiArguments,
     "With --mpi: more arguments for mpirun, in one word: --mpi-args=\"--map-by socket\"."},
    {"--gloo, --use-gloo", "", kGloo, "The opposite of --mpi."},

    {"", "", kNothing, "Short for a setting below"},
    {"--disable-cache", "", kSetKnob, "Same as --cache-capacity 0.", "CACHE_CAPACITY", "0"},
    {"--no-autotune", "", kSetKnob, "The opposite of --autotune.", "AUTOTUNE", "0"},
    {"--stall-check", "", kSetKnob, "The opposite of --no-stall-check.", "STALL_CHECK_DISABLE", "0"},
    {"--log-with-timestamp", "", kSetKnob, "The opposite of --log-without-timestamp.",
     "LOG_HIDE_TIME", "0"},
    {"--timeline-no-mark-cycles", "", kSetKnob, "The opposite of --timeline-mark-cycles.",
     "TIMELINE_MARK_CYCLES", "0"},
    {"--standalone, --no-hierarchical-allreduce, --no-hierarchical-allgather", "", kNothing, "Accepted; they ask for what is so by default."},

    {"", "", kNothing, "For khorusrun itself"},
    {"--agent", "SECONDS", kAgent,
     "What khorusrun starts on the other hosts; it is spoken to over its standard input."},
    {"--knobs-markdown", "", kKnobsMarkdown, "Print docs/knobs.md, and exit."},

    {"--rdzv-backend, --rdzv-conf", "VALUE", kNotBuilt, "Other meeting points."},
    {"--jsrun, --use-jsrun", "", kNotBuilt, "Launching through jsrun."},
    {"--tcp, --tcp-flag", "", kNotBuilt, "Spectrum MPI."},
    {"--binding-args, --thread-affinity", "ARGUMENTS", kNotBuilt, "Binding to cores."},
    {"--mpi-threads-disable, --no-mpi-threads-disable", "", kNotBuilt, "MPI without threads."},
    {"--ccl-bgt-affinity", "CORES", kNotBuilt, "oneCCL."},
    {"--min-np, --min-num-proc, --max-np, --max-num-proc, --slots-per-host, "
     "--elastic-timeout, --host-discovery-script, --blacklist-cooldown-range, "
     "--cooldown-range",
     "VALUE", kNotBuilt, "Elastic jobs."},
};
// clang-format on

}  // namespace

std::span<const Flag> flags() noexcept { return kFlags; }

}  // namespace khorus::launch

// The output streams and log files of a job; see job.h.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "core/launch/job.h"

namespace khorus::launch {
namespace {

bool same_file(int a, int b) {
  struct stat first {
  }, second{};
  return ::fstat(a, &first) == 0 && ::fstat(b, &second) == 0 && first.st_dev == second.st_dev &&
         first.st_ino == second.st_ino;
}

std::string prefix_of(const std::string& pattern, size_t rank) {
  constexpr std::string_view kPlace = "{rank}";
  std::string text = pattern;
  if (const size_t at = text.find(kPlace); at != std::string::npos) {
    text.replace(at, kPlace.size(), std::to_string(rank));
  }
  return text;
}

// Ranks of one width, as horovodrun pads them, so that folders sort: rank.00 .. rank.15.
std::string padded(size_t rank, size_t size) {
  const std::string text = std::to_string(rank);
  return std::string(std::to_string(size - 1).size() - text.size(), '0') + text;
}

Result<Descriptor> create_log(const std::filesystem::path& path) {
  Descriptor file(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC,
                         S_IRUSR | S_IWUSR | S_IRGRP | S_IROTH));
  if (file) return file;
  return Status(StatusCode::kUnavailable,
                "log file " + path.string() + " cannot be written: " + std::strerror(errno));
}

}  // namespace

Status Job::open_logs(size_t rank, Descriptor* standard_output, Descriptor* standard_error) {
  if (options_.output_directory.empty()) return Status();
  const auto folder = std::filesystem::path(options_.output_directory) /
                      ("rank." + padded(rank, static_cast<size_t>(options_.world_size())));
  std::error_code error;
  std::filesystem::create_directories(folder, error);  // a failure shows when a file is created
  Result<Descriptor> output = create_log(folder / "stdout");
  if (!output.ok()) return output.status();
  Result<Descriptor> errors = create_log(folder / "stderr");
  if (!errors.ok()) return errors.status();
  *standard_output = std::move(*output);
  *standard_error = std::move(*errors);
  return Status();
}

// Child `child` is one rank, or mpirun, through whose streams all ranks speak.
Status Job::name_speakers(bool with_prefix, size_t child, RankStream::Options* output,
                          RankStream::Options* error) {
  const size_t own = child + static_cast<size_t>(options_.first_rank());
  const size_t first = options_.mpi ? 0 : own;
  const size_t last = options_.mpi ? static_cast<size_t>(options_.processes) - 1 : own;
  for (size_t rank = first; rank <= last; ++rank) {
    RankStream::Speaker out, err;
    if (Status status = open_logs(rank, &out.log, &err.log); !status.ok()) return status;
    if (with_prefix) out.prefix = err.prefix = prefix_of(options_.prefix, rank);
    if (options_.mpi) {
      output->tagged.push_back(std::move(out));
      error->tagged.push_back(std::move(err));
    } else {
      output->rank = std::move(out);
      error->rank = std::move(err);
    }
  }
  return Status();
}

Status Job::open_streams() {
  const auto on_room = [this] { net::asio::post(io_, [this] { resume_streams(); }); };
  error_ = std::make_unique<OutputWriter>(STDERR_FILENO, on_room);
  const bool shared = same_file(STDOUT_FILENO, STDERR_FILENO);
  if (!shared) output_ = std::make_unique<OutputWriter>(STDOUT_FILENO, on_room);
  if (!job_.captured) return Status();
  const bool alone = options_.world_size() == 1 && !options_.prefix_given;
  for (size_t i = 0; i < ranks_.size(); ++i) {
    RankStream::Options output, error;
    if (Status status = name_speakers(!alone, i, &output, &error); !status.ok()) return status;
    output.output = shared ? error_.get() : output_.get();
    error.output = error_.get();
    for (RankStream::Options* options : {&output, &error}) {
      options->whole_lines = !alone || options_.mpi;
      options->log_failed = [this, i](const std::string& why) {
        say("khorusrun: a log of " + name_of(i) + " ends here: " + why);
      };
    }
    ranks_[i].standard_output = std::make_unique<RankStream>(
        &io_, std::move(job_.ends[i].standard_output), std::move(output));
    ranks_[i].standard_error = std::make_unique<RankStream>(
        &io_, std::move(job_.ends[i].standard_error), std::move(error));
  }
  resume_streams();
  return Status();
}

bool Job::backed_up() const { return error_->full() || (output_ && output_->full()); }

void Job::resume_streams() {
  for (const Remote& remote : remotes_) {
    remote.link->resume();
    remote.link->grant();
  }
  for (Rank& rank : ranks_) {
    if (rank.standard_output) rank.standard_output->resume();
    if (rank.standard_error) rank.standard_error->resume();
  }
}

}  // namespace khorus::launch

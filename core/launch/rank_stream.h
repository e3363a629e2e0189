// RankStream: one output stream of one rank, on its way to the launcher's output and a log file.
//
// The log file gets the bytes as they are. The launcher's output gets whole lines with a prefix,
// or, without one and alone, the bytes as they come. Reading pauses while the output's queue is
// full, so a rank that is faster than its reader waits, as at any pipe.
//
// The bytes come from a pipe, or, of ranks on other hosts, by feed().
//
// Thread rule: the launcher's thread.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "core/launch/descriptor.h"
#include "core/launch/line_splitter.h"
#include "core/launch/output_writer.h"
#include "core/net/asio.h"

namespace khorus::launch {

class RankStream {
 public:
  // Whose lines they are.
  struct Speaker {
    std::string prefix;
    Descriptor log;  // may be empty
  };
  struct Options {
    Speaker rank;
    // Of mpirun's stream instead, in which a tag says whose line it is: each rank.
    std::vector<Speaker> tagged;
    bool whole_lines = true;
    OutputWriter* output = nullptr;
    // Called once if the log file cannot be written any more.
    std::function<void(const std::string& why)> log_failed;
  };

  // `descriptor` is non-blocking; none: the bytes come by feed().
  RankStream(net::asio::io_context* io, Descriptor descriptor, Options options);
  RankStream(const RankStream&) = delete;
  RankStream& operator=(const RankStream&) = delete;

  // Reads until the end of the stream. Called again when the output has room: goes on.
  void resume();
  void feed(std::string_view bytes) { take(bytes); }
  // Nobody will write any more: takes what is there, without waiting, and closes the stream.
  void drain();
  // A rank's last line that is not blank, without its end; empty if there was none.
  const std::string& last_line() const noexcept { return last_line_; }

 private:
  enum class ReadResult { kSome, kNothingYet, kOver };

  ReadResult read_some();
  void wait();
  void take(std::string_view bytes);
  void take_line(std::string_view line);
  void write_log(std::string_view bytes, Descriptor* log);
  void close();

  net::asio::posix::stream_descriptor stream_;
  Options options_;
  LineSplitter lines_;
  std::string batch_;  // lines of one read, written as one piece
  std::string last_line_;
  bool waiting_ = false;
  bool over_ = false;
};

}  // namespace khorus::launch

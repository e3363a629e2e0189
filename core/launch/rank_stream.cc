// Reading one rank's output; see rank_stream.h.
#include "core/launch/rank_stream.h"

#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "core/launch/mpirun.h"

namespace khorus::launch {
namespace {

constexpr std::string_view kBlanks = " \t\r\n\v\f";
constexpr size_t kLastLineBytes = 400;

}  // namespace

RankStream::RankStream(net::asio::io_context* io, Descriptor descriptor, Options options)
    : stream_(*io), options_(std::move(options)) {
  if (descriptor) stream_.assign(descriptor.release());
}

void RankStream::resume() {
  if (waiting_) return;
  while (stream_.is_open()) {
    if (options_.output->full()) return;  // the writer calls for resume()
    const ReadResult result = read_some();
    if (result == ReadResult::kNothingYet) return wait();
    if (result == ReadResult::kOver) return close();
  }
}

void RankStream::drain() {
  while (stream_.is_open() && read_some() == ReadResult::kSome) {
  }
  close();
}

RankStream::ReadResult RankStream::read_some() {
  std::array<char, 65536> bytes;
  const ssize_t size = ::read(stream_.native_handle(), bytes.data(), bytes.size());
  if (size > 0) {
    take(std::string_view(bytes.data(), static_cast<size_t>(size)));
    return ReadResult::kSome;
  }
  if (size < 0 && errno == EINTR) return ReadResult::kSome;
  return size < 0 && errno == EAGAIN ? ReadResult::kNothingYet : ReadResult::kOver;
}

void RankStream::wait() {
  waiting_ = true;
  stream_.async_wait(net::asio::posix::stream_descriptor::wait_read, [this](net::ErrorCode error) {
    waiting_ = false;
    if (!error) resume();
  });
}

void RankStream::take(std::string_view bytes) {
  write_log(bytes, &options_.rank.log);
  lines_.feed(bytes, [this](std::string_view line) { take_line(line); });
  if (!options_.whole_lines) {
    options_.output->write(std::string(bytes));
  } else if (!batch_.empty()) {
    options_.output->write(std::move(batch_));
    batch_.clear();
  }
}

void RankStream::take_line(std::string_view line) {
  Speaker* speaker = &options_.rank;
  if (!options_.tagged.empty()) {
    const size_t rank = static_cast<size_t>(take_rank_tag(&line).value_or(-1));
    speaker = rank < options_.tagged.size() ? &options_.tagged[rank] : nullptr;
    if (speaker) write_log(line, &speaker->log);
  }
  if (options_.whole_lines) {
    if (speaker) batch_ += speaker->prefix;
    batch_ += line;
  }
  if (!speaker) return;  // mpirun's own words
  const size_t begin = line.find_first_not_of(kBlanks);
  if (begin == std::string_view::npos) return;
  line = line.substr(begin, line.find_last_not_of(kBlanks) + 1 - begin);
  last_line_.assign(line.substr(0, kLastLineBytes));
}

void RankStream::write_log(std::string_view bytes, Descriptor* log) {
  while (*log && !bytes.empty()) {
    const ssize_t written = ::write(log->get(), bytes.data(), bytes.size());
    if (written >= 0) {
      bytes.remove_prefix(static_cast<size_t>(written));
    } else if (errno != EINTR) {
      options_.log_failed(std::strerror(errno));
      log->reset();
    }
  }
}

void RankStream::close() {
  if (std::exchange(over_, true)) return;
  lines_.finish([this](std::string_view line) { take_line(line); });
  if (!batch_.empty()) options_.output->write(std::move(batch_));
  batch_.clear();
  net::ErrorCode ignored;
  stream_.close(ignored);
}

}  // namespace khorus::launch

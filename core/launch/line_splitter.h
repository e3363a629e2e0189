// LineSplitter: cuts a stream of bytes into whole lines.
//
// A line ends with "\n", "\r\n", or a lone "\r" (a progress bar that overwrites itself). Every
// other byte, NUL included, passes through. A value; one thread at a time.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

namespace khorus::launch {

class LineSplitter {
 public:
  // Gets a line with its end. Valid during the call only.
  using Sink = std::function<void(std::string_view line)>;

  // A line that grows beyond `max_line_bytes` is cut, and a "\n" put there.
  explicit LineSplitter(size_t max_line_bytes = size_t{1} << 20)
      : max_line_bytes_(max_line_bytes) {}

  void feed(std::string_view bytes, const Sink& sink);
  // The stream is over: what is left becomes a line; a missing "\n" is added.
  void finish(const Sink& sink);

 private:
  size_t max_line_bytes_;
  std::string pending_;
  size_t scanned_ = 0;  // no line ends within the first this many bytes of pending_
};

}  // namespace khorus::launch

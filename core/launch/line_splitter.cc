// Cutting bytes into lines; see line_splitter.h.
#include "core/launch/line_splitter.h"

namespace khorus::launch {

void LineSplitter::feed(std::string_view bytes, const Sink& sink) {
  pending_ += bytes;
  const std::string_view all = pending_;
  size_t begin = 0;
  size_t at = scanned_;
  while ((at = all.find_first_of("\n\r", at)) != std::string_view::npos) {
    if (all[at] == '\r') {
      if (at + 1 == all.size()) break;  // what follows decides
      if (all[at + 1] == '\n') ++at;
    }
    ++at;
    sink(all.substr(begin, at - begin));
    begin = at;
  }
  const bool at_carriage_return = at != std::string_view::npos;
  pending_.erase(0, begin);
  scanned_ = at_carriage_return ? pending_.size() - 1 : pending_.size();
  if (pending_.size() >= max_line_bytes_) finish(sink);
}

void LineSplitter::finish(const Sink& sink) {
  if (pending_.empty()) return;
  if (pending_.back() != '\r') pending_ += '\n';
  sink(pending_);
  pending_.clear();
  scanned_ = 0;
}

}  // namespace khorus::launch

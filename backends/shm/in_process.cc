// See in_process.h.
#include "backends/shm/in_process.h"

#include <sys/random.h>

#include <cerrno>
#include <map>
#include <mutex>
#include <system_error>

namespace khorus::backends::shm {
namespace {

struct Table {
  std::mutex mutex;
  std::map<Token, std::weak_ptr<Segment>> segments;
};
Table& table() {
  static Table all;
  return all;
}

}  // namespace

Token random_token() {
  Token token;
  if (::getrandom(token.bytes.data(), token.bytes.size(), 0) !=
      static_cast<ssize_t>(token.bytes.size())) {
    throw std::system_error(errno, std::generic_category(), "getrandom");
  }
  return token;
}

void publish_in_process(const Token& token, const std::shared_ptr<Segment>& segment) {
  Table& all = table();
  const std::scoped_lock lock(all.mutex);
  std::erase_if(all.segments, [](const auto& entry) { return entry.second.expired(); });
  all.segments[token] = segment;
}

std::shared_ptr<Segment> find_in_process(const Token& token) {
  Table& all = table();
  const std::scoped_lock lock(all.mutex);
  const auto found = all.segments.find(token);
  return found == all.segments.end() ? nullptr : found->second.lock();
}

}  // namespace khorus::backends::shm

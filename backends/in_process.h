// Ranks that are threads of one process find each other's objects by random keys. A key of another
// process is not found, and an object whose owner is gone is not either. (A bare pointer could do
// neither: nobody can tell whether what it points at is still there.)
//
// Thread rule: any thread.
#pragma once

#include <sys/random.h>

#include <array>
#include <cerrno>
#include <compare>
#include <map>
#include <memory>
#include <mutex>
#include <system_error>

namespace khorus::backends {

struct Token {
  std::array<unsigned char, 16> bytes{};
  auto operator<=>(const Token&) const = default;
};

// Throws std::system_error.
inline Token random_token() {
  Token token;
  if (::getrandom(token.bytes.data(), token.bytes.size(), 0) !=
      static_cast<ssize_t>(token.bytes.size())) {
    throw std::system_error(errno, std::generic_category(), "getrandom");
  }
  return token;
}

template <class T>
class InProcess {
 public:
  // Forgotten when the object is gone.
  static void publish(const Token& token, const std::shared_ptr<T>& object) {
    InProcess& all = table();
    const std::scoped_lock lock(all.mutex_);
    std::erase_if(all.objects_, [](const auto& entry) { return entry.second.expired(); });
    all.objects_[token] = object;
  }
  // Null: not in this process, or gone.
  static std::shared_ptr<T> find(const Token& token) {
    InProcess& all = table();
    const std::scoped_lock lock(all.mutex_);
    const auto found = all.objects_.find(token);
    return found == all.objects_.end() ? nullptr : found->second.lock();
  }

 private:
  static InProcess& table() {
    static InProcess all;
    return all;
  }

  std::mutex mutex_;
  std::map<Token, std::weak_ptr<T>> objects_;
};

}  // namespace khorus::backends

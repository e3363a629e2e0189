// See awaited_store.h.
#include "core/net/awaited_store.h"

#include <algorithm>
#include <vector>

#include "core/net/asio.h"

namespace khorus::net {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr auto kFirstPause = milliseconds(50);
constexpr auto kLongestPause = milliseconds(1000);

// `attempt(time left)` until it is not Unavailable, or the time is over.
template <class Attempt>
auto await(milliseconds timeout, const Attempt& attempt) {
  const auto deadline = steady_clock::now() + timeout;
  asio::io_context io;
  auto pause = kFirstPause;
  while (true) {
    auto result = attempt(left_until(deadline));
    const bool again = result.status().code() == StatusCode::kUnavailable;
    if (!again || steady_clock::now() + pause >= deadline) return result;
    asio::steady_timer timer(io, pause);
    timer.wait();
    pause = std::min(2 * pause, kLongestPause);
  }
}

}  // namespace

Result<Address> await_address(const std::string& host_and_port, milliseconds timeout) {
  return await(timeout, [&](milliseconds) -> Result<Address> {
    const Result<std::vector<Address>> found = resolve(host_and_port);
    if (!found.ok()) return found.status();
    return found->front();
  });
}

Result<std::unique_ptr<TcpStore>> await_store(const TcpStoreOptions& options) {
  return await(options.timeout, [&](milliseconds left) {
    TcpStoreOptions once = options;
    once.timeout = left;
    return TcpStore::connect(once);
  });
}

}  // namespace khorus::net

// See store_server.h.
#include "core/net/store_server.h"

#include <pthread.h>

#include <future>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "core/base/fork_guard.h"
#include "core/net/acceptor.h"
#include "core/net/link.h"
#include "core/net/store_protocol.h"
#include "core/net/watch.h"

namespace khorus::net {
namespace {

// A get() that waits for its key.
struct Waiter {
  uint64_t client = 0;
  uint32_t request = 0;
  std::unique_ptr<asio::steady_timer> timer;
};

struct Client {
  std::shared_ptr<Link> link;
  size_t waiting = 0;
};

std::vector<std::byte> to_bytes(const std::string& text) {
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

StoreAnswer answer_of(uint32_t id, const Status& status) {
  return {id, status.code(), to_bytes(status.message())};
}

}  // namespace

// Everything but start and stop happens on `thread`.
struct StoreServer::Impl {
  Impl(StoreServerOptions given, std::unique_ptr<asio::io_context> context, Socket listening);

  void run();
  void stop();
  void wait_until_left(std::chrono::milliseconds limit);

  Status admit() const;
  void add_client(Stream stream, const SessionKeys& keys);
  void remove_client(uint64_t id);
  void tell_if_all_left();
  void on_request(uint64_t client, std::span<const std::byte> bytes);
  void on_set(uint64_t client, const StoreRequest& request);
  void on_get(uint64_t client, const StoreRequest& request);
  void wait_for_key(uint64_t client, const StoreRequest& request);
  void on_timeout(const std::string& key, uint64_t client, uint32_t request);
  void answer(uint64_t client, const StoreAnswer& answer);
  AcceptorOptions acceptor_options();

  const StoreServerOptions options;
  const uint64_t fork_generation = base::fork_generation();
  std::string address;
  std::unique_ptr<asio::io_context> io;
  StoreTable table;
  std::map<std::string, std::vector<Waiter>> waiters;  // by key
  std::map<uint64_t, Client> clients;
  uint64_t next_client = 1;
  std::shared_ptr<std::promise<void>> all_left;  // somebody waits for it
  std::optional<Acceptor> acceptor;
  std::once_flag stop_once;
  std::thread thread;
};

StoreServer::Impl::Impl(StoreServerOptions given, std::unique_ptr<asio::io_context> context,
                        Socket listening)
    : options(std::move(given)),
      address(listening.local_address().to_string()),
      io(std::move(context)),
      table(options.limits) {
  acceptor.emplace(*io, std::move(listening), acceptor_options());
}

AcceptorOptions StoreServer::Impl::acceptor_options() {
  AcceptorOptions out;
  out.key = options.key;
  out.self = {Role::kStoreServer, -1, 0, options.job_id};
  out.self.tls = options.tls;
  out.peer_role = Role::kStoreClient;
  out.max_strangers = options.max_strangers;
  out.stranger_timeout = options.stranger_timeout;
  out.admission = [this](int32_t) { return admit(); };
  out.on_member = [this](int32_t, Stream stream, const SessionKeys& keys) {
    add_client(std::move(stream), keys);
  };
  // The one turned away reports it; here it would only let strangers write our log.
  out.on_refused = [](int32_t, const Status&) {};
  return out;
}

void StoreServer::Impl::run() {
  acceptor->start();
  thread = std::thread([this] {
    ::pthread_setname_np(::pthread_self(), "khorus-store");
    const auto work = asio::executor_work_guard(io->get_executor());
    io->run();
  });
}

void StoreServer::Impl::stop() {
  std::call_once(stop_once, [this] {
    asio::post(*io, [this] {
      acceptor->stop();
      waiters.clear();
      for (const auto& [id, client] : clients) client.link->close();
      clients.clear();
      io->stop();
    });
    thread.join();
  });
}

void StoreServer::Impl::wait_until_left(std::chrono::milliseconds limit) {
  const auto left = std::make_shared<std::promise<void>>();
  asio::post(*io, [this, left] {
    all_left = left;
    tell_if_all_left();
  });
  left->get_future().wait_for(limit);
}

void StoreServer::Impl::tell_if_all_left() {
  if (all_left == nullptr || !clients.empty()) return;
  all_left->set_value();
  all_left.reset();
}

Status StoreServer::Impl::admit() const {
  if (clients.size() < options.max_connections) return {};
  return Status(StatusCode::kUnavailable,
                "the store has its " + std::to_string(options.max_connections) + " connections");
}

void StoreServer::Impl::add_client(Stream stream, const SessionKeys& keys) {
  const uint64_t id = next_client++;
  Link::Events events;
  events.on_frame = [this, id](std::span<const std::byte> payload) { on_request(id, payload); };
  events.on_closed = [this, id](const std::string&) { remove_client(id); };
  ConnectionLimits limits;
  limits.max_payload_bytes = kMaxStoreMessageBytes;
  limits.max_unsent_bytes = 16 * kMaxStoreMessageBytes;
  auto link =
      std::make_shared<Link>(*io, Connection(std::move(stream), keys, limits), std::move(events));
  clients.emplace(id, Client{link, 0});
  link->start();
}

void StoreServer::Impl::remove_client(uint64_t id) {
  const auto found = clients.find(id);
  if (found == clients.end()) return;
  const bool waits = found->second.waiting > 0;
  found->second.link->close();
  clients.erase(found);
  tell_if_all_left();
  if (!waits) return;
  for (auto entry = waiters.begin(); entry != waiters.end();) {
    std::erase_if(entry->second, [id](const Waiter& waiter) { return waiter.client == id; });
    entry = entry->second.empty() ? waiters.erase(entry) : std::next(entry);
  }
}

void StoreServer::Impl::on_request(uint64_t client, std::span<const std::byte> bytes) {
  const std::optional<StoreRequest> request = decode_store_request(bytes);
  if (!request) return remove_client(client);
  if (request->kind == StoreRequest::Kind::kSet) return on_set(client, *request);
  on_get(client, *request);
}

void StoreServer::Impl::on_set(uint64_t client, const StoreRequest& request) {
  const Status status = table.set(request.key, request.value);
  answer(client, answer_of(request.id, status));
  if (!status.ok()) return;
  auto waiting = waiters.extract(request.key);
  if (waiting.empty()) return;
  for (const Waiter& waiter : waiting.mapped()) {
    if (const auto found = clients.find(waiter.client); found != clients.end()) {
      --found->second.waiting;
    }
    answer(waiter.client, {waiter.request, StatusCode::kOk, request.value});
  }
}

void StoreServer::Impl::on_get(uint64_t client, const StoreRequest& request) {
  if (const std::vector<std::byte>* value = table.find(request.key)) {
    return answer(client, {request.id, StatusCode::kOk, *value});
  }
  if (request.timeout.count() == 0) {
    return answer(client, answer_of(request.id, store_timeout(request.key, request.timeout)));
  }
  wait_for_key(client, request);
}

void StoreServer::Impl::wait_for_key(uint64_t client, const StoreRequest& request) {
  const auto found = clients.find(client);
  if (found == clients.end()) return;
  if (request.key.size() > options.limits.max_key_bytes ||
      found->second.waiting >= options.max_waiting_gets_per_connection) {
    return answer(client, answer_of(request.id, Status(StatusCode::kUnavailable,
                                                       "too many gets wait, or the key is too "
                                                       "long")));
  }
  ++found->second.waiting;
  auto timer = std::make_unique<asio::steady_timer>(*io, request.timeout);
  timer->async_wait([this, key = request.key, client, id = request.id](const ErrorCode& error) {
    if (!error) on_timeout(key, client, id);
  });
  waiters[request.key].push_back({client, request.id, std::move(timer)});
}

void StoreServer::Impl::on_timeout(const std::string& key, uint64_t client, uint32_t request) {
  const auto entry = waiters.find(key);
  if (entry == waiters.end()) return;
  const size_t erased = std::erase_if(entry->second, [&](const Waiter& waiter) {
    return waiter.client == client && waiter.request == request;
  });
  if (entry->second.empty()) waiters.erase(entry);
  if (erased == 0) return;
  --clients.at(client).waiting;
  answer(client, answer_of(request, store_timeout(key, std::chrono::milliseconds(0))));
}

void StoreServer::Impl::answer(uint64_t client, const StoreAnswer& answer) {
  if (const auto found = clients.find(client); found != clients.end()) {
    found->second.link->send(encode(answer));
  }
}

StoreServer::StoreServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

StoreServer::~StoreServer() {
  if (base::fork_generation() == impl_->fork_generation) {
    impl_->stop();
  } else {
    static_cast<void>(impl_.release());  // the thread is the parent's
  }
}

Result<std::unique_ptr<StoreServer>> StoreServer::start(const StoreServerOptions& options) {
  if (!options.key.is_set()) {
    return Status(StatusCode::kInvalidArgument, "a store is not served without a job key");
  }
  const bool v6 = options.bind_host.find(':') != std::string::npos;
  const Result<std::vector<Address>> address =
      resolve((v6 ? "[" + options.bind_host + "]" : options.bind_host) + ":" +
              std::to_string(options.port));
  if (!address.ok()) return address.status();
  Result<Socket> listening = Socket::listen(address->front());
  if (!listening.ok()) return listening.status();
  Result<std::unique_ptr<asio::io_context>> io = make_io_context();
  if (!io.ok()) return io.status();
  auto impl = std::make_unique<Impl>(options, std::move(*io), std::move(*listening));
  impl->run();
  return std::unique_ptr<StoreServer>(new StoreServer(std::move(impl)));
}

const std::string& StoreServer::address() const noexcept { return impl_->address; }

void StoreServer::wait_until_left(std::chrono::milliseconds limit) {
  if (base::fork_generation() == impl_->fork_generation) impl_->wait_until_left(limit);
}

void StoreServer::stop() {
  if (base::fork_generation() == impl_->fork_generation) impl_->stop();
}

}  // namespace khorus::net

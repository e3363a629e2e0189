// See job_session.h.
#include "core/runtime/job_session.h"

#include <utility>

namespace khorus {

std::shared_ptr<JobSession> make_job_session() { return std::make_shared<JobSession>(); }

Result<net::JobKey> JobSession::key(const Config& config) {
  const std::lock_guard lock(mutex_);
  if (key_.has_value()) return *key_;
  Result<net::JobKey> key =
      config.key_fd >= 0 ? net::JobKey::from_fd(static_cast<int>(config.key_fd))
      : !config.key_file.empty()
          ? net::JobKey::from_file(config.key_file)
          : Status(StatusCode::kUnavailable,
                   "several ranks talk over TCP only with a job key; set KHORUS_KEY_FILE to a file "
                   "with 64 hex digits that all ranks have and only you can read (openssl rand "
                   "-hex 32), or start the job with khorusrun");
  if (key.ok()) key_ = *key;
  return key;
}

bool JobSession::has_key(const Config& config) {
  const std::lock_guard lock(mutex_);
  return key_.has_value() || config.key_fd >= 0 || !config.key_file.empty();
}

Result<std::shared_ptr<net::StoreServer>> JobSession::serve(
    const net::StoreServerOptions& options) {
  const std::lock_guard lock(mutex_);
  std::shared_ptr<net::StoreServer>& server = servers_[options.job_id];
  if (server != nullptr) return server;
  Result<std::unique_ptr<net::StoreServer>> started = net::StoreServer::start(options);
  if (!started.ok()) return started.status();
  server = std::move(*started);
  return server;
}

uint64_t JobSession::next_generation(const std::string& job_id) {
  const std::lock_guard lock(mutex_);
  return ++generations_[job_id];
}

namespace {
constexpr int kGenerationBits = 24;  // engines that one process makes in one round
}

std::optional<uint64_t> JobSession::next_in_round() {
  const std::lock_guard lock(mutex_);
  if (round_is_over_) return std::nullopt;
  return (*round_ << kGenerationBits) + ++engines_in_round_;
}

uint64_t JobSession::first_round() {
  const std::lock_guard lock(mutex_);
  return round_.has_value() ? *round_ + 1 : 0;
}

uint64_t JobSession::entered(uint64_t round) {
  const std::lock_guard lock(mutex_);
  round_ = round;
  engines_in_round_ = 1;
  round_is_over_ = false;
  return (round << kGenerationBits) + 1;
}

void JobSession::end_round() {
  const std::lock_guard lock(mutex_);
  round_is_over_ = true;
}

void JobSession::note_end(const Status& health) {
  if (!health.ok() && health.code() != StatusCode::kShutdown) end_round();
}

}  // namespace khorus

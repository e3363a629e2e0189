// What the launcher tells the ranks through the job's store; see job.h.
#include "core/launch/hosts.h"
#include "core/launch/job.h"
#include "core/net/ended_ranks.h"
#include "core/net/rounds.h"
#include "core/net/tcp_store.h"

namespace khorus::launch {

// A store that cannot be reached any more is that of another node whose ranks have ended already;
// ours can do without a word from it, unless they are to be started again.
Status Job::open_store(const std::string& address) {
  if (options_.mpi) return {};
  net::TcpStoreOptions options;
  options.address = address;
  options.key = job_.key;
  options.job_id = job_.job_id;
  options.tls = job_.tls;
  options.timeout = job_.start_timeout;
  Result<std::unique_ptr<net::TcpStore>> client = net::TcpStore::connect(options);
  if (!client.ok()) {
    say_if_verbose(client.status().message());
    return options_.restarts > 0 ? client.status() : Status();
  }
  store_ = std::move(*client);
  if (Status status = net::promise_ends(*store_); !status.ok()) return status;
  return options_.restarts > 0 ? net::allow_rounds(*store_) : Status();
}

// A rank that has ended well does not come back to meet another.
bool Job::restart(size_t index, int wait_status) {
  const bool failed = exit_code_of(wait_status) != 0;
  if (!failed || restarts_ == options_.restarts || ended_ > 0 || interrupted_by_ != 0) return false;
  if (store_ == nullptr) return false;
  const std::string what = name_of(index) + " on " + place_of(index) +
                           " failed: " + describe_end(wait_status) + " (pid " +
                           std::to_string(ranks_[index].outcome.pid) + ")";
  const Result<uint64_t> begun = net::begin_round(
      *store_, last_round_ + 1, static_cast<int>(ranks_.size()), "khorusrun, because " + what);
  if (!begun.ok()) {
    say("khorusrun: " + name_of(index) + " is not started again: " + begun.status().message());
    return false;
  }
  last_round_ = *begun;
  ++restarts_;
  say("khorusrun: " + name_of(index) + " failed: " + describe_end(wait_status) + " (pid " +
      std::to_string(ranks_[index].outcome.pid) + "); starting it again (" +
      std::to_string(restarts_) + " of " + std::to_string(options_.restarts) + ")");
  command_for(index, {.kind = GuardCommand::Kind::kRestart});
  return true;
}

// Others that wait for it, or lose it, would wait in vain.
void Job::note_ended(size_t index) {
  const bool others_run = running_ > 0 || options_.nodes > 1;
  if (others_run) tell_end(index);
  if (running_ > 0 && options_.restarts > 0) end_round(index);
}

void Job::tell_end(size_t index) {
  if (store_ == nullptr) return;
  const RankOutcome& outcome = ranks_[index].outcome;
  net::EndedRank ended;
  ended.rank = options_.first_rank() + static_cast<int>(index);
  ended.where = place_of(index) + " (pid " + std::to_string(outcome.pid) + ")";
  ended.how = outcome.lost.empty() ? describe_end(outcome.wait_status) : outcome.lost;
  const Status told = net::tell_end(*store_, &next_end_, ended);
  if (told.ok()) return;
  say_if_verbose("the end of " + name_of(index) + " cannot be told: " + told.message());
  store_.reset();  // the next call would wait as long
}

// Who has lost a rank seeks the others in a new round, and finds there that it has ended. A round
// that has begun does not disturb those that are in the one before.
void Job::end_round(size_t index) {
  if (store_ == nullptr) return;
  Status noted;
  if (ended_ == 1) {
    const auto begun = net::begin_round(
        *store_, last_round_ + 1, static_cast<int>(ranks_.size()),
        "khorusrun, because " + name_of(index) + " on " + place_of(index) + " has ended");
    if (begun.ok()) last_round_ = *begun;
    noted = begun.status();
  }
  if (noted.ok()) noted = net::note_ended(*store_, last_round_, static_cast<int>(index));
  if (!noted.ok()) say_if_verbose(name_of(index) + " has ended: " + noted.message());
}

std::string Job::place_of(size_t index) const {
  const std::string& host = ranks_[index].outcome.host;
  return host.empty() ? host_name() : host;
}

}  // namespace khorus::launch

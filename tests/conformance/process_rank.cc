// See process_rank.h.
#include "tests/conformance/process_rank.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <span>

#include "core/net/host_meeting.h"
#include "core/net/tcp_store.h"
#include "khorus/options.h"

namespace khorus::conformance {
namespace {

// A test that cannot meet cannot go on.
template <class T>
T value_or_die(Result<T> result) {
  if (result.ok()) return std::move(*result);
  std::fprintf(stderr, "cannot meet the other processes: %s\n",
               result.status().to_string().c_str());
  std::_Exit(1);
}

}  // namespace

ProcessRank* ProcessRank::current() {
  static const std::unique_ptr<ProcessRank> rank(
      std::getenv("KHORUS_TEST_PROCESSES") != nullptr ? new ProcessRank : nullptr);
  return rank.get();
}

ProcessRank::ProcessRank() {
  const Config config = value_or_die(Config::from_environment());
  rank_ = static_cast<int>(config.rank);
  size_ = static_cast<int>(config.size);
  net::HostMeetingOptions meeting;
  meeting.job_id = config.job_id + "/test";
  meeting.rank = rank_;
  meeting.size = size_;
  net::TcpStoreOptions options;
  options.rank = rank_;
  if (rank_ == 0) {
    net::StoreServerOptions serving;
    serving.key = options.key = value_or_die(net::JobKey::generate());
    server_ = value_or_die(net::StoreServer::start(serving));
    options.address = server_->address();
    const Status status = net::invite(meeting, {options.address, options.key});
    if (!status.ok()) static_cast<void>(value_or_die(Result<int>(status)));
  } else {
    const net::HostInvitation invitation = value_or_die(net::attend(meeting));
    options.address = invitation.store;
    options.key = invitation.key;
  }
  store_ = value_or_die(net::TcpStore::connect(options));
}

bool ProcessRank::exchange(const Round& round, const std::string& bytes,
                           std::vector<std::string>* all) {
  const auto key = [&](int r) { return round.name + "/" + std::to_string(r); };
  if (!store_->set(key(round.rank), std::as_bytes(std::span(bytes))).ok()) return false;
  all->clear();
  for (int r = 0; r < round.size; ++r) {
    const auto theirs = store_->get(key(r), std::chrono::seconds(30));
    if (!theirs.ok()) return false;
    all->emplace_back(reinterpret_cast<const char*>(theirs->data()), theirs->size());
  }
  return true;
}

ProcessRank::~ProcessRank() {
  std::vector<std::string> all;
  // False is no matter: a rank that does not come has said why itself, and one that rank 0 cuts off
  // while it reads has nothing more to learn.
  static_cast<void>(exchange({"leave", rank_, size_}, {}, &all));
}

}  // namespace khorus::conformance

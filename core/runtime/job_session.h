// JobSession: what a process remembers of its jobs from one engine to the next.
//
// The descriptor with the key can be read once; every init() after a shutdown() needs names of its
// own in the store, so the generations of a job are counted; and a store that rank 0 serves at a
// known address must be there for the next init() too. The default engine owns one; others pass
// theirs in EngineOptions::session.
//
// Thread rule: any thread.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "core/net/job_key.h"
#include "core/net/store_server.h"
#include "khorus/options.h"
#include "khorus/status.h"

namespace khorus {

class JobSession {
 public:
  // From the descriptor or file that `config` names, once. Unavailable names what to set.
  Result<net::JobKey> key(const Config& config);
  // Whether there is one to be had.
  bool has_key(const Config& config);
  // Rank 0 of a job that another launcher started: serves its store, until this object goes. A
  // second call for the same job gives the same store.
  Result<std::shared_ptr<net::StoreServer>> serve(const net::StoreServerOptions& options);
  // 1, 2, ... for each engine of this job that this process makes: the epoch on all ranks.
  uint64_t next_generation(const std::string& job_id);

  // Of a job whose launcher restarts ranks (core/net/rounds.h): the epoch that follows, if this
  // process stays in its round; nothing if it has to enter a new one, from first_round() on.
  std::optional<uint64_t> next_in_round();
  uint64_t first_round();
  // Returns the epoch.
  uint64_t entered(uint64_t round);
  // The ranks did not meet, or their engines failed.
  void end_round();
  // How an engine was before its end. After a fault all ranks enter a new round; after a shutdown()
  // here or elsewhere they stay in theirs.
  void note_end(const Status& health);

 private:
  std::mutex mutex_;
  std::optional<net::JobKey> key_;
  std::map<std::string, uint64_t> generations_;
  std::map<std::string, std::shared_ptr<net::StoreServer>> servers_;  // by job
  std::optional<uint64_t> round_;                                     // the one entered last
  uint64_t engines_in_round_ = 0;
  bool round_is_over_ = true;
};

}  // namespace khorus

// See exchange_table.h.
#include "tests/conformance/exchange_table.h"

#include <cstdio>
#include <utility>

#include "khorus/status.h"

namespace khorus::conformance {
namespace {

int32_t exchange_of_host(void* engine, const char* tag, const void* bytes, size_t size,
                         void (*receive)(void*, int32_t, const void*, size_t), void* context,
                         khorus_error* error) {
  const Host& host = *static_cast<const Host*>(engine);
  std::vector<std::string> all;
  if (!host.table.exchange(host.rank, tag, std::string(static_cast<const char*>(bytes), size),
                           all)) {
    error->code = static_cast<int32_t>(StatusCode::kAborted);
    error->rank = -1;
    std::snprintf(error->message, sizeof(error->message), "the exchange was aborted");
    return error->code;
  }
  for (size_t r = 0; r < all.size(); ++r) {
    receive(context, static_cast<int32_t>(r), all[r].data(), all[r].size());
  }
  return 0;
}

void log_of_host(void*, int32_t, const char*) {}

}  // namespace

ExchangeTable::ExchangeTable(int size)
    : process_(ProcessRank::current()),
      name_(process_ == nullptr ? "" : "world." + std::to_string(process_->next_world())),
      bytes_(static_cast<size_t>(size)) {}

bool ExchangeTable::exchange(int rank, const std::string& tag, std::string bytes,
                             std::vector<std::string>& all) {
  std::unique_lock lock(mutex_);
  if (process_ != nullptr) {
    const std::string name = name_ + "/" + std::to_string(++round_) + "/" + tag;
    return process_->exchange({name, rank, static_cast<int>(bytes_.size())}, bytes, &all);
  }
  if (arrived_ > 0 && tag != tag_) aborted_ = true;  // a collective needs the same tag everywhere
  if (aborted_) return false;
  tag_ = tag;
  bytes_[static_cast<size_t>(rank)] = std::move(bytes);
  const uint64_t mine = round_ + 1;
  ++arrived_;
  if (arrived_ == bytes_.size()) {
    result_ = bytes_;
    arrived_ = 0;
    round_ = mine;
  }
  changed_.notify_all();
  changed_.wait(lock, [&] { return round_ >= mine || aborted_; });
  if (round_ < mine) return false;
  all = result_;
  return true;
}

void ExchangeTable::abort() {
  const std::scoped_lock lock(mutex_);
  aborted_ = true;
  changed_.notify_all();
}

void ExchangeTable::wait_for_arrivals(size_t count) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return arrived_ >= count; });
}

std::string ExchangeTable::bytes_of(int rank) {
  const std::scoped_lock lock(mutex_);
  return bytes_[static_cast<size_t>(rank)];
}

Host::Host(ExchangeTable& exchange_table, int rank_in_group)
    : table(exchange_table), rank(rank_in_group), c{} {
  c.struct_size = sizeof(c);
  c.engine = this;
  c.exchange = exchange_of_host;
  c.log = log_of_host;
}

}  // namespace khorus::conformance

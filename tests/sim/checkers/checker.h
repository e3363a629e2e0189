// Checker: an observer that knows one property of the protocol and collects where it does not hold.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/sim/observer.h"

namespace khorus::sim {

class Checker : public Observer {
 public:
  virtual const char* name() const = 0;
  // Sentences; at most the first few. Empty: the property held.
  const std::vector<std::string>& failures() const { return failures_; }

 protected:
  void fail(std::string sentence) {
    if (failures_.size() < kMostFailures) failures_.push_back(std::move(sentence));
  }
  static std::string at(int rank, TimeUs now) {
    return "rank " + std::to_string(rank) + " at " + std::to_string(now) + " us: ";
  }

 private:
  static constexpr size_t kMostFailures = 5;
  std::vector<std::string> failures_;
};

// One of each.
std::vector<std::unique_ptr<Checker>> make_checkers();

}  // namespace khorus::sim

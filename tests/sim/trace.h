// Trace: writes what happens in a world as lines for a person.
#pragma once

#include <cstdio>
#include <string>

#include "tests/sim/observer.h"

namespace khorus::sim {

class Trace : public Observer {
 public:
  explicit Trace(std::FILE* out) : out_(out) {}
  void begin(const Scenario& scenario, const Workload& workload) override;
  void submitted(int rank, const Origin& origin, std::span<const protocol::Submission> submissions,
                 TimeUs now) override;
  void sent(int from, int to, const wire::Frame& frame, size_t bytes, TimeUs now) override;
  void ticked(int rank, const protocol::Output& output, const NodeView& view, TimeUs now) override;
  void executed(int rank, const protocol::Execution& execution, bool ok, TimeUs now) override;
  void crashed(int rank, TimeUs now) override { line(rank, now, "CRASHES"); }
  void link_cut(int a, int b, TimeUs now) override;
  void data_plane_failed(int rank, const Status& status, TimeUs now) override;
  void left(int rank, TimeUs now) override { line(rank, now, "leaves"); }
  void end(const Ending& ending) override;

 private:
  void line(int rank, TimeUs now, const std::string& text);

  std::FILE* out_;
};

// One line about a frame: "report: applied 3, ids 1 2, allreduce "w" by ranks 1,3".
std::string describe(const wire::Frame& frame);

}  // namespace khorus::sim

// See trace.h.
#include "tests/sim/trace.h"

#include <variant>

namespace khorus::sim {
namespace {

std::string describe_set(ProcessSetId id) {
  return id == kGlobalProcessSet ? "" : "@" + std::to_string(id);
}

std::string describe_request(const wire::Request& request) {
  std::string text = std::string(khorus::to_string(request.kind)) + " " + request.name +
                     khorus::to_string(request.shape) + describe_set(request.process_set);
  if (request.kind == OpKind::kBroadcast) text += " from " + std::to_string(request.root_rank);
  if (request.kind == OpKind::kSendRecv) {
    text += " " + std::to_string(request.root_rank) + ">" + std::to_string(request.peer);
  }
  if (!request.members.empty()) text += " of " + request.members.to_string();
  if (!request.group.empty()) {
    text += " in " + request.group + " of " + std::to_string(request.group_size);
  }
  return text;
}

std::string describe_tensor(const wire::ResponseTensor& tensor) {
  const wire::Request& request = tensor.request;
  std::string text = request.name;
  if (request.kind == OpKind::kSendRecv) {
    text += " " + std::to_string(request.root_rank) + ">" + std::to_string(request.peer);
  }
  if (request.kind == OpKind::kJoin) text += " last " + std::to_string(request.root_rank);
  if (!tensor.extents.empty()) text += " rows " + khorus::to_string(tensor.extents);
  if (!tensor.payloads.empty()) text += " payloads " + std::to_string(tensor.payloads.size());
  return text;
}

std::string describe_response(const wire::Response& response) {
  std::string text = response.code == StatusCode::kOk
                         ? "{"
                         : "{" + std::string(status_code_name(response.code)) + ":";
  text += describe_set(response.process_set);
  for (const wire::ResponseTensor& tensor : response.tensors) text += " " + describe_tensor(tensor);
  if (!response.cache_ids.empty()) text += " ids";
  for (uint64_t id : response.cache_ids) text += " " + std::to_string(id);
  for (const std::string& group : response.failed_groups) text += " group " + group;
  return text + " }";
}

struct Describe {
  std::string operator()(const wire::Report& report) const {
    std::string text = "report: applied " + std::to_string(report.applied_sequence);
    for (uint64_t id : report.cached_all) text += ", id " + std::to_string(id);
    for (const wire::CachedContribution& some : report.cached_some) {
      text += ", id " + std::to_string(some.cache_id) + " by " + some.ranks.to_string();
    }
    for (const wire::Contribution& contribution : report.contributions) {
      text +=
          ", " + describe_request(contribution.request) + " by " + contribution.ranks.to_string();
      if (!contribution.extents.empty()) {
        text += " rows " + khorus::to_string(contribution.extents);
      }
    }
    if (!report.joined.empty()) text += ", joined " + report.joined.to_string();
    if (!report.leaving_reason.empty()) {
      text += ", rank " + std::to_string(report.leaving_rank) + " leaves";
    }
    if (report.drained) text += ", drained";
    return text;
  }
  std::string operator()(const wire::Decision& decision) const {
    std::string text = "decision " + std::to_string(decision.sequence) + ":";
    for (const wire::Response& response : decision.responses) {
      text += " " + describe_response(response);
    }
    if (decision.shutdown) text += " shutdown";
    if (decision.goodbye) text += " goodbye";
    return text;
  }
  std::string operator()(const wire::Fault& fault) const {
    return "fault: rank " + std::to_string(fault.rank) + ": " + fault.reason;
  }
  std::string operator()(const wire::StallQuery& query) const {
    return "stall query " + std::to_string(query.number) + " to " + query.ranks.to_string();
  }
  std::string operator()(const wire::StallAnswer& answer) const {
    return "stall answer " + std::to_string(answer.number) + " of rank " +
           std::to_string(answer.rank) + ": " + answer.last_submitted;
  }
  std::string operator()(const wire::StallReport& report) const { return report.text; }
};

}  // namespace

std::string describe(const wire::Frame& frame) { return std::visit(Describe(), frame.message); }

void Trace::line(int rank, TimeUs now, const std::string& text) {
  std::fprintf(out_, "%10lld us  rank %4d  %s\n", static_cast<long long>(now), rank, text.c_str());
}

void Trace::begin(const Scenario& scenario, const Workload& workload) {
  std::fprintf(out_, "%s\n", scenario.describe().c_str());
  int number = 0;
  for (const PlannedSet& set : workload.sets()) {
    std::fprintf(out_, "set %d: ranks %s, added in step %d, removed in step %d\n", ++number,
                 wire::RankSet::of(set.members).to_string().c_str(), set.add_step, set.remove_step);
  }
  for (int i = 0; i < workload.steps(); ++i) {
    if (workload.step(i).joins) std::fprintf(out_, "step %d: joins\n", i);
    for (const auto& [unit, planned] : workload.step(i).deviations) {
      std::string ranks;
      for (int rank : planned.ranks) ranks += " " + std::to_string(rank);
      std::fprintf(out_, "step %d unit %zu (%s): %s on ranks%s\n", i, unit,
                   workload.step(i).units[unit].members.front().name.c_str(),
                   to_string(planned.kind), ranks.c_str());
    }
  }
}

void Trace::submitted(int rank, const Origin& origin,
                      std::span<const protocol::Submission> submissions, TimeUs now) {
  std::string text = "submits (step " + std::to_string(origin.step) + ")";
  if (origin.duplicate) text += " again";
  if (origin.joined) text += " although joined";
  if (origin.after_end) text += " after the end";
  for (const protocol::Submission& submission : submissions) {
    text += " #" + std::to_string(submission.ticket) + " " + describe_request(submission.request);
  }
  line(rank, now, text);
}

void Trace::sent(int from, int to, const wire::Frame& frame, size_t bytes, TimeUs now) {
  line(from, now,
       "-> " + std::to_string(to) + " (" + std::to_string(bytes) + " B) " + describe(frame));
}

void Trace::ticked(int rank, const protocol::Output& output, const NodeView&, TimeUs now) {
  for (const protocol::Execution& execution : output.executions) {
    std::string text = "runs (decision " + std::to_string(execution.sequence) + ", from place " +
                       std::to_string(execution.first_position) + ")" +
                       describe_set(execution.response.process_set);
    if (execution.meets_only) {
      text += " meets for " + describe_tensor(execution.response.tensors.front());
    }
    for (size_t i = 0; i < execution.tickets.size(); ++i) {
      text += " #" + std::to_string(execution.tickets[i]) + " " +
              describe_tensor(execution.response.tensors[i]);
    }
    line(rank, now, text);
  }
  for (const protocol::Completion& completion : output.completions) {
    std::string text = "done #" + std::to_string(completion.ticket);
    if (completion.position != 0) text += ", place " + std::to_string(completion.position);
    if (completion.value >= 0) text += ", value " + std::to_string(completion.value);
    line(rank, now, text + " " + completion.status.to_string());
  }
  for (const protocol::SetChange& change : output.set_changes) {
    line(rank, now,
         std::string("is told of process set ") + std::to_string(change.id) +
             (change.added ? ": added, ranks " : ": removed, ranks ") + change.members.to_string());
  }
  for (const protocol::LogLine& log : output.log) line(rank, now, "logs " + log.text);
  if (output.shutdown) line(rank, now, "shutdown: " + output.shutdown_status.to_string());
  if (output.fault) line(rank, now, "FAULT: " + output.fault->to_string());
  if (output.goodbye) line(rank, now, "goodbye");
}

void Trace::executed(int rank, const protocol::Execution& execution, bool ok, TimeUs now) {
  std::string text = ok ? "ran" : "aborted";
  for (uint64_t ticket : execution.tickets) text += " #" + std::to_string(ticket);
  line(rank, now, text);
}

void Trace::link_cut(int a, int b, TimeUs now) {
  line(a, now, "its link to rank " + std::to_string(b) + " is CUT");
}

void Trace::data_plane_failed(int rank, const Status& status, TimeUs now) {
  line(rank, now, "its data plane FAILS: " + status.to_string());
}

void Trace::end(const Ending& ending) {
  std::fprintf(out_, "%10lld us  the end:", static_cast<long long>(ending.now));
  for (size_t rank = 0; rank < ending.ranks.size(); ++rank) {
    std::fprintf(out_, " %zu %s", rank, to_string(ending.ranks[rank]));
  }
  std::fprintf(out_, "%s\n", ending.ran_away ? " (cut short)" : "");
}

}  // namespace khorus::sim

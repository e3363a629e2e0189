// See validator.h.
#include "core/protocol/validator.h"

#include <functional>
#include <sstream>

namespace khorus::protocol {
namespace {

std::string number(double value) {
  std::ostringstream text;
  text.precision(17);
  text << value;
  return text.str();
}

std::string shape_of(const wire::Request& request) {
  const bool first_differs =
      request.kind == OpKind::kAllgather || request.kind == OpKind::kAlltoall;
  if (!first_differs || request.shape.empty()) return to_string(request.shape);
  std::string text = "[*";  // the first extent may differ
  for (size_t i = 1; i < request.shape.size(); ++i) text += "," + std::to_string(request.shape[i]);
  return text + "]";
}

std::string group_of(const wire::Request& request) {
  if (request.group.empty()) return "none";
  return "\"" + request.group + "\" of " + std::to_string(request.group_size);
}

struct Attribute {
  const char* name;
  std::function<std::string(const wire::Request&)> value;
};

const std::vector<Attribute>& attributes() {
  static const std::vector<Attribute> kAttributes = {
      {"operation", [](const auto& r) { return std::string(to_string(r.kind)); }},
      {"dtype", [](const auto& r) { return std::string(to_string(r.dtype)); }},
      {"shape", shape_of},
      {"reduction", [](const auto& r) { return std::string(to_string(r.op)); }},
      {"root rank", [](const auto& r) { return std::to_string(r.root_rank); }},
      {"peer rank", [](const auto& r) { return std::to_string(r.peer); }},
      {"ranks", [](const auto& r) { return r.members.to_string(); }},
      {"device", [](const auto& r) { return std::string(to_string(r.device)); }},
      {"prescale factor", [](const auto& r) { return number(r.prescale); }},
      {"postscale factor", [](const auto& r) { return number(r.postscale); }},
      {"group", group_of},
  };
  return kAttributes;
}

struct Value {
  std::string text;
  wire::RankSet ranks;
};

std::vector<Value> values_of(const Attribute& attribute, const TableEntry& entry) {
  std::vector<Value> values;
  for (const Variant& variant : entry.variants) {
    const std::string text = attribute.value(variant.request);
    Value* value = nullptr;
    for (Value& known : values) {
      if (known.text == text) value = &known;
    }
    if (value == nullptr) value = &values.emplace_back(Value{text, {}});
    value->ranks.add_all(variant.ranks);
  }
  return values;
}

}  // namespace

std::optional<std::string> mismatch(const TableEntry& entry, const Roster& roster) {
  if (entry.variants.size() < 2) return std::nullopt;
  const std::vector<Attribute>& all = attributes();
  const bool one_kind = values_of(all.front(), entry).size() == 1;
  std::string text = one_kind ? describe(entry.variants.front().request, roster.sets)
                              : "operation \"" + entry.key.name + "\"" +
                                    describe_set(entry.key.process_set, roster.sets);
  bool first = true;
  for (const Attribute& attribute : all) {
    const std::vector<Value> values = values_of(attribute, entry);
    if (values.size() < 2) continue;
    text += first ? " has " : "; ";
    first = false;
    text += attribute.name;
    for (size_t i = 0; i < values.size(); ++i) {
      if (i > 0) text += i + 1 == values.size() ? " and" : ",";
      text += " " + values[i].text + " on " + describe_ranks(values[i].ranks, roster.peers);
    }
    // Attributes after the operation mean little when the operations differ.
    if (!one_kind) break;
  }
  return text + "; submit the same on every rank";
}

std::optional<std::string> objection_to_absence(const TableEntry& entry, const Roster& roster) {
  const wire::RankSet absent = entry.needed.minus(entry.ranks);
  if (absent.empty()) return std::nullopt;
  const wire::Request& request = entry.variants.front().request;
  const std::string who = describe_ranks(absent, roster.peers);
  const std::string what = describe(request, roster.sets);
  switch (request.kind) {
    case OpKind::kAllreduce:
    case OpKind::kReducescatter:
      if (request.op == ReduceOp::kSum || request.op == ReduceOp::kAverage) return std::nullopt;
      return what + ": zeros of " + who + ", joined, would spoil the reduction " +
             std::string(to_string(request.op)) + "; use sum or average until all have joined";
    case OpKind::kAllgather:
    case OpKind::kAlltoall:
    case OpKind::kBarrier:
      return std::nullopt;
    case OpKind::kBroadcast:
      if (!absent.contains(request.root_rank)) return std::nullopt;
      return what + ": its root, " +
             describe_ranks(wire::RankSet::single(request.root_rank), roster.peers) +
             ", has joined and has nothing to send; choose another root";
    default:
      return what + ": " + who +
             " joined and cannot take part; call it before join() or after all have joined";
  }
}

}  // namespace khorus::protocol

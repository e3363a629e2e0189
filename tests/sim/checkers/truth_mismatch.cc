// Truth about mismatches: see truth.h. The root applies a decision first, so what its error says is
// judged by what every rank has pending at that moment; other ranks must be told the same words.
#include <array>
#include <sstream>

#include "tests/sim/checkers/truth.h"
#include "tests/sim/rank_text.h"
#include "tests/sim/world.h"

namespace khorus::sim {
namespace {

std::string shape_text(const wire::Request& request) {
  if (request.kind != OpKind::kAllgather) return khorus::to_string(request.shape);
  std::string text = "[*";
  for (size_t i = 1; i < request.shape.size(); ++i) text += "," + std::to_string(request.shape[i]);
  return text + "]";
}

std::string number_text(double value) {
  std::ostringstream out;
  out << value;
  return out.str();
}

struct Attribute {
  std::string name;
  std::string value;
};

std::array<Attribute, 9> attributes_of(const wire::Request& r) {
  return {{{"operation", std::string(khorus::to_string(r.kind))},
           {"dtype", std::string(khorus::to_string(r.dtype))},
           {"shape", shape_text(r)},
           {"reduction", std::string(khorus::to_string(r.op))},
           {"root rank", std::to_string(r.root_rank)},
           {"device", std::string(khorus::to_string(r.device))},
           {"prescale factor", number_text(r.prescale)},
           {"postscale factor", number_text(r.postscale)},
           {"group",
            r.group.empty() ? "none" : "\"" + r.group + "\" of " + std::to_string(r.group_size)}}};
}

// "[3,4] on ranks 0-2" or "[3] on rank 3 (node-0)".
std::string claim(const std::string& value, const std::vector<int>& ranks) {
  std::string text = value + " on " + rank_text(ranks);
  if (ranks.size() == 1) text += " (" + peer_info(ranks.front()).host + ")";
  return text;
}

// Whether the text has these words, and the list of ranks ends where they end.
bool claims(const std::string& text, const std::string& words) {
  for (size_t at = text.find(" " + words); at != std::string::npos;
       at = text.find(" " + words, at + 1)) {
    const std::string rest = text.substr(at + 1 + words.size());
    if (rest.starts_with("; ") || rest.starts_with(", ") || rest.starts_with(" and ")) return true;
  }
  return false;
}

std::string first_quoted(const std::string& text) {
  const size_t begin = text.find('"');
  const size_t end = text.find('"', begin + 1);
  return end == std::string::npos ? "" : text.substr(begin + 1, end - begin - 1);
}

}  // namespace

void Truth::judge_decision(const wire::Decision& decision, TimeUs now) {
  for (const wire::Response& response : decision.responses) {
    if (response.code != StatusCode::kMismatch) continue;
    ++judged_;
    said_.insert(response.error);
    if (response.error.starts_with("group ")) {
      judge_group(response.error, now);
    } else {
      judge_attributes(first_quoted(response.error), response.error, now);
    }
    for (const wire::ResponseTensor& tensor : response.tensors) decided(tensor.request.name, now);
    for (const std::string& group : response.failed_groups) group_decided(group, now);
  }
}

void Truth::judge_attributes(const std::string& name, const std::string& text, TimeUs now) {
  std::array<std::map<std::string, std::vector<int>>, 9> values;
  std::array<std::string, 9> names;
  for (int other = 0; other < scenario_.ranks; ++other) {
    const auto& pending = ranks_[static_cast<size_t>(other)].pending;
    const auto it = pending.find(name);
    if (it == pending.end()) {
      fail(at(0, now) + "\"" + text + "\", but rank " + std::to_string(other) +
           " has not submitted it");
      return;
    }
    const auto attributes = attributes_of(it->second.request);
    for (size_t i = 0; i < attributes.size(); ++i) {
      names[i] = attributes[i].name;
      values[i][attributes[i].value].push_back(other);
    }
  }
  const bool kinds_differ = values[0].size() > 1;
  bool any = false;
  for (size_t i = 0; i < values.size(); ++i) {
    const bool differs = values[i].size() > 1 && (i == 0 || !kinds_differ);
    any |= differs;
    const bool named = text.find(" has " + names[i] + " ") != std::string::npos ||
                       text.find("; " + names[i] + " ") != std::string::npos;
    bool right = named == differs;
    for (const auto& [value, ranks] : values[i])
      right &= !differs || claims(text, claim(value, ranks));
    if (!right) fail(at(0, now) + "\"" + text + "\" is wrong about the " + names[i]);
  }
  if (!any) fail(at(0, now) + "\"" + text + "\", but all ranks submitted the same");
}

// Every member it names was submitted by the ranks it names, in that group.
void Truth::judge_group(const std::string& text, TimeUs now) {
  const std::string group = first_quoted(text);
  size_t at_quote = text.find(": only ");
  while ((at_quote = text.find('"', at_quote)) != std::string::npos) {
    const size_t end = text.find('"', at_quote + 1);
    const std::string name = text.substr(at_quote + 1, end - at_quote - 1);
    const auto ranks = read_ranks(std::string_view(text).substr(end + 5));  // `" on `
    if (!ranks) fail(at(0, now) + "\"" + text + "\" names no ranks for " + name);
    for (int other : ranks.value_or(std::vector<int>())) {
      const auto& pending = ranks_[static_cast<size_t>(other)].pending;
      const auto it = pending.find(name);
      if (it == pending.end() || it->second.request.group != group) {
        fail(at(0, now) + "\"" + text + "\", but rank " + std::to_string(other) +
             " has not submitted " + name + " in it");
      }
    }
    at_quote = end + 1;
  }
}

}  // namespace khorus::sim

// Truth about mismatches: see truth.h. The root applies a decision first, so what its error says is
// judged by what every rank has pending at that moment; other ranks must be told the same words.
#include <algorithm>
#include <array>
#include <sstream>

#include "tests/sim/checkers/truth.h"
#include "tests/sim/rank_text.h"
#include "tests/sim/world.h"

namespace khorus::sim {
namespace {

std::string shape_text(const wire::Request& request) {
  const bool first_differs =
      request.kind == OpKind::kAllgather || request.kind == OpKind::kAlltoall;
  if (!first_differs) return khorus::to_string(request.shape);
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

constexpr size_t kAttributes = 11;

std::array<Attribute, kAttributes> attributes_of(const wire::Request& r) {
  return {{{"operation", std::string(khorus::to_string(r.kind))},
           {"dtype", std::string(khorus::to_string(r.dtype))},
           {"shape", shape_text(r)},
           {"reduction", std::string(khorus::to_string(r.op))},
           {"root rank", std::to_string(r.root_rank)},
           {"peer rank", std::to_string(r.peer)},
           {"ranks", r.members.to_string()},
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
    if (response.code == StatusCode::kMismatch) judge_response(response, now);
  }
}

void Truth::judge_response(const wire::Response& response, TimeUs now) {
  ++judged_;
  said_.insert(response.error);
  if (response.error.starts_with("group ")) {
    judge_group(response.error, response.process_set, now);
  } else if (response.tensors.size() != 1) {
    fail(at(0, now) + "\"" + response.error + "\" is not of one operation");
  } else if (response.error.find(" joined") != std::string::npos) {
    judge_absence(response.tensors.front().request, response.error, now);
  } else {
    judge_attributes(response.tensors.front().request, response.error, now);
  }
  for (const wire::ResponseTensor& tensor : response.tensors) {
    decided(key_of(tensor.request), now);
  }
  for (const std::string& group : response.failed_groups) {
    group_decided(response.process_set, group, now);
  }
}

// Of a broadcast the root, else all that have joined instead of submitting it.
void Truth::judge_absence(const wire::Request& named, const std::string& text, TimeUs now) {
  if (!text.starts_with(words_of(named) + ": ")) {
    fail(at(0, now) + "\"" + text + "\" is not about " + words_of(named));
  }
  const std::string key = key_of(named);
  const wire::Request* request = find_any(key);
  std::vector<int> absent;
  if (request != nullptr) {
    for (int rank : book_.needed(*request)) {
      if (find_open(rank, key) == nullptr) absent.push_back(rank);
    }
  }
  const auto joined = [this](int rank) { return has_joined(rank); };
  bool right = !absent.empty() && std::all_of(absent.begin(), absent.end(), joined);
  if (right && request->kind == OpKind::kBroadcast) {
    right = std::binary_search(absent.begin(), absent.end(), request->root_rank);
    absent = {request->root_rank};
  }
  std::string words = rank_text(absent);
  if (absent.size() == 1) words += " (" + peer_info(absent.front()).host + ")";
  const size_t behind = right ? text.find(" " + words) : std::string::npos;
  if (behind == std::string::npos ||
      (text[behind + 1 + words.size()] != ',' && text[behind + 1 + words.size()] != ' ')) {
    fail(at(0, now) + "\"" + text + "\", which does not name those that have joined instead");
  }
}

void Truth::judge_attributes(const wire::Request& named, const std::string& text, TimeUs now) {
  const std::string key = key_of(named);
  std::array<std::map<std::string, std::vector<int>>, kAttributes> values;
  std::array<std::string, kAttributes> names;
  const wire::Request* any = find_any(key);
  const std::vector<int> needed = any == nullptr ? std::vector<int>() : book_.needed(*any);
  for (int other : needed) {
    const Submitted* submitted = find_open(other, key);
    if (submitted == nullptr && any != nullptr && excused(*any, other)) continue;
    if (submitted == nullptr) {
      fail(at(0, now) + "\"" + text + "\", but rank " + std::to_string(other) +
           " has not submitted it");
      return;
    }
    const auto attributes = attributes_of(submitted->request);
    for (size_t i = 0; i < attributes.size(); ++i) {
      names[i] = attributes[i].name;
      values[i][attributes[i].value].push_back(other);
    }
  }
  const bool kinds_differ = values[0].size() > 1;
  const std::string what =
      kinds_differ ? "operation \"" + named.name + "\"" + book_.set_text(named.process_set)
                   : words_of(named);
  if (!text.starts_with(what + " has ")) {
    fail(at(0, now) + "\"" + text + "\" is not about " + what);
  }
  bool differ = false;
  for (size_t i = 0; i < values.size(); ++i) {
    const bool differs = values[i].size() > 1 && (i == 0 || !kinds_differ);
    differ |= differs;
    const bool is_named = text.find(" has " + names[i] + " ") != std::string::npos ||
                          text.find("; " + names[i] + " ") != std::string::npos;
    bool right = is_named == differs;
    for (const auto& [value, ranks] : values[i])
      right &= !differs || claims(text, claim(value, ranks));
    if (!right) fail(at(0, now) + "\"" + text + "\" is wrong about the " + names[i]);
  }
  if (!differ) fail(at(0, now) + "\"" + text + "\", but all ranks submitted the same");
}

// `group "g": rank 2 (node-0) submitted KIND "a" and joined without KIND "b"; ...`
void Truth::judge_joined_group(const std::string& text, ProcessSetId set, TimeUs now) {
  const std::string before = "group \"" + first_quoted(text) + "\"" + book_.set_text(set) + ": ";
  const auto ranks = read_ranks(std::string_view(text).substr(before.size()));
  const size_t without = text.find(" and joined without ");
  wire::Request with;
  with.process_set = set;
  with.name = first_quoted(text.substr(text.find(" submitted ")));
  wire::Request lacking = with;
  lacking.name = first_quoted(text.substr(without));
  if (!ranks) fail(at(0, now) + "\"" + text + "\" names no ranks");
  for (int rank : ranks.value_or(std::vector<int>())) {
    if (find_open(rank, key_of(with)) != nullptr && has_joined(rank) &&
        find_open(rank, key_of(lacking)) == nullptr) {
      continue;
    }
    fail(at(0, now) + "\"" + text + "\", which is not so of rank " + std::to_string(rank));
  }
}

// Every member it names was submitted by the ranks it names, in that group.
void Truth::judge_group(const std::string& text, ProcessSetId set, TimeUs now) {
  const std::string group = first_quoted(text);
  if (!text.starts_with("group \"" + group + "\"" + book_.set_text(set) + ": ")) {
    fail(at(0, now) + "\"" + text + "\" does not name process set " + std::to_string(set));
  }
  if (text.find(" and joined without ") != std::string::npos) {
    judge_joined_group(text, set, now);
    return;
  }
  size_t at_quote = text.find(": only ");
  while ((at_quote = text.find('"', at_quote)) != std::string::npos) {
    const size_t end = text.find('"', at_quote + 1);
    const std::string name = text.substr(at_quote + 1, end - at_quote - 1);
    const auto ranks = read_ranks(std::string_view(text).substr(end + 5));  // `" on `
    if (!ranks) fail(at(0, now) + "\"" + text + "\" names no ranks for " + name);
    for (int other : ranks.value_or(std::vector<int>())) {
      wire::Request named;
      named.process_set = set;
      named.name = name;
      const Submitted* submitted = find(other, key_of(named));
      if (submitted == nullptr || submitted->request.group != group) {
        fail(at(0, now) + "\"" + text + "\", but rank " + std::to_string(other) +
             " has not submitted " + name + " in it");
      }
    }
    at_quote = end + 1;
  }
}

}  // namespace khorus::sim

// See metrics.h.
#include "core/runtime/metrics.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "core/base/json.h"

namespace khorus::runtime {
namespace {

// The shortest text that gives the same number again.
std::string number(double value) {
  char text[32];
  const std::to_chars_result end = std::to_chars(text, text + sizeof text, value);
  return std::string(text, end.ptr);
}

// A label's value between quotes.
std::string escaped(std::string_view value) {
  std::string text;
  for (const char c : value) {
    if (c == '\\' || c == '"') text += '\\';
    text += c == '\n' ? std::string("\\n") : std::string(1, c);
  }
  return text;
}

}  // namespace

void Histogram::observe(uint64_t value) noexcept {
  const auto bound = std::lower_bound(bounds_.begin(), bounds_.end(), value);
  counts_[static_cast<size_t>(bound - bounds_.begin())].fetch_add(1, std::memory_order_relaxed);
  sum_.fetch_add(value, std::memory_order_relaxed);
}

void MetricsPage::family(std::string name, std::string_view type, std::string_view help) {
  families_.push_back({std::move(name), type, help, {}});
}

std::string MetricsPage::labels_text(const Labels& labels) const {
  std::string text;
  for (const Labels* list : {&common_, &labels}) {
    for (const auto& [name, value] : *list) {
      text += (text.empty() ? "{" : ",") + std::string(name) + "=\"" + escaped(value) + "\"";
    }
  }
  return text.empty() ? text : text + "}";
}

void MetricsPage::sample(double value, const Labels& labels) {
  families_.back().samples.push_back({"", labels_text(labels), value});
}

void MetricsPage::histogram(const Histogram& histogram, double unit, const Labels& labels) {
  std::vector<Sample>& samples = families_.back().samples;
  uint64_t cumulative = 0;
  Labels with_bound = labels;
  with_bound.emplace_back("le", "");
  const std::span<const uint64_t> bounds = histogram.bounds();
  for (size_t i = 0; i <= bounds.size(); ++i) {
    cumulative += histogram.count(i);
    with_bound.back().second =
        i < bounds.size() ? number(static_cast<double>(bounds[i]) * unit) : "+Inf";
    samples.push_back({"_bucket", labels_text(with_bound), static_cast<double>(cumulative)});
  }
  samples.push_back({"_sum", labels_text(labels), static_cast<double>(histogram.sum()) * unit});
  samples.push_back({"_count", labels_text(labels), static_cast<double>(cumulative)});
}

std::string MetricsPage::to_prometheus() const {
  std::string text;
  for (const Family& family : families_) {
    text += "# HELP " + family.name + " " + std::string(family.help) + "\n";
    text += "# TYPE " + family.name + " " + std::string(family.type) + "\n";
    for (const Sample& sample : family.samples) {
      text += family.name + sample.suffix + sample.labels + " " + number(sample.value) + "\n";
    }
  }
  return text;
}

std::string MetricsPage::to_json_line(double unix_time_s) const {
  std::string text = "{\"time\":" + number(unix_time_s);
  for (const auto& [name, value] : common_) {
    text += "," + base::json_quoted(name) + ":" + base::json_quoted(value);
  }
  text += ",\"samples\":{";
  bool first = true;
  for (const Family& family : families_) {
    for (const Sample& sample : family.samples) {
      text += first ? "" : ",";
      first = false;
      text += base::json_quoted(family.name + sample.suffix + sample.labels) + ":" +
              number(sample.value);
    }
  }
  return text + "}}\n";
}

}  // namespace khorus::runtime

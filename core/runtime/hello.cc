// See hello.h.
#include "core/runtime/hello.h"

#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <climits>
#include <functional>
#include <utility>

#include "core/runtime/process_stat.h"
#include "core/wire/byte_stream.h"
#include "core/wire/rank_set.h"

namespace khorus::runtime {
namespace {

constexpr size_t kMaxText = 4096;
constexpr size_t kMaxBackends = 64;

std::string describe(const Hello& hello, size_t rank) {
  return "rank " + std::to_string(rank) + " (" + hello.host + ", pid " + std::to_string(hello.pid) +
         ")";
}

// "64 on ranks 0-2, 128 on rank 3"
std::string by_value(const std::vector<Hello>& hellos,
                     const std::function<std::string(const Hello&)>& value) {
  std::vector<std::pair<std::string, wire::RankSet>> values;
  for (size_t rank = 0; rank < hellos.size(); ++rank) {
    const std::string text = value(hellos[rank]);
    auto it = std::find_if(values.begin(), values.end(),
                           [&](const auto& entry) { return entry.first == text; });
    if (it == values.end()) it = values.insert(values.end(), {text, wire::RankSet()});
    it->second.add(static_cast<int32_t>(rank));
  }
  std::string text;
  for (const auto& [known, ranks] : values) {
    if (!text.empty()) text += ", ";
    text += known + (ranks.count() == 1 ? " on rank " : " on ranks ") + ranks.to_string();
  }
  return text;
}

// Empty, or why this backend cannot carry the job.
std::string obstacle(const std::vector<Hello>& hellos, const std::string& name) {
  for (size_t rank = 0; rank < hellos.size(); ++rank) {
    const auto& backends = hellos[rank].backends;
    const auto it = std::find_if(backends.begin(), backends.end(),
                                 [&](const Hello::Backend& b) { return b.name == name; });
    if (it == backends.end()) return describe(hellos[rank], rank) + " does not have it";
    if (!it->problem.empty()) return describe(hellos[rank], rank) + ": " + it->problem;
    if (it->in_process_only && hellos[rank].process != hellos.front().process) {
      return "it needs all ranks in one process, and " + describe(hellos[rank], rank) +
             " is in another than " + describe(hellos.front(), 0);
    }
    if (!it->one_host_only) continue;
    const std::string how = apart(hellos[rank].machine, hellos.front().machine);
    if (!how.empty()) {
      return "it needs all ranks on one host, and " + describe(hellos[rank], rank) + " " + how +
             " " + describe(hellos.front(), 0);
    }
  }
  return "";
}

// No engine that carries data between hosts knows whose bytes it gets.
std::string warning_of(const std::vector<Hello>& hellos, const std::string& backend) {
  const HostIdentity& first = hellos.front().machine;
  const bool leaves = std::any_of(hellos.begin(), hellos.end(), [&](const Hello& hello) {
    return !apart(hello.machine, first).empty();
  });
  if (!leaves) return "";
  return "tensors travel between hosts over " + backend +
         ", neither encrypted nor authenticated: use a network that you trust "
         "(docs/security.md); control messages are authenticated";
}

}  // namespace

wire::Bytes encode(const Hello& hello) {
  wire::ByteWriter writer;
  writer.text(hello.host);
  writer.zigzag(hello.pid);
  writer.text(hello.process);
  write(writer, hello.machine);
  writer.zigzag(hello.cache_capacity);
  writer.text(hello.requested_backend);
  writer.varint(hello.nonce);
  writer.varint(hello.backends.size());
  for (const Hello::Backend& backend : hello.backends) {
    writer.text(backend.name);
    writer.u8(backend.in_process_only ? 1 : 0);
    writer.u8(backend.one_host_only ? 1 : 0);
    writer.text(backend.problem.substr(0, 512));
  }
  return std::move(writer).take();
}

Result<Hello> decode_hello(const wire::Bytes& bytes) {
  wire::ByteReader reader(bytes);
  Hello hello;
  hello.host = reader.text(kMaxText, "host");
  hello.pid = reader.zigzag();
  hello.process = reader.text(kMaxText, "process");
  hello.machine = read_host_identity(reader);
  hello.cache_capacity = reader.zigzag();
  hello.requested_backend = reader.text(kMaxText, "backend");
  hello.nonce = reader.varint();
  const size_t count = reader.count(kMaxBackends, 4, "backends");
  for (size_t i = 0; i < count && reader.ok(); ++i) {
    Hello::Backend backend;
    backend.name = reader.text(kMaxText, "backend");
    backend.in_process_only = reader.u8() != 0;
    backend.one_host_only = reader.u8() != 0;
    backend.problem = reader.text(kMaxText, "problem");
    hello.backends.push_back(std::move(backend));
  }
  if (reader.ok() && reader.left() != 0) reader.fail("trailing bytes");
  if (!reader.ok()) {
    return Status(StatusCode::kInternal, "a hello that cannot be read: " + reader.error());
  }
  return hello;
}

Hello own_identity() {
  Hello hello;
  std::array<char, HOST_NAME_MAX + 1> host{};
  if (gethostname(host.data(), host.size() - 1) == 0) hello.host = host.data();
  hello.pid = getpid();
  hello.machine = own_host_identity();
  hello.process = process_identity(0);
  uint64_t nonce = 0;
  if (getrandom(&nonce, sizeof nonce, 0) == sizeof nonce) hello.nonce = nonce;
  return hello;
}

Status check_settings(const std::vector<Hello>& hellos) {
  const Hello& first = hellos.front();
  const bool caches_equal = std::all_of(hellos.begin(), hellos.end(), [&](const Hello& hello) {
    return hello.cache_capacity == first.cache_capacity;
  });
  if (!caches_equal) {
    return Status(
        StatusCode::kInvalidArgument,
        "KHORUS_CACHE_CAPACITY must be equal on all ranks; it is " +
            by_value(hellos, [](const Hello& h) { return std::to_string(h.cache_capacity); }));
  }
  const bool backends_equal = std::all_of(hellos.begin(), hellos.end(), [&](const Hello& hello) {
    return hello.requested_backend == first.requested_backend;
  });
  if (!backends_equal) {
    return Status(
        StatusCode::kInvalidArgument,
        "KHORUS_BACKEND must be equal on all ranks; it is " +
            by_value(hellos, [](const Hello& h) { return "\"" + h.requested_backend + "\""; }));
  }
  return Status();
}

Result<BackendChoice> choose_backend(const std::vector<Hello>& hellos) {
  const std::string& requested = hellos.front().requested_backend;
  if (!requested.empty() && requested != "auto") {
    const std::string problem = obstacle(hellos, requested);
    if (problem.empty()) {
      return BackendChoice{requested, "KHORUS_BACKEND asks for it", warning_of(hellos, requested)};
    }
    return Status(StatusCode::kUnavailable,
                  "the backend \"" + requested +
                      "\" that KHORUS_BACKEND asks for cannot be used: " + problem +
                      "; see khorusrun --check-build, or set KHORUS_BACKEND=auto");
  }
  std::string others;
  for (const Hello::Backend& candidate : hellos.front().backends) {
    const std::string problem = obstacle(hellos, candidate.name);
    if (problem.empty()) {
      return BackendChoice{
          candidate.name,
          "the best that all ranks can use" + (others.empty() ? "" : " (" + others + ")"),
          warning_of(hellos, candidate.name)};
    }
    if (!others.empty()) others += "; ";
    others += "not " + candidate.name + ": " + problem;
  }
  return Status(
      StatusCode::kUnavailable,
      "no backend can carry the data of this job" +
          (others.empty() ? std::string(": rank 0 has found none") : " (" + others + ")") +
          "; see khorusrun --check-build, or set KHORUS_BACKEND_PATH");
}

}  // namespace khorus::runtime

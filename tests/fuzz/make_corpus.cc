// Writes the seeds of the fuzzers' corpus: valid messages of every kind.
//   make_corpus FOLDER
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>

#include "core/net/authentication.h"
#include "core/net/frame_seal.h"
#include "core/net/store_protocol.h"
#include "core/wire/codec.h"
#include "tests/unit/wire/sample_frames.h"

namespace {

using namespace khorus;

void write(const std::filesystem::path& file, std::span<const std::byte> bytes,
           const std::string& before = "") {
  std::filesystem::create_directories(file.parent_path());
  std::ofstream out(file, std::ios::binary);
  out << before;
  out.write(reinterpret_cast<const char*>(bytes.data()),
            static_cast<std::streamsize>(bytes.size()));
}

void write_handshakes(const std::filesystem::path& folder) {
  std::array<std::byte, net::JobKey::kBytes> raw{};
  raw.fill(std::byte{0x11});  // not the fuzzer's: these are the words of strangers
  const net::JobKey key = net::JobKey::from_bytes(raw);
  net::InitiatorHandshake caller(key, {net::Role::kRank, 1, 1, "job"}, net::Role::kRank, 0);
  const auto hello = caller.hello();
  write(folder / "hello", *hello, std::string(1, '\0'));
  net::ResponderHandshake responder(key, {net::Role::kRank, 0, 1, "job"}, net::Role::kRank,
                                    [](int32_t) { return Status(); });
  const auto answer = responder.receive_hello(*hello);
  write(folder / "answer", answer.bytes, std::string(1, '\1'));
  const auto confirm = caller.receive_hello(answer.bytes);
  std::string both(1, '\0');
  both.append(reinterpret_cast<const char*>(hello->data()), hello->size());
  write(folder / "hello_confirm", *confirm, both);
  net::FrameSeal seal(caller.keys().send);
  const wire::Bytes payload = wire::encode({1, wire::Report()});
  const net::FrameHeader header = seal.seal(payload);
  std::string frame(1, '\2');
  frame.append(reinterpret_cast<const char*>(header.data()), header.size());
  write(folder / "frame", payload, frame);
}

void write_store(const std::filesystem::path& folder) {
  net::StoreRequest set;
  set.kind = net::StoreRequest::Kind::kSet;
  set.id = 7;
  set.key = "address/0/3";
  set.value = wire::bytes_of("127.0.0.1:4711");
  write(folder / "set", net::encode(set));
  net::StoreRequest get;
  get.key = "address/0/3";
  get.timeout = std::chrono::milliseconds(30000);
  write(folder / "get", net::encode(get));
  write(folder / "answer", net::encode(net::StoreAnswer{7, StatusCode::kOk, set.value}));
}

void write_config(const std::filesystem::path& folder) {
  const std::string lines =
      "KHORUS_RANK=3\nKHORUS_SIZE=8\nKHORUS_FUSION_THRESHOLD=64M\nHOROVOD_CYCLE_TIME=1.5\n"
      "KHORUS_STORE=127.0.0.1:4711\nKHORUS_STALL_CHECK_DISABLE=1\nKHORUS_LOG_LEVEL=debug\n"
      "KHORUS_CACHE_CAPACTY=12\nKHORUS_JOB_ID=job\nKHORUS_STALL_CHECK_TIME_SECONDS=60\n";
  write(folder / "many", std::as_bytes(std::span(lines)));
}

// A script for fuzz_node needs no valid message: its vocabulary makes them. Some bytes to begin
// with.
void write_node(const std::filesystem::path& folder) {
  for (int seed = 1; seed <= 4; ++seed) {
    std::string script;
    uint32_t state = static_cast<uint32_t>(seed) * 2654435761U;
    for (int i = 0; i < 300; ++i) {
      state = state * 1664525U + 1013904223U;
      script += static_cast<char>(state >> 24);
    }
    write(folder / ("script" + std::to_string(seed)), std::as_bytes(std::span(script)));
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: make_corpus FOLDER\n");
    return 2;
  }
  const std::filesystem::path folder = argv[1];
  for (const auto& [name, frame] : wire::sample_frames()) {
    write(folder / "codec" / name, wire::encode(frame));
  }
  write_handshakes(folder / "handshake");
  write_store(folder / "store");
  write_config(folder / "config");
  write_node(folder / "node");
  return 0;
}

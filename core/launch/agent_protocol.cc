// See agent_protocol.h. The first byte is the index of the alternative.
#include "core/launch/agent_protocol.h"

#include "core/wire/byte_stream.h"

namespace khorus::launch {
namespace {

using wire::ByteReader;
using wire::ByteWriter;

constexpr size_t kMaxText = 4096;
constexpr size_t kMaxVariable = size_t{4} << 20;
constexpr size_t kMaxOutput = size_t{1} << 17;
constexpr size_t kMaxCount = size_t{1} << 16;

// One function per message serves both directions: a Visitor has number(), text() and flag().
struct Writer {
  ByteWriter bytes;
  template <class Integer>
  void number(const Integer& value) {
    bytes.zigzag(static_cast<int64_t>(value));
  }
  void flag(const bool& value) { bytes.u8(value ? 1 : 0); }
  void text(const std::string& value, size_t) { bytes.text(value); }
};

struct Reader {
  ByteReader bytes;
  template <class Integer>
  void number(Integer& value) {
    const int64_t wide = bytes.zigzag();
    value = static_cast<Integer>(wide);
    if (static_cast<int64_t>(value) != wide) bytes.fail("number out of range");
  }
  void flag(bool& value) { value = bytes.u8() != 0; }
  void text(std::string& value, size_t limit) { value = bytes.text(limit, "text"); }
};

template <class Visitor, class Message>
void visit_hello(Visitor& visitor, Message& message) {
  visitor.text(message.version, kMaxText);
  visitor.text(message.host, kMaxText);
  visitor.text(message.launcher, kMaxText);
}

template <class Visitor, class Message>
void visit_event(Visitor& visitor, Message& message) {
  visitor.number(message.rank);
  visitor.number(message.pid);
  visitor.number(message.status);
}

template <class Visitor, class Message>
void visit_output(Visitor& visitor, Message& message) {
  visitor.number(message.rank);
  visitor.flag(message.is_error);
  visitor.text(message.bytes, kMaxOutput);
}

template <class Visitor, class Message>
void visit_page(Visitor& visitor, Message& message) {
  visitor.number(message.rank);
  visitor.text(message.contents.last_operation, kMaxText);
  visitor.number(message.contents.operations);
  visitor.text(message.contents.failure, kMaxText);
  visitor.number(message.contents.lost_rank);
}

template <class Visitor, class Message>
void visit_place(Visitor& visitor, Message& message) {
  visitor.text(message.job_id, kMaxText);
  visitor.text(message.store, kMaxText);
  visitor.text(message.directory, kMaxText);
  visitor.number(message.first_rank);
  visitor.number(message.ranks);
  visitor.number(message.size);
  visitor.number(message.host_index);
  visitor.number(message.hosts);
  visitor.number(message.restarts);
  visitor.number(message.start_timeout_ms);
  visitor.number(message.host_silence_s);
  visitor.flag(message.tls);
}

void write(Writer& writer, const AgentHello& message) { visit_hello(writer, message); }
void write(Writer& writer, const AgentRefused& message) { writer.text(message.why, kMaxText); }
void write(Writer& writer, const AgentNotice& message) { writer.text(message.text, kMaxText); }
void write(Writer& writer, const AgentOutput& message) { visit_output(writer, message); }
void write(Writer& writer, const AgentPage& message) { visit_page(writer, message); }
void write(Writer& writer, const AgentCredit& message) { writer.number(message.bytes); }
void write(Writer& writer, const GuardEvent& message) {
  writer.number(static_cast<int32_t>(message.kind));
  visit_event(writer, message);
}
void write(Writer& writer, const GuardCommand& message) {
  writer.number(static_cast<int32_t>(message.kind));
  writer.number(message.signal);
  writer.number(message.rank);
}
void write(Writer& writer, const AgentPlan& message) {
  visit_place(writer, message);
  writer.number(message.variables.size());
  for (const auto& [name, value] : message.variables) {
    writer.text(name, kMaxVariable);
    writer.text(value, kMaxVariable);
  }
  writer.number(message.program.size());
  for (const std::string& word : message.program) writer.text(word, kMaxVariable);
  // Last: as the bytes grow they move, and would leave it behind where nobody wipes.
  writer.bytes.raw(message.key.bytes());
}

void read(Reader& reader, AgentHello& message) { visit_hello(reader, message); }
void read(Reader& reader, AgentRefused& message) { reader.text(message.why, kMaxText); }
void read(Reader& reader, AgentNotice& message) { reader.text(message.text, kMaxText); }
void read(Reader& reader, AgentOutput& message) { visit_output(reader, message); }
void read(Reader& reader, AgentPage& message) { visit_page(reader, message); }
void read(Reader& reader, AgentCredit& message) { reader.number(message.bytes); }
void read(Reader& reader, GuardEvent& message) {
  int32_t kind = 0;
  reader.number(kind);
  if (kind < 0 || kind > static_cast<int32_t>(GuardEvent::Kind::kFinished)) {
    reader.bytes.fail("no kind of event");
  }
  message.kind = static_cast<GuardEvent::Kind>(kind);
  visit_event(reader, message);
}
void read(Reader& reader, GuardCommand& message) {
  int32_t kind = 0;
  reader.number(kind);
  if (kind < 0 || kind > static_cast<int32_t>(GuardCommand::Kind::kFinish)) {
    reader.bytes.fail("no kind of command");
  }
  message.kind = static_cast<GuardCommand::Kind>(kind);
  reader.number(message.signal);
  reader.number(message.rank);
}
void read(Reader& reader, AgentPlan& message) {
  visit_place(reader, message);
  int64_t count = 0;
  reader.number(count);
  for (int64_t i = 0; i < count && reader.bytes.ok(); ++i) {
    auto& [name, value] = message.variables.emplace_back();
    reader.text(name, kMaxVariable);
    reader.text(value, kMaxVariable);
  }
  reader.number(count);
  for (int64_t i = 0; i < count && reader.bytes.ok(); ++i) {
    reader.text(message.program.emplace_back(), kMaxVariable);
  }
  const auto key = reader.bytes.raw(net::JobKey::kBytes, "key");
  if (key.size() == net::JobKey::kBytes) {
    message.key = net::JobKey::from_bytes(key.first<net::JobKey::kBytes>());
  } else {
    reader.bytes.fail("no key");
  }
  const bool good = message.ranks >= 1 && message.restarts >= 0 && message.host_silence_s >= 1 &&
                    message.first_rank >= 0 && message.hosts >= 1 && message.host_index >= 0 &&
                    message.host_index < message.hosts &&
                    message.size <= static_cast<int32_t>(kMaxCount) &&
                    message.ranks <= message.size - message.first_rank && !message.program.empty();
  if (!good) reader.bytes.fail("this place does not exist");
}

template <class Variant>
std::vector<std::byte> encode_any(const Variant& message) {
  Writer writer;
  writer.bytes.u8(static_cast<uint8_t>(message.index()));
  std::visit([&](const auto& what) { write(writer, what); }, message);
  return std::move(writer.bytes).take();
}

template <class Variant, size_t kIndex = 0>
std::optional<Variant> decode_any(std::span<const std::byte> bytes) {
  if constexpr (kIndex == std::variant_size_v<Variant>) {
    return std::nullopt;
  } else {
    if (bytes.empty()) return std::nullopt;
    if (static_cast<size_t>(bytes.front()) != kIndex) return decode_any<Variant, kIndex + 1>(bytes);
    Reader reader{ByteReader(bytes.subspan(1))};
    std::variant_alternative_t<kIndex, Variant> message;
    read(reader, message);
    if (!reader.bytes.ok() || reader.bytes.left() > 0) return std::nullopt;
    return Variant(std::in_place_index<kIndex>, std::move(message));
  }
}

}  // namespace

std::vector<std::byte> encode(const AgentMessage& message) { return encode_any(message); }
std::vector<std::byte> encode(const LauncherMessage& message) { return encode_any(message); }

std::optional<AgentMessage> decode_agent_message(std::span<const std::byte> bytes) {
  return decode_any<AgentMessage>(bytes);
}

std::optional<LauncherMessage> decode_launcher_message(std::span<const std::byte> bytes) {
  return decode_any<LauncherMessage>(bytes);
}

}  // namespace khorus::launch

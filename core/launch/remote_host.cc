// See remote_host.h.
#include "core/launch/remote_host.h"

#include <utility>
#include <vector>

#include "core/net/mac.h"
#include "khorus/version.h"

namespace khorus::launch {
namespace {

constexpr size_t kGrantBytes = kOutputWindowBytes / 4;

RankStream::Options ssh_words(const std::string& host, OutputWriter* output) {
  RankStream::Options options;
  options.rank.prefix = "khorusrun: host " + host + ": ";
  options.output = output;
  options.log_failed = [](const std::string&) {};
  return options;
}

}  // namespace

RemoteHost::RemoteHost(net::asio::io_context* io, CarrierEnds ends, int ranks,
                       OutputWriter* standard_error, Events events)
    : host_(ends.host),
      ranks_(ranks),
      events_(std::move(events)),
      stream_(io, std::move(ends.from), std::move(ends.to),
              {.on_message = [this](std::span<const std::byte> bytes) { on_message(bytes); },
               // The end of ssh, which follows, says more.
               .on_closed = [](const std::string&) {},
               .on_written = {}}),
      words_(io, std::move(ends.standard_error), ssh_words(ends.host.name, standard_error)) {
  stream_.start();
  words_.resume();
}

void RemoteHost::grant() {
  // In few messages; an agent that has sent a whole window is waiting for one.
  if (owed_ < kGrantBytes) return;
  send(AgentCredit{std::exchange(owed_, 0)});
}

void RemoteHost::send(const LauncherMessage& message) {
  std::vector<std::byte> bytes = encode(message);
  stream_.send(bytes);
  net::wipe(bytes);  // the plan holds the key
}

void RemoteHost::end() {
  stream_.drain();
  words_.drain();
  over_ = true;
}

void RemoteHost::on_message(std::span<const std::byte> bytes) {
  const std::optional<AgentMessage> message = decode_agent_message(bytes);
  if (!message || hello_.has_value() == std::holds_alternative<AgentHello>(*message)) {
    return events_.on_refused("what it says is not from khorusrun " KHORUS_VERSION_STRING);
  }
  std::visit([this](const auto& what) { take(what); }, *message);
}

void RemoteHost::take(const AgentHello& hello) {
  hello_ = hello;
  if (hello.version != KHORUS_VERSION_STRING) {
    return events_.on_refused("it has khorusrun " + hello.version + " and this is " +
                              KHORUS_VERSION_STRING +
                              "; install the same version, or give --remote-launcher");
  }
  events_.on_hello();
}

void RemoteHost::take(const GuardEvent& event) {
  const bool of_a_rank = event.kind != GuardEvent::Kind::kFinished;
  if (of_a_rank && !has_rank(event.rank)) return;
  events_.on_event(event);
}

void RemoteHost::take(const AgentOutput& output) {
  if (has_rank(output.rank)) events_.on_output(output);
}

void RemoteHost::take(const AgentPage& page) {
  if (has_rank(page.rank)) events_.on_page(page);
}

}  // namespace khorus::launch

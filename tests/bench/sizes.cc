// See sizes.h.
//
// Sizes are those of nccl-tests: of an allgather the bytes that a rank has in the end, of all
// others those that it has at the beginning. Bus bandwidth, too: see its PERFORMANCE.md.
#include "tests/bench/sizes.h"

#include <khorus/khorus.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <stdexcept>

#include "core/base/half.h"
#include "tests/bench/measure.h"

namespace khorus::bench {
namespace {

using nlohmann::json;

// A whole number as an element of the type.
template <class T>
void put_as(double value, void* place) {
  const T narrow = static_cast<T>(value);
  std::memcpy(place, &narrow, sizeof narrow);
}

void put(DataType type, double value, void* place) {
  const auto bits = [&](uint16_t half) { std::memcpy(place, &half, sizeof half); };
  switch (type) {
    case DataType::kFloat32:
      return put_as<float>(value, place);
    case DataType::kFloat64:
      return put_as<double>(value, place);
    case DataType::kFloat16:
      return bits(base::float_to_float16(static_cast<float>(value)));
    case DataType::kBfloat16:
      return bits(base::float_to_bfloat16(static_cast<float>(value)));
    case DataType::kInt8:
      return put_as<int8_t>(value, place);
    case DataType::kUint8:
      return put_as<uint8_t>(value, place);
    case DataType::kInt16:
      return put_as<int16_t>(value, place);
    case DataType::kInt32:
      return put_as<int32_t>(value, place);
    case DataType::kInt64:
      return put_as<int64_t>(value, place);
    default:
      break;
  }
  throw std::invalid_argument("--type " + std::string(to_string(type)) + " is not measured");
}

// One size of one operation on this rank's memory.
class Measured {
 public:
  Measured(const SizesOptions& options, size_t count)
      : type_(options.type),
        width_(element_size(options.type)),
        rows_(static_cast<int64_t>(count)),
        name_("bench." + options.op + "." + std::to_string(count)),
        data_(count * width_) {}
  virtual ~Measured() = default;

  // One operation, to its end.
  virtual void once() = 0;
  // Elements that an operation on known values gets wrong.
  virtual uint64_t wrong() = 0;

 protected:
  static int ranks() { return khorus::size(); }
  // Small enough that sums of all ranks fit every type.
  static double value(int rank, int64_t i) { return static_cast<double>((i * 7 + rank * 3) % 11); }

  void fill() {
    for (int64_t i = 0; i < rows_; ++i) set(data_, i, value(khorus::rank(), i));
  }
  void set(std::vector<unsigned char>& to, int64_t i, double value) const {
    put(type_, value, to.data() + static_cast<size_t>(i) * width_);
  }
  TensorView view() { return view(data_); }
  TensorView view(std::vector<unsigned char>& data) const {
    TensorView result;
    result.data = data.data();
    result.dtype = type_;
    result.shape = {static_cast<int64_t>(data.size() / width_)};
    return result;
  }
  // Elements of `found` that are not `expected(i)`.
  uint64_t differing(const TensorView& found, int64_t count,
                     const std::function<double(int64_t)>& expected) const {
    if (element_count(found.shape) != count)
      return static_cast<uint64_t>(std::max<int64_t>(count, 1));
    uint64_t different = 0;
    unsigned char wanted[8];
    for (int64_t i = 0; i < count; ++i) {
      put(type_, expected(i), wanted);
      const auto* const place = static_cast<const unsigned char*>(found.data);
      different +=
          std::memcmp(place + static_cast<size_t>(i) * width_, wanted, width_) != 0 ? 1 : 0;
    }
    return different;
  }
  static void finish(const WorkPtr& work) { throw_if_error(work->wait()); }
  static double sum_of_ranks(int64_t i) {
    double sum = 0;
    for (int r = 0; r < ranks(); ++r) sum += value(r, i);
    return sum;
  }

  const DataType type_;
  const size_t width_;
  const int64_t rows_;
  const std::string name_;
  std::vector<unsigned char> data_;
};

AllreduceOptions with(ReduceOp op) {
  AllreduceOptions options;
  options.op = op;
  return options;
}

// In place. The timed rounds take the maximum, which leaves the values as they are.
class Allreduce : public Measured {
 public:
  using Measured::Measured;
  void once() override { reduce(name_, ReduceOp::kMax); }
  uint64_t wrong() override {
    fill();
    reduce(name_ + ".check", ReduceOp::kSum);
    return differing(view(), rows_, sum_of_ranks);
  }

 private:
  void reduce(const std::string& name, ReduceOp op) {
    finish(khorus::engine().allreduce_async(name, view(), view(), with(op)));
  }
};

class Broadcast : public Measured {
 public:
  using Measured::Measured;
  void once() override { finish(khorus::engine().broadcast_async(name_, view(), view(), 0)); }
  uint64_t wrong() override {
    fill();
    once();
    return differing(view(), rows_, [](int64_t i) { return value(0, i); });
  }
};

class Allgather : public Measured {
 public:
  Allgather(const SizesOptions& options, size_t count)
      : Measured(options, std::max<size_t>(1, count / static_cast<size_t>(ranks()))) {}
  void once() override { finish(gather()); }
  uint64_t wrong() override {
    fill();
    const WorkPtr work = gather();
    finish(work);
    return differing(work->result(), rows_ * ranks(),
                     [this](int64_t i) { return value(static_cast<int>(i / rows_), i % rows_); });
  }

 private:
  WorkPtr gather() { return khorus::engine().allgather_async(name_, view()); }
};

class Reducescatter : public Measured {
 public:
  using Measured::Measured;
  void once() override { finish(scatter(name_, ReduceOp::kMax)); }
  uint64_t wrong() override {
    fill();
    const WorkPtr work = scatter(name_ + ".check", ReduceOp::kSum);
    finish(work);
    const int64_t part = rows_ / ranks(), more = rows_ % ranks(), rank = khorus::rank();
    const int64_t first = part * rank + std::min(rank, more);
    return differing(work->result(), part + (rank < more ? 1 : 0),
                     [first](int64_t i) { return sum_of_ranks(first + i); });
  }

 private:
  WorkPtr scatter(const std::string& name, ReduceOp op) {
    return khorus::engine().reducescatter_async(name, view(), with(op));
  }
};

class Alltoall : public Measured {
 public:
  Alltoall(const SizesOptions& options, size_t count)
      : Measured(options, std::max<size_t>(1, count / static_cast<size_t>(ranks())) *
                              static_cast<size_t>(ranks())) {}
  void once() override { finish(exchange()); }
  uint64_t wrong() override {
    fill();
    const WorkPtr work = exchange();
    finish(work);
    const int64_t part = rows_ / ranks();
    return differing(work->result(), rows_, [part](int64_t i) {
      return value(static_cast<int>(i / part), khorus::rank() * part + i % part);
    });
  }

 private:
  WorkPtr exchange() { return khorus::engine().alltoall_async(name_, view()); }
};

// To the next rank, from the one before.
class SendRecv : public Measured {
 public:
  SendRecv(const SizesOptions& options, size_t count)
      : Measured(options, count), received_(data_.size()) {
    if (ranks() < 2) throw std::invalid_argument("--op sendrecv needs two ranks");
  }
  void once() override {
    const WorkPtr in = khorus::engine().recv_async(view(received_), previous());
    finish(khorus::engine().send_async(view(), (khorus::rank() + 1) % ranks()));
    finish(in);
  }
  uint64_t wrong() override {
    fill();
    once();
    return differing(view(received_), rows_, [](int64_t i) { return value(previous(), i); });
  }

 private:
  static int previous() { return (khorus::rank() + ranks() - 1) % ranks(); }
  std::vector<unsigned char> received_;
};

struct Operation {
  const char* redop;
  double (*bus)(double ranks);  // bus bandwidth by algorithm bandwidth
  std::unique_ptr<Measured> (*make)(const SizesOptions&, size_t count);
};

template <class T>
std::unique_ptr<Measured> make(const SizesOptions& options, size_t count) {
  return std::make_unique<T>(options, count);
}

const Operation& operation_of(const std::string& name) {
  static constexpr auto kPart = [](double n) { return (n - 1) / n; };
  static constexpr auto kWhole = [](double) { return 1.0; };
  static const std::map<std::string, Operation> operations = {
      {"allreduce", {"max", [](double n) { return 2 * (n - 1) / n; }, make<Allreduce>}},
      {"allgather", {"none", kPart, make<Allgather>}},
      {"broadcast", {"none", kWhole, make<Broadcast>}},
      {"reducescatter", {"max", kPart, make<Reducescatter>}},
      {"alltoall", {"none", kPart, make<Alltoall>}},
      {"sendrecv", {"none", kWhole, make<SendRecv>}}};
  const auto found = operations.find(name);
  if (found != operations.end()) return found->second;
  std::string known;
  for (const auto& [key, value] : operations) known += (known.empty() ? "" : ", ") + key;
  throw std::invalid_argument("--op " + name + ": there are " + known);
}

// A memcpy of so many bytes; all ranks make theirs at about the same time.
std::function<void()> copy_of(size_t bytes) {
  auto from = std::make_shared<std::vector<unsigned char>>(bytes, 1);
  auto to = std::make_shared<std::vector<unsigned char>>(bytes);
  return [from, to] {
    std::memcpy(to->data(), from->data(), from->size());
    asm volatile("" : : "r"(to->data()) : "memory");
  };
}

json time_size(const SizesOptions& options, const Operation& operation, size_t bytes) {
  const size_t count = std::max<size_t>(1, bytes / element_size(options.type));
  const std::unique_ptr<Measured> measured = operation.make(options, count);
  auto wrong = static_cast<int64_t>(measured->wrong());
  khorus::allreduce("wrong", &wrong, 1, ReduceOp::kSum);
  const int64_t rounds = rounds_for(options.seconds, [&] { measured->once(); });
  const ControlTraffic before = ControlTraffic::now();
  const std::vector<double> times = time_rounds(rounds, [&] { measured->once(); });
  const ControlTraffic traffic = ControlTraffic::now() - before;
  const std::vector<double> copies =
      time_rounds(rounds, copy_of(count * element_size(options.type)));
  const Stages stages =
      stages_of(options.op == "sendrecv" ? "send/recv" : options.op, static_cast<size_t>(rounds));
  const double seconds = quantile(times, 0.5) * 1e-6;
  const double algbw = static_cast<double>(count * element_size(options.type)) / seconds * 1e-9;
  return {{"op", options.op},
          {"bytes", count * element_size(options.type)},
          {"count", count},
          {"type", to_string(options.type)},
          {"redop", operation.redop},
          {"rounds", rounds},
          {"wrong", wrong},
          {"time_us", summary(times)},
          {"memcpy_us", summary(copies)},
          {"algbw", algbw},
          {"busbw", algbw * operation.bus(khorus::size())},
          {"agreed_us", summary(stages.agreed)},
          {"dispatched_us", summary(stages.dispatched)},
          {"done_us", summary(stages.done)},
          {"control_messages", traffic.messages / static_cast<double>(rounds)},
          {"control_bytes", traffic.bytes / static_cast<double>(rounds)}};
}

void print_header(const SizesOptions& options) {
  std::printf("# %s on %s, %d ranks, %s; times in us, of an operation; p50 of each stage\n",
              options.op.c_str(), khorus::engine().backend_name().c_str(), khorus::size(),
              options.op == "allreduce" || options.op == "broadcast" ? "in place" : "out of place");
  std::printf("#%11s %11s %8s %6s %10s %8s %8s %7s %10s %10s %8s %8s %8s %8s\n", "size(B)", "count",
              "type", "redop", "time", "algbw", "busbw", "#wrong", "min", "p99", "agreed",
              "dispatch", "done", "messages");
}

void print_row(const json& row) {
  const auto stage = [&row](const char* key) {
    return row.at(key).is_null() ? 0.0 : row.at(key).at("p50").get<double>();
  };
  const json& time = row.at("time_us");
  std::printf(
      "%12zu %11zu %8s %6s %10.1f %8.3f %8.3f %7lld %10.1f %10.1f %8.1f %8.1f %8.1f %8.2f\n",
      row.at("bytes").get<size_t>(), row.at("count").get<size_t>(),
      row.at("type").get<std::string>().c_str(), row.at("redop").get<std::string>().c_str(),
      time.at("p50").get<double>(), row.at("algbw").get<double>(), row.at("busbw").get<double>(),
      row.at("wrong").get<long long>(), time.at("min").get<double>(), time.at("p99").get<double>(),
      stage("agreed_us"), stage("dispatched_us"), stage("done_us"),
      row.at("control_messages").get<double>());
  std::fflush(stdout);
}

}  // namespace

json run_sizes(const SizesOptions& options) {
  const Operation& operation = operation_of(options.op);
  if (khorus::rank() == 0) print_header(options);
  json rows = json::array();
  for (size_t bytes = options.least; bytes <= options.most; bytes *= options.factor) {
    rows.push_back(time_size(options, operation, bytes));
    if (khorus::rank() == 0) print_row(rows.back());
  }
  return rows;
}

}  // namespace khorus::bench

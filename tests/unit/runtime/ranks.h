// Ranks: N engines as threads of one process, over the in-process channel or over real TCP with
// store, key and handshake.
#pragma once

#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "core/net/store_server.h"
#include "khorus/engine.h"

namespace khorus::test {

struct Transport {
  std::string backend = "local";
  bool tcp = false;
};
inline std::ostream& operator<<(std::ostream& out, const Transport& transport) {
  return out << transport.backend << (transport.tcp ? "_tcp" : "");
}
// Debian's Gloo is not built for ThreadSanitizer, which sees races where it cannot see the locks.
#if defined(__SANITIZE_THREAD__)
inline const std::vector<std::string> kBackends = {"local", "shm"};
#else
inline const std::vector<std::string> kBackends = {"local", "shm", "gloo"};
#endif

// Every backend over every kind of control channel.
std::vector<Transport> transports();

// A job of `size` ranks. Its engines can be made any number of times.
class Ranks {
 public:
  using Tweak = std::function<void(EngineOptions*)>;
  explicit Ranks(int size, Transport transport = {}, Tweak tweak = {});

  int size() const { return size_; }
  EngineOptions options(int rank) const;
  std::shared_ptr<InProcessWorld> world() const { return world_; }

  // Makes the engines, calls `body` with each on a thread of its own, destroys them.
  void run(const std::function<void(Engine&)>& body);
  // The same without engines: `body` makes what it needs.
  void run_bare(const std::function<void(int rank)>& body) const;

 private:
  const int size_;
  const Transport transport_;
  const Tweak tweak_;
  std::shared_ptr<InProcessWorld> world_;
  std::unique_ptr<net::StoreServer> store_;
  std::vector<EngineOptions> options_;
};

// A view of all of `values`.
template <class T>
TensorView view_of(std::vector<T>& values, DataType dtype) {
  TensorView view;
  view.data = values.data();
  view.dtype = dtype;
  view.shape = {static_cast<int64_t>(values.size())};
  return view;
}
inline TensorView view_of(std::vector<float>& values) {
  return view_of(values, DataType::kFloat32);
}

inline AllreduceOptions with(ReduceOp op, double prescale = 1, double postscale = 1) {
  AllreduceOptions options;
  options.op = op;
  options.prescale = prescale;
  options.postscale = postscale;
  return options;
}

// 1, or `many` when KHORUS_TEST_SOAK=1.
int soak_factor(int many);

}  // namespace khorus::test

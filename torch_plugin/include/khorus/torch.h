// Khorus for libtorch: collectives on tensors, DistributedOptimizer, broadcast of training state;
// further operations, checkpoints, compression and SyncBatchNorm are in headers of their own, which
// this includes.
//
//   khorus::init();
//   auto model = Net();
//   khorus::torch::broadcast_parameters(*model, /*root_rank=*/0);
//   khorus::torch::DistributedOptimizer optimizer(
//       std::make_unique<torch::optim::AdamW>(model->parameters(), options),
//       model->named_parameters());
//   optimizer.zero_grad();  loss.backward();  optimizer.step();
//
// Tensors are of the CPU or of this rank's GPU, as each call likes; docs/gpus.md says what differs.
//
// Errors are khorus::Error; a wrong argument throws before anything is sent. Functions may be
// called from any thread; one Handle or one DistributedOptimizer is used by one thread at a time,
// except that backward() may run its hooks on any thread. Inside this namespace `torch` is
// khorus::torch, so libtorch's own names are spelled ::torch.
#pragma once

#include <torch/nn/module.h>
#include <torch/optim/optimizer.h>
#include <torch/ordered_dict.h>
#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "khorus/engine.h"
#include "khorus/khorus.h"
#include "khorus/torch_checkpoint.h"
#include "khorus/torch_compression.h"
#include "khorus/torch_sync_batch_norm.h"

namespace khorus::torch {

using ::torch::Tensor;

// `name` matches the tensor across ranks; empty: named by kind and position, so all ranks must then
// submit in the same order. `engine`: null means the default engine of khorus::init().
struct CollectiveOptions {
  std::string name = {};
  ProcessSetId process_set = kGlobalProcessSet;
  Engine* engine = nullptr;
};

struct ReduceOptions {
  std::string name = {};
  ReduceOp op = ReduceOp::kAverage;
  CompressorPtr compression = Compression::none;
  double prescale_factor = 1.0;   // multiplies every element before the reduction
  double postscale_factor = 1.0;  // and after it
  ProcessSetId process_set = kGlobalProcessSet;
  Engine* engine = nullptr;
};

// An operation under way. It keeps the tensors alive. The result is complete, and what is in place
// but travels otherwise (non-contiguous, compressed) is written back, only once wait() has
// returned.
class Handle {
 public:
  Handle() = default;
  // `finish` makes the result of the works, and runs once, in the first wait(). `device`: of the
  // tensors.
  Handle(std::vector<WorkPtr> works, std::function<Tensor()> finish, at::Device device = at::kCPU);

  bool valid() const noexcept { return !works_.empty(); }
  // True once the operation is over, on a GPU: complete there. REQUIRES: valid().
  bool poll() const noexcept;
  // Blocks; returns the result, or throws Error. May be called again. REQUIRES: valid().
  // Of tensors on a GPU it blocks until the operation is there; what the calling thread puts into
  // its current stream from now on begins after it. What fails later fails in the next operation.
  Tensor wait();
  // As wait(), for the works alone: nothing is written back yet.
  Status settle() const;
  // One, or two for a sparse tensor.
  const std::vector<WorkPtr>& works() const noexcept { return works_; }

 private:
  std::vector<WorkPtr> works_;
  std::function<Tensor()> finish_;
  at::Device device_ = at::kCPU;
  Tensor result_;
};

// The members of a grouped operation: all succeed or all fail.
class GroupHandle {
 public:
  GroupHandle() = default;
  explicit GroupHandle(std::vector<Handle> members) : members_(std::move(members)) {}

  bool poll() const noexcept;
  // The results in the order of the tensors given. Throws after all members are over.
  std::vector<Tensor> wait();
  const std::vector<Handle>& members() const noexcept { return members_; }

 private:
  std::vector<Handle> members_;
};

inline bool poll(const Handle& handle) { return handle.poll(); }
inline Tensor synchronize(Handle& handle) { return handle.wait(); }

// Elementwise reduction over the ranks: same dtype, shape and options everywhere. Tensors need not
// be contiguous. A trailing underscore means in place.
//
// The blocking forms that return new tensors are differentiable (those on dense tensors): the
// gradient is that of the sum of all ranks' losses, and costs one operation of its own,
// NAME.gradient. All ranks then record the same operations and run backward() alike. There is no
// gradient of ops other than sum and average. What is asynchronous or in place is not recorded by
// autograd.
Tensor allreduce(const Tensor& tensor, const ReduceOptions& options = {});
Tensor allreduce_(const Tensor& tensor, const ReduceOptions& options = {});
Handle allreduce_async(const Tensor& tensor, const ReduceOptions& options = {});
Handle allreduce_async_(const Tensor& tensor, const ReduceOptions& options = {});

// The member i of a group is named NAME.i.
std::vector<Tensor> grouped_allreduce(const std::vector<Tensor>& tensors,
                                      const ReduceOptions& options = {});
std::vector<Tensor> grouped_allreduce_(const std::vector<Tensor>& tensors,
                                       const ReduceOptions& options = {});
GroupHandle grouped_allreduce_async(const std::vector<Tensor>& tensors,
                                    const ReduceOptions& options = {});
GroupHandle grouped_allreduce_async_(const std::vector<Tensor>& tensors,
                                     const ReduceOptions& options = {});

// The sum or average of sparse COO tensors of one shape and floating type: every rank's indices and
// values are gathered, so it pays while few rows are used. The result is coalesced, and equal bit
// by bit on all ranks.
Tensor sparse_allreduce(const Tensor& tensor, const ReduceOptions& options = {});
Handle sparse_allreduce_async(const Tensor& tensor, const ReduceOptions& options = {});

// Concatenation along the first dimension, which may differ by rank and may be 0. The result's
// memory belongs to the engine's allocation and lives as long as the result.
Tensor allgather(const Tensor& tensor, const CollectiveOptions& options = {});
Handle allgather_async(const Tensor& tensor, const CollectiveOptions& options = {});
std::vector<Tensor> grouped_allgather(const std::vector<Tensor>& tensors,
                                      const CollectiveOptions& options = {});
GroupHandle grouped_allgather_async(const std::vector<Tensor>& tensors,
                                    const CollectiveOptions& options = {});

// The root's values on every rank.
Tensor broadcast(const Tensor& tensor, int root_rank, const CollectiveOptions& options = {});
Tensor broadcast_(const Tensor& tensor, int root_rank, const CollectiveOptions& options = {});
Handle broadcast_async(const Tensor& tensor, int root_rank, const CollectiveOptions& options = {});
Handle broadcast_async_(const Tensor& tensor, int root_rank, const CollectiveOptions& options = {});
std::vector<Tensor> grouped_broadcast(const std::vector<Tensor>& tensors, int root_rank,
                                      const CollectiveOptions& options = {});
std::vector<Tensor> grouped_broadcast_(const std::vector<Tensor>& tensors, int root_rank,
                                       const CollectiveOptions& options = {});
GroupHandle grouped_broadcast_async(const std::vector<Tensor>& tensors, int root_rank,
                                    const CollectiveOptions& options = {});
GroupHandle grouped_broadcast_async_(const std::vector<Tensor>& tensors, int root_rank,
                                     const CollectiveOptions& options = {});

// Returns when every rank has called it.
void barrier(const CollectiveOptions& options = {});

// Makes every rank's tensors equal to the root's, in place. The first form also covers buffers.
// Every rank has the same names, shapes and dtypes.
void broadcast_parameters(const ::torch::nn::Module& module, int root_rank,
                          const CollectiveOptions& options = {});
void broadcast_parameters(const ::torch::OrderedDict<std::string, Tensor>& parameters,
                          int root_rank, const CollectiveOptions& options = {});

// Makes the state (moments, step counts) and the options (learning rate, ...) of every rank's
// optimizer equal to the root's: any optimizer of torch::optim, or a DistributedOptimizer, fresh or
// used. Every rank has the same kind of optimizer over the same parameter groups.
void broadcast_optimizer_state(::torch::optim::Optimizer& optimizer, int root_rank,
                               const CollectiveOptions& options = {});

struct DistributedOptimizerOptions {
  // kAverage, kSum or kAdasum. With kAdasum every rank makes the step of its own gradients, and the
  // steps are combined, not the gradients (as in Horovod): after step() all ranks have the same
  // parameters, while the optimizer's state is each rank's own.
  ReduceOp op = ReduceOp::kAverage;
  // backward() calls whose gradients are summed locally before one reduction. They are summed, not
  // averaged, as in Horovod: divide the loss to get a mean.
  int64_t backward_passes_per_step = 1;
  CompressorPtr compression = Compression::none;
  // Splits the averaging: 1/factor before the sum, factor/size after it. Needs kAverage.
  double gradient_predivide_factor = 1.0;
  // Gradients that are reduced together: all or none. Either the number of groups into which the
  // parameters are cut in their order, or the groups themselves (a parameter in none goes alone).
  // The same on all ranks. A sparse gradient always goes alone.
  int64_t num_groups = 0;
  std::vector<std::vector<Tensor>> groups = {};
  // Sparse gradients are made dense before they are reduced, instead of being gathered.
  bool sparse_as_dense = false;
  // From the second step on, dense gradients live in one piece of memory, in the order in which
  // backward() makes them, and are reduced there in buckets that the first step has shown to suit:
  // nothing is packed, and nothing is copied once more between processes of one host. What a kept
  // reference to an earlier step's gradient holds stays as it was. A bucket that is compressed to
  // fp16 or bf16 is cast as one tensor. Not with a compressor of your own, groups or kAdasum, nor
  // for gradients that are not contiguous: those go one by one. Where parameters are on a GPU so is
  // this memory, and gradients of the CPU go one by one. On the CPU the bits are the same. If it is
  // off on some rank, no rank has one.
  bool gradient_arena = true;
  ProcessSetId process_set = kGlobalProcessSet;
  // Prefix of the tensor names. Two optimizers with equal parameter names whose gradients are under
  // way at the same time need different prefixes.
  std::string name = {};
  Engine* engine = nullptr;  // null: the default engine. Outlives the optimizer.
};

class GradientReducer;

// Names and parameters, in order: model->named_parameters(), or {{"w", w}, {"b", b}}.
class NamedParameters : public std::vector<std::pair<std::string, Tensor>> {
 public:
  using vector::vector;
  NamedParameters(const ::torch::OrderedDict<std::string, Tensor>& parameters);  // NOLINT: implicit
};

// Wraps an optimizer so that step() uses gradients reduced over all ranks.
//
// The reduction of a gradient starts inside backward(), right after the gradient is accumulated,
// and overlaps the rest of backward(). Gradients are reduced in place. At step() (or synchronize())
// the parameters that got no gradient on this rank take part with the gradient they have, or zeros,
// so ranks may use different parameters. Sparse gradients (of an Embedding with sparse(true)) stay
// sparse; the first step costs one small extra operation in which the ranks agree on which.
//
// Ranks may step several optimizers in different orders while all their parameters have gradients:
// for one without, a rank takes part only in the step() of its own optimizer.
//
// It is an Optimizer: schedulers and code that edits param_groups() work on it. With a closure
// (LBFGS needs one), gradients and the returned loss are reduced after each call of the closure, so
// that all ranks take the same decisions.
//
// May be destroyed at any time: works under way keep their memory alive.
class DistributedOptimizer : public ::torch::optim::Optimizer {
 public:
  // `parameters` names every parameter of `optimizer` (further ones are ignored); names are unique.
  // Throws Error(InvalidArgument) otherwise.
  DistributedOptimizer(std::unique_ptr<::torch::optim::Optimizer> optimizer,
                       const NamedParameters& parameters,
                       const DistributedOptimizerOptions& options = {});
  ~DistributedOptimizer() override;
  DistributedOptimizer(const DistributedOptimizer&) = delete;
  DistributedOptimizer& operator=(const DistributedOptimizer&) = delete;

  // Waits until every gradient is reduced; for those on a GPU the current stream waits, not the
  // host (see Handle::wait). Then gradients may be read and changed (clipped); the next step() does
  // not reduce them again. Throws the first error after all works are over.
  void synchronize();

  // Waits as synchronize() does unless that was done, then steps the wrapped optimizer.
  Tensor step(LossClosure closure = nullptr) override;

  // While the returned guard lives, step() does not synchronize.
  class SkipSynchronize {
   public:
    explicit SkipSynchronize(bool& should_synchronize);
    ~SkipSynchronize();
    SkipSynchronize(const SkipSynchronize&) = delete;
    SkipSynchronize& operator=(const SkipSynchronize&) = delete;

   private:
    bool& should_synchronize_;
    bool before_;
  };
  [[nodiscard]] SkipSynchronize skip_synchronize() { return SkipSynchronize(should_synchronize_); }

  // Between two steps only (Error otherwise).
  void set_backward_passes_per_step(int64_t passes);

  // Between backward() and step() this is an Error: the gradients are being reduced.
  void zero_grad(bool set_to_none = true);
  // New parameters are named group.G.I. The same on all ranks, between two steps (Error otherwise).
  void add_param_group(const ::torch::optim::OptimizerParamGroup& group);
  void add_parameters(const std::vector<Tensor>& parameters);

  // The wrapped optimizer holds the state; param_groups() of this object are the ones that count.
  ::torch::optim::Optimizer& wrapped() noexcept { return *wrapped_; }
  auto& state() noexcept { return wrapped_->state(); }
  const auto& state() const noexcept { return std::as_const(*wrapped_).state(); }
  void save(::torch::serialize::OutputArchive& archive) const override;
  void load(::torch::serialize::InputArchive& archive) override;

 private:
  void refuse_when_pending(const char* what) const;
  void push_options() const;  // ours -> wrapped
  void pull_options();        // wrapped -> ours
  Tensor run_closure(const LossClosure& closure);
  Tensor step_with_adasum(const LossClosure& closure);

  std::unique_ptr<::torch::optim::Optimizer> wrapped_;
  std::shared_ptr<GradientReducer> reducer_;
  bool should_synchronize_ = true;
};

}  // namespace khorus::torch

#include "khorus/torch_operations.h"

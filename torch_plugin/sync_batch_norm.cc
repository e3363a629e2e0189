// See torch_sync_batch_norm.h.
//
// Forward: every rank gives count, mean and sum of squared deviations of each feature; they are
// gathered and combined (Chan, Golub and LeVeque, 1979) in float64 and in rank order, so
// all ranks get the same bits. Backward: the two sums over the whole batch that the derivative
// needs are allreduced.
#include "khorus/torch_sync_batch_norm.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/nn/init.h>

#include "torch_plugin/device.h"
#include "torch_plugin/tensor_view.h"

namespace khorus::torch {
namespace {

using ::torch::autograd::AutogradContext;
using ::torch::autograd::variable_list;

// All but the features' dimension.
std::vector<int64_t> batch_dimensions(const Tensor& x) {
  std::vector<int64_t> dimensions{0};
  for (int64_t d = 2; d < x.dim(); ++d) dimensions.push_back(d);
  return dimensions;
}

// [features] as something that broadcasts against x.
Tensor along_features(const Tensor& values, const Tensor& x) {
  std::vector<int64_t> shape(static_cast<size_t>(x.dim()), 1);
  shape[1] = values.numel();
  return values.view(shape);
}

// [3, features] float64: count, mean, sum of squared deviations of this rank's batch.
Tensor local_statistics(const Tensor& x) {
  const int64_t features = x.size(1);
  const auto count = features == 0 ? 0 : x.numel() / features;
  Tensor result = at::zeros({3, features}, x.options().dtype(at::kDouble));
  if (count == 0) return result;
  const Tensor wide = x.to(at::kDouble);
  result[0].fill_(static_cast<double>(count));
  result[1] = wide.mean(batch_dimensions(x));
  result[2] = (wide - along_features(result[1], x)).square().sum(batch_dimensions(x));
  return result;
}

// The same of all ranks' batches together.
Tensor combine(const Tensor& all) {
  const Tensor counts = all.select(1, 0), means = all.select(1, 1), deviations = all.select(1, 2);
  const Tensor total = counts.sum(0);
  const Tensor mean = (counts * means).sum(0) / total;
  const Tensor deviation = (deviations + counts * (means - mean).square()).sum(0);
  return at::stack({total, mean, deviation});
}

CollectiveOptions operation(const SyncBatchNormOptions& options, const char* what) {
  CollectiveOptions result;
  // One name for layers of all widths: ranks that disagree about the width get a mismatch at once,
  // which is worth more than a place in the response cache for each.
  result.name = options.name + "." + what;
  result.process_set = options.process_set;
  result.engine = options.engine;
  return result;
}

ReduceOptions summing(const CollectiveOptions& names) {
  ReduceOptions options;
  options.name = names.name;
  options.op = ReduceOp::kSum;
  options.process_set = names.process_set;
  options.engine = names.engine;
  return options;
}

// [ranks, 3, features]: the statistics of all ranks. On a GPU each rank adds its own to zeros, with
// the same bits: the memory that a gather allocates there would have to be waited for.
Tensor of_all_ranks(const Tensor& mine, const CollectiveOptions& names) {
  if (!is_gpu(mine.device())) return allgather(mine.unsqueeze(0), names);
  const ProcessSet ranks(names.process_set, names.engine);
  const Tensor all = at::zeros({ranks.size(), mine.size(0), mine.size(1)}, mine.options());
  all[ranks.rank()].copy_(mine);
  return allreduce_(all, summing(names));
}

// y = (x - mean) / sqrt(var + eps). Also returns the statistics.
class Normalize : public ::torch::autograd::Function<Normalize> {
 public:
  static variable_list forward(AutogradContext* context, const Tensor& x,
                               const SyncBatchNormOptions& options) {
    const Tensor all = of_all_ranks(local_statistics(x), operation(options, "forward"));
    const Tensor statistics = combine(all);
    const Tensor inverse = (statistics[2] / statistics[0] + options.eps).rsqrt();
    context->save_for_backward({x, statistics, inverse});
    context->saved_data["engine"] = reinterpret_cast<int64_t>(options.engine);
    context->saved_data["process_set"] = static_cast<int64_t>(options.process_set);
    context->saved_data["name"] = options.name;
    context->mark_non_differentiable({statistics});
    return {normalized(x, statistics[1], inverse), statistics};
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const Tensor &x = saved[0], &statistics = saved[1], &inverse = saved[2];
    SyncBatchNormOptions options;
    options.engine = reinterpret_cast<Engine*>(context->saved_data["engine"].toInt());
    options.process_set = static_cast<ProcessSetId>(context->saved_data["process_set"].toInt());
    options.name = context->saved_data["name"].toStringRef();
    const Tensor y = normalized(x, statistics[1], inverse);
    const Tensor& dy = gradients[0];
    const Tensor sums = at::stack({dy.sum(batch_dimensions(x), false, at::kDouble),
                                   (dy * y).sum(batch_dimensions(x), false, at::kDouble)});
    const ReduceOptions names = summing(operation(options, "backward"));
    const Tensor means = (allreduce(sums, names) / statistics[0]).to(x.scalar_type());
    const Tensor dx = (dy - along_features(means[0], x) - y * along_features(means[1], x)) *
                      along_features(inverse.to(x.scalar_type()), x);
    return {dx, Tensor()};
  }

 private:
  static Tensor normalized(const Tensor& x, const Tensor& mean, const Tensor& inverse) {
    return (x - along_features(mean.to(x.scalar_type()), x)) *
           along_features(inverse.to(x.scalar_type()), x);
  }
};

SyncBatchNormOptions with_features(int64_t num_features) {
  SyncBatchNormOptions options;
  options.num_features = num_features;
  return options;
}

}  // namespace

SyncBatchNormImpl::SyncBatchNormImpl(int64_t num_features)
    : SyncBatchNormImpl(with_features(num_features)) {}

SyncBatchNormImpl::SyncBatchNormImpl(const SyncBatchNormOptions& given) : options(given) {
  if (options.num_features < 1) {
    throw_invalid("SyncBatchNorm has num_features " + std::to_string(options.num_features) +
                  "; it is at least 1");
  }
  SyncBatchNormImpl::reset();
}

void SyncBatchNormImpl::reset() {
  const int64_t features = options.num_features;
  weight =
      register_parameter("weight", options.affine ? at::ones(features) : Tensor(), options.affine);
  bias =
      register_parameter("bias", options.affine ? at::zeros(features) : Tensor(), options.affine);
  const bool tracks = options.track_running_stats;
  running_mean = register_buffer("running_mean", tracks ? at::zeros(features) : Tensor());
  running_var = register_buffer("running_var", tracks ? at::ones(features) : Tensor());
  num_batches_tracked =
      register_buffer("num_batches_tracked", tracks ? at::zeros({}, at::kLong) : Tensor());
}

void SyncBatchNormImpl::pretty_print(std::ostream& stream) const {
  stream << "khorus::torch::SyncBatchNorm(" << options.num_features << ", eps=" << options.eps
         << ", affine=" << options.affine << ", track_running_stats=" << options.track_running_stats
         << ")";
}

// Running variance is the unbiased estimate, as in BatchNorm.
void SyncBatchNormImpl::track(const Tensor& statistics) {
  const at::NoGradGuard no_grad;
  num_batches_tracked.add_(1);
  const double weight_of_new = options.momentum
                                   ? *options.momentum
                                   : 1.0 / static_cast<double>(num_batches_tracked.item<int64_t>());
  const auto dtype = running_mean.scalar_type();
  running_mean.lerp_(statistics[1].to(dtype), weight_of_new);
  running_var.lerp_((statistics[2] / (statistics[0] - 1)).to(dtype), weight_of_new);
}

Tensor SyncBatchNormImpl::forward(const Tensor& input) {
  if (input.dim() < 2 || input.size(1) != options.num_features) {
    throw_invalid("SyncBatchNorm over " + std::to_string(options.num_features) +
                  " features was given the shape " + to_string(Shape(input.sizes().vec())) +
                  "; it takes [batch, features, ...]");
  }
  if (!is_training()) {
    const bool own = !running_mean.defined();
    return at::batch_norm(input, weight, bias, running_mean, running_var, own, 0.0, options.eps,
                          /*cudnn_enabled=*/false);
  }
  const variable_list result = Normalize::apply(input, options);
  const Tensor& statistics = result[1];
  // Two here are two together: a GPU is not waited for.
  if (input.numel() < 2 * input.size(1) && statistics[0][0].item<double>() < 2) {
    throw_invalid(
        "SyncBatchNorm was given one value per feature by all ranks together; while training it "
        "needs two");
  }
  if (running_mean.defined()) track(statistics);
  if (!weight.defined()) return result[0];
  return result[0] * along_features(weight, input) + along_features(bias, input);
}

}  // namespace khorus::torch

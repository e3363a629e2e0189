// Checkpoints of a training run: what torch_checkpoint.h promises, over safetensors.cc.
//
// On save every rank gives the states of its random number generators, rank 0 writes, and every
// rank learns how that went. On load rank 0 reads the file's bytes and every rank checks them
// alike.
#include <ATen/ATen.h>

#include <charconv>
#include <exception>
#include <optional>

#include "torch_plugin/device.h"
#include "torch_plugin/file.h"
#include "torch_plugin/generators.h"
#include "torch_plugin/optimizer_tree.h"
#include "torch_plugin/tensor_view.h"

namespace khorus::torch {
namespace {

constexpr const char* kModelPrefix = "model.";
constexpr const char* kOptimizerPrefix = "optimizer.";
constexpr const char* kGeneratorPrefix = "rng.";
constexpr const char* kGpuGeneratorPrefix = "gpu_rng.";
constexpr const char* kStepKey = "khorus.step";
constexpr const char* kOptimizerKey = "khorus.optimizer";
constexpr const char* kNotePrefix = "note.";

CollectiveOptions operation(const CheckpointOptions& options, const char* what) {
  CollectiveOptions result;
  result.name = options.name + "." + what;
  result.engine = options.engine;
  return result;
}

NamedTensors tensors_of(const ::torch::nn::Module& model) {
  NamedTensors all;
  for (const auto& dictionary : {model.named_parameters(), model.named_buffers()}) {
    for (const auto& item : dictionary) {
      if (item.value().defined()) all.emplace_back(item.key(), item.value());
    }
  }
  return all;
}

// Throws unless the file has every tensor, with this shape and dtype.
void check_model(const NamedTensors& ours, const Safetensors& content, const std::string& prefix) {
  for (const auto& [name, tensor] : ours) {
    const auto found = content.tensors.find(prefix + name);
    if (found == content.tensors.end()) {
      throw_invalid("the file has no \"" + prefix + name + "\", which this model needs");
    }
    const Tensor& theirs = found->second;
    if (theirs.sizes() == tensor.sizes() && theirs.scalar_type() == tensor.scalar_type()) continue;
    throw_invalid("\"" + found->first + "\" is " + at::toString(theirs.scalar_type()) +
                  khorus::to_string(Shape(theirs.sizes().vec())) + " in the file and " +
                  at::toString(tensor.scalar_type()) +
                  khorus::to_string(Shape(tensor.sizes().vec())) + " in this model");
  }
}

ParameterNames names_of(const ::torch::nn::Module& model) {
  ParameterNames names;
  for (const auto& item : model.named_parameters()) {
    names.emplace(item.value().unsafeGetTensorImpl(), item.key());
  }
  return names;
}

Safetensors content_of(const TrainingState& state, const NamedTensors& generators) {
  Safetensors content;
  for (const auto& [name, tensor] : tensors_of(state.model)) {
    content.tensors[kModelPrefix + name] = tensor.detach();
  }
  const OptimizerTree tree = tree_of(state.optimizer, names_of(state.model));
  for (const auto& [name, tensor] : tree.tensors) {
    content.tensors[kOptimizerPrefix + name] = tensor;
  }
  for (const auto& [name, bytes] : generators) content.tensors[name] = bytes;
  content.metadata["format"] = "pt";
  content.metadata[kStepKey] = std::to_string(state.step);
  content.metadata[kOptimizerKey] = tree.structure.dump();
  for (const auto& [key, word] : state.notes) content.metadata[kNotePrefix + key] = word;
  return content;
}

// Every rank throws when `failure` is set on rank 0: its own error there, `words` elsewhere.
void agree(const std::exception_ptr& failure, const std::string& words,
           const CollectiveOptions& options) {
  const Tensor failed = at::empty({1}, at::kByte);
  failed.fill_(failure != nullptr ? 1 : 0);
  try {
    broadcast_(failed, 0, options);
  } catch (...) {
    if (failure) std::rethrow_exception(failure);
    throw;
  }
  if (failure) std::rethrow_exception(failure);
  if (failed.item<uint8_t>() != 0) throw Error(Status(StatusCode::kUnavailable, words));
}

// The bytes of the file on every rank.
std::string read_on_rank_0(const std::string& path, const CheckpointOptions& options) {
  std::string bytes;
  std::exception_ptr failure;
  if (engine_of(options.engine).rank() == 0) {
    try {
      const OldFile file(path);
      bytes.resize(file.size());
      file.read(0, bytes.data(), bytes.size());
    } catch (...) {
      failure = std::current_exception();
    }
  }
  agree(failure, "rank 0 could not read the checkpoint " + path + "; its own error says why",
        operation(options, "readable"));
  const Tensor size = at::empty({1}, at::kLong);
  size.fill_(static_cast<int64_t>(bytes.size()));
  broadcast_(size, 0, operation(options, "size"));
  bytes.resize(static_cast<size_t>(size.item<int64_t>()));
  const auto count = static_cast<int64_t>(bytes.size());
  if (count == 0) return bytes;
  broadcast_(at::from_blob(bytes.data(), {count}, at::kByte), 0, operation(options, "bytes"));
  return bytes;
}

const std::string& word_of(const Safetensors& content, const std::string& key,
                           const std::string& path) {
  const auto word = content.metadata.find(key);
  if (word == content.metadata.end()) {
    throw_invalid(path + " is no checkpoint: its metadata has no \"" + key + "\"");
  }
  return word->second;
}

void check_notes(const Safetensors& content, const TrainingState& state, const std::string& path) {
  for (const auto& [key, word] : state.notes) {
    const std::string& theirs = word_of(content, kNotePrefix + key, path);
    if (theirs == word) continue;
    throw_invalid("the checkpoint " + path + " is of another run: it has \"" + key + " " + theirs +
                  "\" where this run has \"" + key + " " + word + "\"");
  }
}

int64_t step_of(const Safetensors& content, const std::string& path) {
  const std::string& word = word_of(content, kStepKey, path);
  int64_t step = -1;
  const auto [stop, error] = std::from_chars(word.data(), word.data() + word.size(), step);
  if (error != std::errc() || stop != word.data() + word.size() || step < 0) {
    throw_invalid(path + " is no checkpoint: its step is \"" + word + "\"");
  }
  return step;
}

OptimizerTree optimizer_in(const Safetensors& content, const std::string& path) {
  OptimizerTree tree;
  for (const auto& [name, tensor] : content.tensors) {
    if (!name.starts_with(kOptimizerPrefix)) continue;
    tree.tensors[name.substr(std::string(kOptimizerPrefix).size())] = tensor;
  }
  try {
    tree.structure = parse_tree(word_of(content, kOptimizerKey, path));
  } catch (const nlohmann::json::exception& error) {
    throw_invalid(path + " is no checkpoint: its optimizer is not JSON: " + error.what());
  }
  return tree;
}

// The one that the model is on, if it is on one.
std::optional<at::Device> gpu_of(const ::torch::nn::Module& model) {
  for (const auto& [name, tensor] : tensors_of(model)) {
    if (is_gpu(tensor.device())) return tensor.device();
  }
  return std::nullopt;
}

// The states of all ranks under their names in the file. A rank sends that of the CPU, which is as
// long everywhere, and behind it that of its GPU, if it has one.
NamedTensors gather_generators(const std::optional<at::Device>& gpu,
                               const CheckpointOptions& options) {
  Tensor mine = generator_state(at::kCPU);
  const int64_t of_cpu = mine.numel();
  if (gpu) mine = at::cat({mine, generator_state(*gpu)});
  const Tensor sizes =
      allgather(at::full({1}, mine.numel(), at::kLong), operation(options, "rng_sizes"));
  const Tensor bytes = allgather(mine, operation(options, "rng"));
  NamedTensors states;
  int64_t offset = 0;
  for (int64_t rank = 0; rank < sizes.numel(); ++rank) {
    const int64_t size = sizes[rank].item<int64_t>();
    states.emplace_back(kGeneratorPrefix + std::to_string(rank), bytes.narrow(0, offset, of_cpu));
    if (size > of_cpu) {
      states.emplace_back(kGpuGeneratorPrefix + std::to_string(rank),
                          bytes.narrow(0, offset + of_cpu, size - of_cpu));
    }
    offset += size;
  }
  return states;
}

// A state for this rank's generator of the device, or an undefined tensor.
Tensor generator_in(const Safetensors& content, int rank, const at::Device& device,
                    const std::string& path) {
  const char* const prefix = device.is_cpu() ? kGeneratorPrefix : kGpuGeneratorPrefix;
  const auto found = content.tensors.find(prefix + std::to_string(rank));
  if (found == content.tensors.end()) return {};
  const Tensor now = generator_state(device);
  if (found->second.scalar_type() != at::kByte || found->second.sizes() != now.sizes()) {
    throw_invalid(path + " is no checkpoint of this version: \"" + found->first +
                  "\" is not the state of a random number generator of " + device.str());
  }
  return found->second;
}

// What is not an error, but makes a run with random numbers another one.
void warn_of_other_device(const Safetensors& content, const std::optional<at::Device>& gpu,
                          const std::string& path) {
  const bool saved_on_gpu = content.tensors.contains(kGpuGeneratorPrefix + std::string("0"));
  if (saved_on_gpu && !gpu) {
    TORCH_WARN("the checkpoint ", path, " was saved on a GPU, and the model is on the CPU: the ",
               "state of the GPU's random numbers is left out");
  } else if (gpu && !saved_on_gpu) {
    TORCH_WARN("the checkpoint ", path, " has no state of a GPU's random numbers (it was saved on ",
               "the CPU, or before they were kept): those of ", gpu->str(), " go on as they are");
  }
}

void restore(const Safetensors& content, TrainingState& state, int rank, const std::string& path) {
  check_notes(content, state, path);
  const int64_t step = step_of(content, path);
  const std::optional<at::Device> gpu = gpu_of(state.model);
  const Tensor of_cpu = generator_in(content, rank, at::kCPU, path);
  const Tensor of_gpu = gpu ? generator_in(content, rank, *gpu, path) : Tensor();
  const OptimizerTree tree = optimizer_in(content, path);
  check_model(tensors_of(state.model), content, kModelPrefix);
  restore_from_tree(state.optimizer, tree, "checkpoint " + path + ": ");
  load_model(state.model, content, kModelPrefix);
  if (of_cpu.defined()) set_generator_state(at::kCPU, of_cpu);
  if (of_gpu.defined()) set_generator_state(*gpu, of_gpu);
  if (rank == 0) warn_of_other_device(content, gpu, path);
  state.step = step;
}

}  // namespace

void load_model(::torch::nn::Module& model, const Safetensors& content, const std::string& prefix) {
  const NamedTensors ours = tensors_of(model);
  check_model(ours, content, prefix);
  const at::NoGradGuard no_grad;
  for (const auto& [name, tensor] : ours) tensor.copy_(content.tensors.at(prefix + name));
}

void save_checkpoint(const std::string& path, const TrainingState& state,
                     const CheckpointOptions& options) {
  const NamedTensors generators = gather_generators(gpu_of(state.model), options);
  std::exception_ptr failure;
  try {
    if (engine_of(options.engine).rank() == 0) {
      save_safetensors(path, content_of(state, generators));
    }
  } catch (...) {
    failure = std::current_exception();
  }
  agree(failure, "rank 0 could not write the checkpoint " + path + "; its own error says why",
        operation(options, "written"));
}

void load_checkpoint(const std::string& path, TrainingState& state,
                     const CheckpointOptions& options) {
  const std::string bytes = read_on_rank_0(path, options);
  restore(decode_safetensors(bytes, path), state, engine_of(options.engine).rank(), path);
}

}  // namespace khorus::torch

// Checkpoints: safetensors files, and what a training run keeps in one.
//
//   khorus::torch::TrainingState state{*model, optimizer, step};
//   khorus::torch::save_checkpoint("out/checkpoint.safetensors", state);   // on every rank
//   khorus::torch::load_checkpoint("out/checkpoint.safetensors", state);   // state.step is set
//
// The format is that of the Python package `safetensors`: 8 bytes with the length of a JSON header,
// the header (name -> dtype, shape, place), the tensors' bytes. Nothing in a file is ever executed.
// Errors are khorus::Error. What is read is checked before anything is changed.
//
// Thread rule: any thread; nobody else uses the tensors, the model or the optimizer meanwhile.
#pragma once

#include <torch/nn/module.h>
#include <torch/optim/optimizer.h>
#include <torch/types.h>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "khorus/engine.h"

namespace khorus::torch {

// What one file holds. Tensors that are read are on the CPU, contiguous, with memory of their own.
struct Safetensors {
  std::map<std::string, ::torch::Tensor> tensors;
  std::map<std::string, std::string> metadata;
};

// The bytes of a file, and back. `what` names the bytes in errors. Bytes that are not a file in
// good order are refused: a header that is cut off, too long (100 MB) or not JSON, a dtype that is
// not known, a size that does not fit the shape, tensors that overlap or leave gaps.
std::string encode_safetensors(const Safetensors& content);
Safetensors decode_safetensors(std::string_view bytes, const std::string& what = "safetensors");

// The file is there whole or not at all: it is written beside (PATH.new), forced to the disk, then
// renamed. The folder must exist.
void save_safetensors(const std::string& path, const Safetensors& content);
Safetensors load_safetensors(const std::string& path);

// The tensors called `prefix` + name become the module's parameters and buffers: all of them, with
// the same shapes and dtypes (Error otherwise, and nothing is changed).
void load_model(::torch::nn::Module& model, const Safetensors& content,
                const std::string& prefix = "model.");

// A training run at the end of a step, on the CPU or a GPU; what was saved on one is loaded on the
// other. References: the caller keeps them alive.
struct TrainingState {
  ::torch::nn::Module& model;
  ::torch::optim::Optimizer& optimizer;  // any of torch::optim, or a DistributedOptimizer
  int64_t step = 0;
  // Said to the file. When a file is loaded, what is said here must be said there in the same
  // words (Error otherwise, and nothing is changed): what makes a resumed run the same run.
  std::map<std::string, std::string> notes = {};
};

struct CheckpointOptions {
  std::string name = "checkpoint";  // prefix of the names of the operations
  Engine* engine = nullptr;         // null: the default engine
};

// Collective over all ranks. Rank 0 writes its model, optimizer and step, and the states of every
// rank's random number generators: torch's default one of the CPU, and that of the GPU that the
// model is on. When rank 0 cannot, every rank throws.
//
// In the file: tensors "model.NAME", "optimizer.PARAMETER.VALUE", "rng.RANK" and, of ranks with a
// GPU, "gpu_rng.RANK"; metadata "khorus.step", "khorus.optimizer" (JSON) and "note.KEY".
void save_checkpoint(const std::string& path, const TrainingState& state,
                     const CheckpointOptions& options = {});

// Collective over all ranks. Rank 0 reads the file and sends it: only its host needs to have it.
// A generator that the file has no state for (there are more ranks now) goes on as it is. When that
// is because the file was saved on the CPU and the model is on a GPU, or the other way round, rank
// 0 says so: a warning of torch's.
void load_checkpoint(const std::string& path, TrainingState& state,
                     const CheckpointOptions& options = {});

}  // namespace khorus::torch

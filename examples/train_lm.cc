// train_lm: trains a byte-level Transformer language model on one or more processes. One file, read
// from top to bottom: configuration, text, model, schedule, checkpoint, evaluation, training.
//
//   train_lm --data ~/src --out out/train_lm                    train on one process
//   khorusrun -np 2 train_lm --data ~/src --out out/train_lm    train on two
//   khorusrun -np 2 train_lm --data ~/src --out out/train_lm --resume        go on after a stop
//   khorusrun -np 8 train_lm --data ~/src --device cuda --dtype bfloat16        on eight GPUs
//   train_lm --generate "def main" --checkpoint out/train_lm    write text with what was learned
//   train_lm --help                                             every flag
//
// What Khorus adds to a single-process trainer is marked [khorus]: init, broadcast, the optimizer,
// checkpoints.
//
// The run is a function of the flags and the text: example i of step s is a window of the text
// whose place is a hash of (seed, s, i). Rank r takes its own range of i, so no two ranks train on
// the same example, and a resumed run sees the same examples as one that never stopped. The model
// has no dropout: nothing else is random, and the curves are equal bit for bit.
#include <ATen/autocast_mode.h>
#include <dlfcn.h>
#include <khorus/khorus.h>
#include <khorus/torch.h>
#include <malloc.h>
#include <sys/ioctl.h>
#include <torch/torch.h>
#include <unistd.h>

#include <charconv>
#include <chrono>
#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <numbers>
#include <set>
#include <sstream>

namespace {

namespace fs = std::filesystem;
using torch::Tensor;

// ---------------------------------------------------------------------------------- configuration

struct Config {
  // Text
  std::vector<std::string> data;
  std::string exclude =
      "test,tests,idle_test,idlelib,lib2to3,site-packages,dist-packages,node_modules";
  // Model
  std::string size = "small";
  int64_t layers = 4, width = 192, heads = 6, context = 128, vocabulary = 256;
  std::string dtype = "float32";
  std::string device = "cpu";
  // Training
  int64_t steps = 1600;
  int64_t batch = 8;       // windows per rank and backward pass
  int64_t accumulate = 1;  // backward passes per step
  double learning_rate = 2e-3;
  int64_t warmup = 80;
  double weight_decay = 0.1;
  double clip = 1.0;
  int64_t seed = 1;
  int64_t threads = 0;  // 0: what torch or OMP_NUM_THREADS says
  // Watching and keeping
  std::string out = "out/train_lm";
  int64_t log_every = 20, eval_every = 200, eval_windows = 256, checkpoint_every = 400;
  int64_t stop_after = 0;  // leave after this step, as if interrupted; 0: never
  bool resume = false;
  // Generating
  std::string checkpoint;
  std::string generate;
  bool has_prompt = false;
  int64_t length = 400;
  double temperature = 0.8;
};

constexpr int64_t kBytes = 256;  // a token is a byte
constexpr const char* kCheckpoint = "checkpoint.safetensors";

struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

void apply_size(Config& config, const std::string& size) {
  struct Preset {
    int64_t layers, width, heads, context, vocabulary;
  };
  // 124m has the shape of GPT-2 small and as many parameters, a third of them in a table of its
  // 50,257 tokens: to train at its speed, not to learn from bytes, which are 256 of these.
  static const std::map<std::string, Preset> kPresets = {{"small", {4, 192, 6, 128, kBytes}},
                                                         {"10m", {6, 384, 6, 128, kBytes}},
                                                         {"124m", {12, 768, 12, 1024, 50257}}};
  const auto preset = kPresets.find(size);
  if (preset == kPresets.end()) throw UsageError("--size is small, 10m or 124m, not " + size);
  config.size = size;
  config.layers = preset->second.layers;
  config.width = preset->second.width;
  config.heads = preset->second.heads;
  config.context = preset->second.context;
  config.vocabulary = preset->second.vocabulary;
}

template <class T>
T parse_number(const std::string& flag, const std::string& text, T least) {
  T value{};
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end || !(value >= least)) {
    std::ostringstream message;
    message << flag << " takes a " << (std::is_integral_v<T> ? "whole number" : "number")
            << " of at least " << least << ", not \"" << text << "\"";
    throw UsageError(message.str());
  }
  return value;
}

struct Flag {
  std::string name, value, sentence;
  std::function<void(const std::string&)> set;
};

std::vector<Flag> flags_of(Config& c) {
  const auto number = [](std::string name, auto& target, int64_t least, std::string sentence) {
    using T = std::remove_reference_t<decltype(target)>;
    std::ostringstream value;
    value << target;
    return Flag{name, "N", sentence + " (default " + value.str() + ")",
                [name, &target, least](const std::string& text) {
                  target = parse_number<T>(name, text, static_cast<T>(least));
                }};
  };
  const auto text = [](std::string name, std::string& target, std::string sentence) {
    return Flag{name, "TEXT", sentence, [&target](const std::string& value) { target = value; }};
  };
  return {
      {"--data", "PATH", "file, or folder walked for text files; may be given several times",
       [&c](const std::string& path) { c.data.push_back(path); }},
      text("--exclude", c.exclude, "comma-separated names of folders that are not walked"),
      {"--size", "NAME", "small, 10m or 124m: sets the next five (default small)",
       [&c](const std::string& size) { apply_size(c, size); }},
      number("--layers", c.layers, 1, "Transformer blocks"),
      number("--width", c.width, 1, "size of a token's vector"),
      number("--heads", c.heads, 1, "attention heads; divides the width"),
      number("--context", c.context, 1, "tokens a prediction can see"),
      number("--vocabulary", c.vocabulary, kBytes, "rows of the token table; bytes use 256"),
      text("--dtype", c.dtype,
           "float32 (default), float64, or bfloat16: matrix products in that, the rest in float32"),
      text("--device", c.device, "cpu (default) or cuda: the GPU of the rank's local rank"),
      number("--steps", c.steps, 1, "optimizer steps of the whole run"),
      number("--batch", c.batch, 1, "windows per rank and backward pass"),
      number("--accumulate", c.accumulate, 1, "backward passes per step"),
      number("--learning-rate", c.learning_rate, 0, "peak learning rate"),
      number("--warmup", c.warmup, 0, "steps until the peak; then a cosine down to a tenth"),
      number("--weight-decay", c.weight_decay, 0, "AdamW's decay of matrices"),
      number("--clip", c.clip, 0, "bound of the gradient's norm; 0: none"),
      number("--seed", c.seed, 0, "of the initial weights and the sampler"),
      number("--threads", c.threads, 0, "torch threads per rank; 0: torch decides"),
      text("--out", c.out,
           "folder for checkpoint.safetensors and metrics.jsonl (default out/train_lm)"),
      number("--log-every", c.log_every, 1, "steps between progress lines"),
      number("--eval-every", c.eval_every, 1, "steps between evaluations"),
      number("--eval-windows", c.eval_windows, 1, "held-out windows per evaluation"),
      number("--checkpoint-every", c.checkpoint_every, 1, "steps between checkpoints"),
      number("--stop-after", c.stop_after, 0, "leave after this step with a checkpoint; 0: never"),
      {"--resume", "", "go on from the checkpoint in --out",
       [&c](const std::string&) { c.resume = true; }},
      text("--checkpoint", c.checkpoint, "checkpoint file, or its folder, for --generate"),
      {"--generate", "PROMPT", "write text after PROMPT instead of training",
       [&c](const std::string& prompt) {
         c.generate = prompt;
         c.has_prompt = true;
       }},
      number("--length", c.length, 1, "bytes to generate"),
      number("--temperature", c.temperature, 0, "below 1: likelier bytes only; 0: the likeliest"),
  };
}

void print_help(const std::vector<Flag>& flags) {
  std::printf("train_lm: trains a byte-level Transformer language model.\n\n");
  for (const Flag& flag : flags) {
    const std::string head = flag.name + (flag.value.empty() ? "" : " " + flag.value);
    std::printf("  %-22s %s\n", head.c_str(), flag.sentence.c_str());
  }
}

void check(const Config& c) {
  if (c.data.empty() && !c.has_prompt) {
    throw UsageError("no text to train on: give --data FILE or --data FOLDER");
  }
  if (c.width % c.heads != 0) {
    throw UsageError("--width " + std::to_string(c.width) + " is not a multiple of --heads " +
                     std::to_string(c.heads));
  }
  if (c.dtype != "float32" && c.dtype != "float64" && c.dtype != "bfloat16") {
    throw UsageError("--dtype is float32, float64 or bfloat16, not " + c.dtype);
  }
  if (c.device != "cpu" && c.device != "cuda") {
    throw UsageError("--device is cpu or cuda, not " + c.device);
  }
}

// False: the help was asked for and printed.
bool parse_flags(int argc, char** argv, Config& config) {
  const std::vector<Flag> flags = flags_of(config);
  for (int i = 1; i < argc; ++i) {
    std::string name = argv[i];
    if (name == "--help" || name == "-h") return print_help(flags), false;
    std::optional<std::string> value;  // --name=value and --name value are the same
    if (const size_t equals = name.find('='); equals != std::string::npos) {
      value = name.substr(equals + 1);
      name.resize(equals);
    }
    const auto flag =
        std::find_if(flags.begin(), flags.end(), [&name](const Flag& f) { return f.name == name; });
    if (flag == flags.end()) throw UsageError("unknown flag " + name + "; --help lists them all");
    if (flag->value.empty()) {
      if (value) throw UsageError(name + " takes no value");
      value = "";
    } else if (!value) {
      if (i + 1 == argc) throw UsageError(name + " needs a value");
      value = argv[++i];
    }
    flag->set(*value);
  }
  check(config);
  return true;
}

torch::Dtype dtype_of(const Config& c) {
  return c.dtype == "float64" ? torch::kFloat64 : torch::kFloat32;
}

// Only rank 0 talks.
template <class... Args>
void say(const char* format, Args... args) {
  if (khorus::rank() != 0) return;
  std::printf(format, args...);
  std::fflush(stdout);
}

// ----------------------------------------------------------------------------------------- device

// The part of libtorch for CUDA is not linked, so that the trainer starts where it is missing.
torch::Device open_device(const Config& c) {
  if (c.device == "cpu") return torch::kCPU;
  if (dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL) == nullptr) {
    throw std::runtime_error(
        "--device cuda: this libtorch was built without CUDA; install one with it, or use "
        "--device cpu (" +
        std::string(dlerror()) + ")");
  }
  const int gpus = torch::cuda::device_count();
  if (gpus == 0) {
    throw std::runtime_error(
        "--device cuda: torch finds no GPU here, or no driver for it; use --device cpu");
  }
  const int number = khorus::is_initialized() ? khorus::local_rank() : 0;  // [khorus]
  if (number >= gpus) {
    throw std::runtime_error("--device cuda: rank " + std::to_string(khorus::rank()) +
                             " would use GPU " + std::to_string(number) + ", and torch finds " +
                             std::to_string(gpus) + " here; start one rank for each GPU");
  }
  const torch::Device device(torch::kCUDA, static_cast<torch::DeviceIndex>(number));
  c10::impl::getDeviceGuardImpl(torch::kCUDA)->setDevice(device);
  return device;
}

// While it lives, products of matrices are made in bfloat16.
class Autocast {
 public:
  Autocast(bool wanted, torch::DeviceType device) : device_(device) {
    at::autocast::increment_nesting();
    at::autocast::set_autocast_dtype(device, torch::kBFloat16);
    at::autocast::set_autocast_enabled(device, wanted);
  }
  ~Autocast() {
    at::autocast::set_autocast_enabled(device_, false);
    if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
  }
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

 private:
  const torch::DeviceType device_;
};

// ------------------------------------------------------------------------------------------- text

struct Corpus {
  std::vector<uint8_t> train, held_out;
  size_t files = 0;
  uint64_t fingerprint = 0xcbf29ce484222325;  // FNV-1a of all bytes in order
  double unigram = 0, bigram = 0;             // entropy in nats per byte
};

bool is_text_name(const fs::path& path) {
  static const std::set<std::string> kSuffixes = {".py", ".pyi", ".txt", ".md", ".rst", ".c",
                                                  ".h",  ".cc",  ".cpp", ".js", ".html"};
  return kSuffixes.contains(path.extension().string());
}

void walk(const fs::path& folder, const std::set<std::string>& excluded,
          std::vector<fs::path>& files) {
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (entry.is_directory() && !entry.is_symlink() && !name.starts_with(".") &&
        !excluded.contains(name)) {
      walk(entry.path(), excluded, files);
    } else if (entry.is_regular_file() && is_text_name(entry.path())) {
      files.push_back(entry.path());
    }
  }
}

std::vector<fs::path> list_files(const Config& c) {
  std::set<std::string> excluded;
  std::istringstream names(c.exclude);
  for (std::string name; std::getline(names, name, ',');) excluded.insert(name);
  std::vector<fs::path> files;
  for (const std::string& path : c.data) {
    if (fs::is_directory(path)) {
      walk(path, excluded, files);
    } else if (fs::is_regular_file(path)) {
      files.emplace_back(path);
    } else {
      throw std::runtime_error("--data " + path + ": there is no such file or folder");
    }
  }
  std::sort(files.begin(), files.end());  // the same order on every rank
  files.erase(std::unique(files.begin(), files.end()), files.end());
  return files;
}

// Unigram: how well the best guess does that knows only how frequent each byte is. Bigram: that
// also knows the byte before. A model that has learned anything about the text is below both.
void measure_entropy(Corpus& corpus) {
  std::vector<double> single(kBytes), pair(kBytes * kBytes);
  double singles = 0, pairs = 0;
  for (const auto* part : {&corpus.train, &corpus.held_out}) {
    for (size_t i = 0; i < part->size(); ++i, ++singles) {
      ++single[(*part)[i]];
      if (i == 0) continue;
      ++pair[static_cast<size_t>((*part)[i - 1]) * kBytes + (*part)[i]];
      ++pairs;
    }
  }
  for (size_t a = 0; a < single.size(); ++a) {
    if (single[a] > 0) corpus.unigram -= single[a] / singles * std::log(single[a] / singles);
    double after_a = 0;
    for (size_t b = 0; b < single.size(); ++b) after_a += pair[a * kBytes + b];
    for (size_t b = 0; b < single.size(); ++b) {
      const double count = pair[a * kBytes + b];
      if (count > 0) corpus.bigram -= count / pairs * std::log(count / after_a);
    }
  }
}

// Every twentieth file is held out; of fewer than twenty files, the last tenth of the text.
Corpus read_corpus(const Config& c) {
  Corpus corpus;
  const std::vector<fs::path> files = list_files(c);
  for (const fs::path& path : files) {
    std::ifstream stream(path, std::ios::binary);
    const std::string text((std::istreambuf_iterator<char>(stream)), {});
    if (stream.bad()) throw std::runtime_error("cannot read " + path.string());
    auto& part = files.size() >= 20 && corpus.files % 20 == 19 ? corpus.held_out : corpus.train;
    part.insert(part.end(), text.begin(), text.end());
    ++corpus.files;
    for (const char byte : text) {
      corpus.fingerprint = (corpus.fingerprint ^ static_cast<uint8_t>(byte)) * 0x100000001b3;
    }
  }
  if (files.size() < 20) {
    const auto cut =
        corpus.train.begin() + static_cast<std::ptrdiff_t>(corpus.train.size() / 10 * 9);
    corpus.held_out.assign(cut, corpus.train.end());
    corpus.train.erase(cut, corpus.train.end());
  }
  const size_t least = static_cast<size_t>(c.context) + 2;
  if (corpus.train.size() < least || corpus.held_out.size() < least) {
    throw std::runtime_error("the text is too short: " + std::to_string(corpus.train.size()) +
                             " bytes to train on and " + std::to_string(corpus.held_out.size()) +
                             " held out; each needs more than --context " +
                             std::to_string(c.context) + " bytes");
  }
  measure_entropy(corpus);
  return corpus;
}

// [khorus] Ranks that read different text would train something else than they report.
void check_same_corpus(const Corpus& corpus) {
  int64_t least = static_cast<int64_t>(corpus.fingerprint), most = least;
  khorus::allreduce("corpus.min", &least, 1, khorus::ReduceOp::kMin);
  khorus::allreduce("corpus.max", &most, 1, khorus::ReduceOp::kMax);
  if (least != most) {
    throw std::runtime_error("the ranks read different text; give them the same --data (" +
                             std::to_string(corpus.files) + " files here)");
  }
}

struct Batch {
  Tensor inputs, targets;  // [windows, context] int64; targets are the inputs one byte later
};

Batch make_batch(const std::vector<uint8_t>& text, const std::vector<size_t>& starts,
                 int64_t context) {
  const auto windows = static_cast<int64_t>(starts.size());
  Tensor bytes = torch::empty({windows, context + 1}, torch::kInt64);
  int64_t* to = bytes.data_ptr<int64_t>();
  for (const size_t start : starts) {
    for (size_t i = 0; i <= static_cast<size_t>(context); ++i) *to++ = text[start + i];
  }
  return {bytes.narrow(1, 0, context), bytes.narrow(1, 1, context)};
}

uint64_t mix(uint64_t x) {  // splitmix64
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

// The examples of one backward pass on this rank. A step's examples are numbered over all ranks and
// passes, so N ranks with batch B train on what one rank with batch N*B would.
Batch sample(const Corpus& corpus, const Config& c, int64_t step, int64_t pass) {
  const size_t places = corpus.train.size() - static_cast<size_t>(c.context);
  std::vector<size_t> starts;
  for (int64_t i = 0; i < c.batch; ++i) {
    const int64_t example = (pass * khorus::size() + khorus::rank()) * c.batch + i;
    const uint64_t key = mix(mix(static_cast<uint64_t>(c.seed)) + static_cast<uint64_t>(step));
    starts.push_back(mix(key + static_cast<uint64_t>(example)) % places);
  }
  return make_batch(corpus.train, starts, c.context);
}

// ------------------------------------------------------------------------------------------ model

struct BlockImpl : torch::nn::Module {
  explicit BlockImpl(const Config& c)
      : heads(c.heads),
        norm1(register_module("norm1", torch::nn::LayerNorm(norm_options(c)))),
        norm2(register_module("norm2", torch::nn::LayerNorm(norm_options(c)))),
        attend(register_module("attend", linear(c.width, 3 * c.width))),
        project(register_module("project", linear(c.width, c.width))),
        up(register_module("up", linear(c.width, 4 * c.width))),
        down(register_module("down", linear(4 * c.width, c.width))) {}

  static torch::nn::LayerNormOptions norm_options(const Config& c) {
    return torch::nn::LayerNormOptions({c.width});
  }
  static torch::nn::Linear linear(int64_t from, int64_t to) {
    return torch::nn::Linear(torch::nn::LinearOptions(from, to).bias(false));
  }

  // x: [batch, time, width]
  Tensor forward(Tensor x) {
    x = x + attention(norm1(x));
    return x + down(torch::gelu(up(norm2(x))));
  }

  Tensor attention(const Tensor& x) {
    const int64_t batch = x.size(0), time = x.size(1), width = x.size(2);
    // [3, batch, heads, time, width / heads]
    const Tensor qkv =
        attend(x).view({batch, time, 3, heads, width / heads}).permute({2, 0, 3, 1, 4});
    const Tensor y = torch::scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], /*attn_mask=*/{},
                                                         /*dropout_p=*/0.0, /*is_causal=*/true);
    return project(y.transpose(1, 2).reshape({batch, time, width}));
  }

  int64_t heads;
  torch::nn::LayerNorm norm1, norm2;
  torch::nn::Linear attend, project, up, down;
};
TORCH_MODULE(Block);

struct TransformerLMImpl : torch::nn::Module {
  explicit TransformerLMImpl(const Config& c)
      : narrow(c.dtype == "bfloat16"),
        bytes(register_module("bytes", torch::nn::Embedding(c.vocabulary, c.width))),
        positions(register_module("positions", torch::nn::Embedding(c.context, c.width))),
        blocks(register_module("blocks", torch::nn::ModuleList())),
        norm(register_module("norm", torch::nn::LayerNorm(BlockImpl::norm_options(c)))) {
    for (int64_t i = 0; i < c.layers; ++i) blocks->push_back(Block(c));
    const torch::NoGradGuard no_grad;
    for (auto& item : named_parameters()) {
      if (item.value().dim() < 2) continue;  // norms start as ones and zeros
      // What is added to the residual stream starts smaller, the more layers add to it.
      const bool residual =
          item.key().ends_with("project.weight") || item.key().ends_with("down.weight");
      const double layers = residual ? 2.0 * static_cast<double>(c.layers) : 1.0;
      item.value().normal_(0.0, 0.02 / std::sqrt(layers));
    }
    to(dtype_of(c));
  }

  // tokens: [batch, time] int64. Returns logits [batch, time, vocabulary].
  Tensor forward(const Tensor& tokens) {
    const Autocast autocast(narrow, tokens.device().type());
    Tensor x = bytes(tokens) + positions(torch::arange(tokens.size(1), tokens.options()));
    for (const auto& block : *blocks) x = block->as<BlockImpl>()->forward(x);
    // The embedding is also the output layer.
    return torch::matmul(norm(x), bytes->weight.t()).to(bytes->weight.scalar_type());
  }

  bool narrow;

  torch::nn::Embedding bytes, positions;
  torch::nn::ModuleList blocks;
  torch::nn::LayerNorm norm;
};
TORCH_MODULE(TransformerLM);

// The batch goes where the model is; from pinned memory, so that the host need not wait.
Tensor loss_of(TransformerLM& model, const Batch& batch) {
  const torch::Device device = model->bytes->weight.device();
  const auto there = [device](const Tensor& tensor) {
    return device.is_cpu() ? tensor : tensor.pin_memory().to(device, /*non_blocking=*/true);
  };
  const Tensor logits = model->forward(there(batch.inputs));
  return torch::nn::functional::cross_entropy(logits.flatten(0, 1),
                                              there(batch.targets).reshape({-1}));
}

void print_parameters(const TransformerLM& model) {
  int64_t total = 0;
  for (const auto& item : model->named_parameters()) {
    std::ostringstream shape;
    shape << item.value().sizes();
    say("  %-28s %-14s %10" PRId64 "\n", item.key().c_str(), shape.str().c_str(),
        item.value().numel());
    total += item.value().numel();
  }
  say("  %-28s %-14s %10" PRId64 "\n", "all parameters", "", total);
}

// -------------------------------------------------------------------------- optimizer and schedule

// Matrices decay, norms do not.
std::unique_ptr<torch::optim::Optimizer> make_adamw(const TransformerLM& model, const Config& c) {
  std::vector<Tensor> matrices, others;
  for (const Tensor& parameter : model->parameters()) {
    (parameter.dim() >= 2 ? matrices : others).push_back(parameter);
  }
  const auto options = [&c](double decay) {
    return std::make_unique<torch::optim::AdamWOptions>(
        torch::optim::AdamWOptions(c.learning_rate).betas({0.9, 0.95}).weight_decay(decay));
  };
  std::vector<torch::optim::OptimizerParamGroup> groups;
  groups.emplace_back(std::move(matrices), options(c.weight_decay));
  groups.emplace_back(std::move(others), options(0.0));
  return std::make_unique<torch::optim::AdamW>(groups, *options(0.0));
}

double learning_rate_at(int64_t step, const Config& c) {
  if (step <= c.warmup) {
    return c.learning_rate * static_cast<double>(step) / static_cast<double>(c.warmup);
  }
  const double done = static_cast<double>(step - c.warmup) /
                      static_cast<double>(std::max<int64_t>(1, c.steps - c.warmup));
  return c.learning_rate * (0.1 + 0.45 * (1 + std::cos(std::numbers::pi * done)));
}

// ------------------------------------------------------------------------------------- checkpoint

fs::path checkpoint_path(const fs::path& file_or_folder) {
  return fs::is_directory(file_or_folder) ? file_or_folder / kCheckpoint : file_or_folder;
}

// What must be equal for a resumed run to be the same run, and what makes the model again.
std::map<std::string, std::string> describe_run(const Config& c, uint64_t fingerprint) {
  const auto text = [](auto value) {
    std::ostringstream stream;
    stream.precision(17);
    stream << value;
    return stream.str();
  };
  return {{"layers", text(c.layers)},
          {"width", text(c.width)},
          {"heads", text(c.heads)},
          {"context", text(c.context)},
          {"dtype", c.dtype},
          {"steps", text(c.steps)},
          {"examples per step", text(c.batch * c.accumulate * khorus::size())},
          {"learning rate", text(c.learning_rate)},
          {"warmup", text(c.warmup)},
          {"weight decay", text(c.weight_decay)},
          {"clip", text(c.clip)},
          {"seed", text(c.seed)},
          {"text", text(fingerprint)}};
}

// --------------------------------------------------------------------------- evaluate and generate

// Mean loss over evenly spaced held-out windows, each computed by one rank.
double evaluate(TransformerLM& model, const Corpus& corpus, const Config& c) {
  const torch::NoGradGuard no_grad;
  const size_t places = corpus.held_out.size() - static_cast<size_t>(c.context);
  const auto windows = static_cast<size_t>(c.eval_windows);
  const auto ranks = static_cast<size_t>(khorus::size());
  double sums[2] = {0, 0};  // losses, windows
  std::vector<size_t> starts;
  const auto flush = [&] {
    if (starts.empty()) return;
    const double mean =
        loss_of(model, make_batch(corpus.held_out, starts, c.context)).item<double>();
    sums[0] += mean * static_cast<double>(starts.size());
    sums[1] += static_cast<double>(starts.size());
    starts.clear();
  };
  for (auto i = static_cast<size_t>(khorus::rank()); i < windows; i += ranks) {
    starts.push_back(i * (places - 1) / windows);
    if (starts.size() == 16) flush();
  }
  flush();
  khorus::allreduce("evaluate", sums, 2, khorus::ReduceOp::kSum);  // [khorus]
  return sums[0] / sums[1];
}

void generate(Config c) {
  const fs::path path = checkpoint_path(c.checkpoint.empty() ? c.out : c.checkpoint);
  const khorus::torch::Safetensors checkpoint = khorus::torch::load_safetensors(path.string());
  const auto note = [&checkpoint](const std::string& key) {
    return checkpoint.metadata.at("note." + key);
  };
  c.layers = std::stoll(note("layers"));
  c.width = std::stoll(note("width"));
  c.heads = std::stoll(note("heads"));
  c.context = std::stoll(note("context"));
  c.vocabulary = checkpoint.tensors.at("model.bytes.weight").size(0);
  c.dtype = note("dtype");
  TransformerLM model(c);
  const torch::Device device = open_device(c);
  model->to(device);
  khorus::torch::load_model(*model, checkpoint);

  const torch::NoGradGuard no_grad;
  torch::manual_seed(static_cast<uint64_t>(c.seed));
  std::string text = c.generate.empty() ? "\n" : c.generate;
  std::cout << c.generate << std::flush;
  for (int64_t i = 0; i < c.length; ++i) {
    const size_t seen = std::min(text.size(), static_cast<size_t>(c.context));
    Tensor window = torch::empty({1, static_cast<int64_t>(seen)}, torch::kInt64);
    for (size_t k = 0; k < seen; ++k) {
      window.data_ptr<int64_t>()[k] = static_cast<uint8_t>(text[text.size() - seen + k]);
    }
    const Tensor logits = model->forward(window.to(device))[0][-1].narrow(0, 0, kBytes);
    const Tensor next = c.temperature == 0
                            ? logits.argmax()
                            : torch::multinomial(torch::softmax(logits / c.temperature, 0), 1);
    text.push_back(static_cast<char>(next.item<int64_t>()));
    std::cout << text.back() << std::flush;
  }
  std::cout << "\n";
}

// --------------------------------------------------------------------------------------- watching

// A bar that redraws itself on a terminal, else a line now and then; and metrics.jsonl.
class Progress {
 public:
  Progress(const Config& c, int64_t first_step)
      : config_(c), first_(first_step), terminal_(isatty(STDOUT_FILENO) == 1) {
    if (khorus::rank() != 0) return;
    metrics_.open(fs::path(c.out) / "metrics.jsonl", c.resume ? std::ios::app : std::ios::trunc);
    metrics_.precision(17);
    if (!metrics_) throw std::runtime_error("cannot write metrics.jsonl in " + c.out);
  }

  void step(int64_t step, double loss, double rate, double norm) {
    const double seconds = elapsed();
    const double speed = static_cast<double>((step - first_) * config_.batch * config_.context *
                                             config_.accumulate * khorus::size()) /
                         seconds;
    const double left =
        seconds / static_cast<double>(step - first_) * static_cast<double>(config_.steps - step);
    metrics_ << "{\"step\": " << step << ", \"loss\": " << loss << ", \"learning_rate\": " << rate
             << ", \"gradient_norm\": " << norm << ", \"seconds\": " << seconds
             << ", \"tokens_per_second\": " << speed << "}" << std::endl;
    const std::string bar = terminal_ ? draw(step) : "";
    say("%sstep %" PRId64 "/%" PRId64 "  loss %.4f  %.0f tokens/s  ETA %d:%02d%s", bar.c_str(),
        step, config_.steps, loss, speed, static_cast<int>(left) / 60, static_cast<int>(left) % 60,
        terminal_ ? "\x1b[K" : "\n");
  }

  void evaluated(int64_t step, double loss) {
    metrics_ << "{\"step\": " << step << ", \"validation_loss\": " << loss << "}" << std::endl;
    say("%sstep %" PRId64 "/%" PRId64 "  validation loss %.4f\n", terminal_ ? "\r\x1b[K" : "", step,
        config_.steps, loss);
  }

  double elapsed() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::string draw(int64_t step) const {
    constexpr int64_t kCells = 24;
    const auto full = static_cast<size_t>(kCells * step / config_.steps);
    return "\r[" + std::string(full, '#') + std::string(kCells - full, '.') + "] ";
  }

  const Config& config_;
  const int64_t first_;
  const bool terminal_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::ofstream metrics_;
};

// --------------------------------------------------------------------------------------- training

// As torch's clip_grad_norm_, but the host does not wait for the norm, which it returns.
Tensor clip_gradients(const std::vector<Tensor>& parameters, double bound) {
  const torch::NoGradGuard no_grad;
  std::vector<Tensor> norms;
  for (const Tensor& parameter : parameters) norms.push_back(parameter.grad().norm(2.0));
  const Tensor norm = torch::stack(norms).norm(2.0);
  if (bound == 0) return norm;
  const Tensor factor = torch::clamp_max(bound / (norm + 1e-6), 1.0);
  for (const Tensor& parameter : parameters) parameter.grad().mul_(factor);
  return norm;
}

// One optimizer step. Returns the loss on this rank and the norm of the averaged gradient, which a
// GPU may still be computing.
std::pair<Tensor, Tensor> train_step(TransformerLM& model,
                                     khorus::torch::DistributedOptimizer& optimizer,
                                     const Corpus& corpus, const Config& c, int64_t step) {
  Tensor loss = torch::zeros({}, model->bytes->weight.options().dtype(torch::kFloat64));
  optimizer.zero_grad();
  for (int64_t pass = 0; pass < c.accumulate; ++pass) {
    const Tensor part =
        loss_of(model, sample(corpus, c, step, pass)) / static_cast<double>(c.accumulate);
    part.backward();  // [khorus] gradients are averaged over the ranks while this runs
    loss += part.detach();
  }
  optimizer.synchronize();  // [khorus] from here on every rank has the same gradients
  const Tensor norm = clip_gradients(model->parameters(), c.clip);
  for (auto& group : optimizer.param_groups()) group.options().set_lr(learning_rate_at(step, c));
  optimizer.step();
  return {loss, norm};
}

void train(const Config& c) {
  const torch::Device device = open_device(c);
  const Corpus corpus = read_corpus(c);
  check_same_corpus(corpus);
  say("text: %zu files, %zu bytes to train on, %zu held out; entropy %.4f nats/byte (unigram), "
      "%.4f (bigram)\n",
      corpus.files, corpus.train.size(), corpus.held_out.size(), corpus.unigram, corpus.bigram);
  torch::manual_seed(static_cast<uint64_t>(c.seed));
  TransformerLM model(c);  // the same start on every device
  model->to(device);
  print_parameters(model);

  khorus::torch::broadcast_parameters(*model, /*root_rank=*/0);  // [khorus]
  khorus::torch::DistributedOptimizer optimizer(                 // [khorus]
      make_adamw(model, c), model->named_parameters(), {.backward_passes_per_step = c.accumulate});

  if (khorus::rank() == 0) fs::create_directories(c.out);
  const std::string path = (fs::path(c.out) / kCheckpoint).string();
  khorus::torch::TrainingState state{*model, optimizer, 0, describe_run(c, corpus.fingerprint)};
  if (c.resume) khorus::torch::load_checkpoint(path, state);  // [khorus] on every rank
  const int64_t first = state.step;
  if (first > 0) say("resumed after step %" PRId64 "\n", first);
  say("training: %d ranks x %" PRId64 " windows x %" PRId64 " bytes, steps %" PRId64 " to %" PRId64
      "\n",
      khorus::size(), c.batch * c.accumulate, c.context, first + 1, c.steps);

  Progress progress(c, first);
  const int64_t last = c.stop_after > 0 ? std::min(c.stop_after, c.steps) : c.steps;
  double validation = 0;
  for (int64_t step = first + 1; step <= last; ++step) {
    const auto [loss, norm] = train_step(model, optimizer, corpus, c, step);
    if (step % c.log_every == 0 || step == last) {
      double mean = loss.item<double>();
      khorus::allreduce("loss", &mean, 1);  // [khorus] the mean over the ranks
      progress.step(step, mean, learning_rate_at(step, c), norm.item<double>());
    }
    if (step % c.eval_every == 0 || step == last) {
      validation = evaluate(model, corpus, c);
      progress.evaluated(step, validation);
    }
    if (step % c.checkpoint_every == 0 || step == last) {
      state.step = step;
      khorus::torch::save_checkpoint(path, state);  // [khorus] rank 0 writes
    }
  }
  if (last <= first) validation = evaluate(model, corpus, c);
  say("trained %" PRId64 " steps in %.1f s\n", std::max<int64_t>(0, last - first),
      progress.elapsed());
  say("validation loss %.4f nats/byte (unigram %.4f, bigram %.4f), checkpoint %s\n", validation,
      corpus.unigram, corpus.bigram, path.c_str());
}

// What one step frees, the next allocates again. By default glibc gives such memory back to the
// kernel in between: 80 MiB of page faults in every step of a model of 10 million parameters, a
// quarter of its time.
void keep_freed_memory() {
  constexpr int kNever = std::numeric_limits<int>::max();
  mallopt(M_TRIM_THRESHOLD, kNever);
  mallopt(M_MMAP_THRESHOLD, kNever);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    Config config;
    if (!parse_flags(argc, argv, config)) return 0;
    keep_freed_memory();
    if (config.threads > 0) torch::set_num_threads(static_cast<int>(config.threads));
    if (config.has_prompt) {
      generate(config);
      return 0;
    }
    khorus::init();  // [khorus]
    train(config);
    khorus::shutdown();  // [khorus]
    return 0;
  } catch (const UsageError& error) {
    std::fprintf(stderr, "train_lm: %s\n", error.what());
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "train_lm: %s\n", error.what());
    return 1;
  }
}

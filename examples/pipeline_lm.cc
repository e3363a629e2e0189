// pipeline_lm: a byte-level Transformer cut into stages, each on a rank of its own, with data
// parallelism across pipelines. One file, read from top to bottom: configuration, place, text,
// model, one step, training.
//
//   pipeline_lm --data text.py                                  the uncut model on one process
//   khorusrun -np 2 pipeline_lm --data text.py --stages 2       one pipeline of two stages
//   khorusrun -np 4 pipeline_lm --data text.py --stages 2       two pipelines of two stages
//
// All three print the same losses. A step cuts the batch of a pipeline into micro-batches: while
// stage 1 works on the first, stage 0 works on the second (GPipe, Huang et al., 2019): first all go
// forward, then all go back. Between stages travel activations, and their gradients the other way,
// by send and recv; between pipelines the gradients of equal stages are averaged, each stage in a
// process set of its own. What Khorus adds is marked [khorus].
#include <khorus/khorus.h>
#include <khorus/torch.h>
#include <torch/torch.h>

#include <cstdio>
#include <fstream>
#include <map>

namespace {

using torch::Tensor;

// ---------------------------------------------------------------------------------- configuration

struct Config {
  std::string data;
  std::map<std::string, int64_t> numbers = {
      {"--stages", 1},         // ranks per pipeline
      {"--micro-batches", 4},  // per step and pipeline
      {"--batch", 16},         // windows per step, all pipelines together
      {"--layers", 4},        {"--width", 64},  {"--heads", 4},
      {"--context", 32},      {"--steps", 100}, {"--seed", 1},
  };
  double learning_rate = 1e-3;

  int64_t operator[](const char* name) const { return numbers.at(name); }
};

Config parse_flags(int argc, char** argv) {
  Config c;
  for (int i = 1; i < argc; i += 2) {
    const std::string name = argv[i];
    if (i + 1 == argc) throw std::invalid_argument(name + " needs a value");
    const std::string value = argv[i + 1];
    if (name == "--data") {
      c.data = value;
    } else if (c.numbers.contains(name)) {
      size_t used = 0;
      c.numbers[name] = std::stoll("0" + value, &used);
      if (used != value.size() + 1 || c[name.c_str()] < 1) {
        throw std::invalid_argument(name + " takes a whole number of at least 1, not " + value);
      }
    } else {
      throw std::invalid_argument("unknown flag " + name + "; see Config");
    }
  }
  if (c.data.empty()) throw std::invalid_argument("no text to train on: give --data FILE");
  return c;
}

// ------------------------------------------------------------------------------------------ place

// Where this rank stands: ranks 0 .. stages-1 are the first pipeline, and so on.
struct Where {
  int stage, stages, pipeline, pipelines;
  khorus::torch::ProcessSet peers;  // the ranks of this stage in all pipelines

  bool first() const { return stage == 0; }
  bool last() const { return stage == stages - 1; }
  int previous() const { return khorus::rank() - 1; }
  int next() const { return khorus::rank() + 1; }
};

Where find_place(const Config& c) {
  const int stages = static_cast<int>(c["--stages"]), size = khorus::size();
  if (size % stages != 0) {
    throw std::invalid_argument("the number of ranks is not a multiple of --stages");
  }
  const int pipelines = size / stages;
  if (c["--batch"] % (pipelines * c["--micro-batches"]) != 0 || c["--layers"] % stages != 0) {
    throw std::invalid_argument(
        "--batch is a multiple of pipelines x --micro-batches, and --layers one of --stages");
  }
  khorus::torch::ProcessSet mine(khorus::kGlobalProcessSet);
  for (int stage = 0; stage < stages; ++stage) {  // [khorus] every rank adds every set
    std::vector<int> ranks;
    for (int pipeline = 0; pipeline < pipelines; ++pipeline) {
      ranks.push_back(pipeline * stages + stage);
    }
    const auto set = khorus::torch::add_process_set(ranks);
    if (set.included()) mine = set;
  }
  return {khorus::rank() % stages, stages, khorus::rank() / stages, pipelines, mine};
}

// ------------------------------------------------------------------------------------------- text

Tensor read_text(const Config& c) {
  std::ifstream stream(c.data, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(stream)), {});
  if (static_cast<int64_t>(text.size()) < c["--context"] + 2) {
    throw std::runtime_error(c.data + " cannot be read or is shorter than --context");
  }
  Tensor bytes = torch::empty({static_cast<int64_t>(text.size())}, torch::kInt64);
  auto* to = bytes.data_ptr<int64_t>();
  for (const char byte : text) *to++ = static_cast<uint8_t>(byte);
  return bytes;
}

// The windows [batch, context + 1] of a step, all pipelines together: a function of (seed, step).
Tensor windows_of(const Tensor& text, const Config& c, int64_t step) {
  auto generator =
      at::make_generator<at::CPUGeneratorImpl>(static_cast<uint64_t>(c["--seed"] * 100'000 + step));
  const int64_t length = c["--context"] + 1;
  const Tensor starts = torch::randint(text.size(0) - length, {c["--batch"], 1}, generator);
  return text.index({starts + torch::arange(length)});
}

// ------------------------------------------------------------------------------------------ model

struct BlockImpl : torch::nn::Module {
  BlockImpl(int64_t width, int64_t head_count)
      : heads(head_count),
        norm1(register_module("norm1", torch::nn::LayerNorm(norm_over(width)))),
        norm2(register_module("norm2", torch::nn::LayerNorm(norm_over(width)))),
        attend(register_module("attend", torch::nn::Linear(width, 3 * width))),
        project(register_module("project", torch::nn::Linear(width, width))),
        up(register_module("up", torch::nn::Linear(width, 4 * width))),
        down(register_module("down", torch::nn::Linear(4 * width, width))) {}

  static torch::nn::LayerNormOptions norm_over(int64_t width) {
    return torch::nn::LayerNormOptions({width});
  }
  // x: [batch, time, width]
  Tensor forward(Tensor x) {
    const int64_t batch = x.size(0), time = x.size(1), width = x.size(2);
    const Tensor qkv =
        attend(norm1(x)).view({batch, time, 3, heads, width / heads}).permute({2, 0, 3, 1, 4});
    const Tensor y = torch::scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], /*attn_mask=*/{},
                                                         /*dropout_p=*/0.0, /*is_causal=*/true);
    x = x + project(y.transpose(1, 2).reshape({batch, time, width}));
    return x + down(torch::gelu(up(norm2(x))));
  }

  int64_t heads;
  torch::nn::LayerNorm norm1, norm2;
  torch::nn::Linear attend, project, up, down;
};
TORCH_MODULE(Block);

// One stage: the first begins with the embeddings, the last ends with the output layer. Every rank
// makes the whole model in the same order from the same seed and keeps its stage, so the weights do
// not depend on the cut.
struct StageImpl : torch::nn::Module {
  StageImpl(const Config& c, const Where& where) {
    torch::manual_seed(static_cast<uint64_t>(c["--seed"]));
    torch::nn::Embedding all_bytes(256, c["--width"]), all_places(c["--context"], c["--width"]);
    const int64_t per_stage = c["--layers"] / where.stages;
    for (int64_t layer = 0; layer < c["--layers"]; ++layer) {
      Block block(c["--width"], c["--heads"]);
      if (layer / per_stage != where.stage) continue;
      blocks.push_back(register_module("block" + std::to_string(layer), block));
    }
    torch::nn::Linear all_output(c["--width"], 256);
    if (where.first()) {
      bytes = register_module("bytes", all_bytes);
      places = register_module("places", all_places);
    }
    if (where.last()) output = register_module("output", all_output);
    to(torch::kFloat64);
  }

  // x: tokens [batch, time] in the first stage, else activations [batch, time, width].
  Tensor forward(Tensor x) {
    if (bytes) x = bytes(x) + places(torch::arange(x.size(1)));
    for (Block& block : blocks) x = block(x);
    return output ? output(x) : x;
  }

  torch::nn::Embedding bytes = nullptr, places = nullptr;
  std::vector<Block> blocks;
  torch::nn::Linear output = nullptr;
};
TORCH_MODULE(Stage);

// ------------------------------------------------------------------------------------------- step

// What a stage keeps of a micro-batch between forward and backward.
struct Passed {
  Tensor input, output;  // the output of the last stage is the loss
};

Passed go_forward(Stage& stage, const Where& where, const Tensor& windows, const Config& c) {
  const int64_t count = windows.size(0), time = c["--context"];
  Passed passed;
  if (where.first()) {
    passed.input = windows.narrow(1, 0, time);
  } else {  // [khorus]
    passed.input = khorus::torch::recv(torch::empty({count, time, c["--width"]}, torch::kFloat64),
                                       where.previous());
    passed.input.requires_grad_(true);
  }
  passed.output = stage->forward(passed.input);
  if (where.last()) {
    passed.output = torch::nn::functional::cross_entropy(passed.output.flatten(0, 1),
                                                         windows.narrow(1, 1, time).reshape({-1}));
  } else {
    khorus::torch::send(passed.output, where.next());  // [khorus]
  }
  return passed;
}

void go_back(const Passed& passed, const Where& where, const Config& c) {
  if (where.last()) {
    (passed.output / c["--micro-batches"]).backward();
  } else {  // [khorus]
    passed.output.backward(khorus::torch::recv(torch::empty_like(passed.output), where.next()));
  }
  if (!where.first()) khorus::torch::send(passed.input.grad(), where.previous());  // [khorus]
}

// Returns the mean loss over the whole batch, on every rank.
double train_step(Stage& stage, khorus::torch::DistributedOptimizer& optimizer, const Where& where,
                  const Tensor& windows, const Config& c) {
  const auto parts = windows.chunk(where.pipelines)[static_cast<size_t>(where.pipeline)].chunk(
      c["--micro-batches"]);
  optimizer.zero_grad();
  std::vector<Passed> passed;
  for (const Tensor& part : parts) passed.push_back(go_forward(stage, where, part, c));
  double loss = 0;  // of this pipeline; only its last stage knows it
  for (const Passed& micro : passed) {
    go_back(micro, where, c);  // [khorus] the last one starts the averaging over the pipelines
    if (where.last()) loss += micro.output.item<double>() / static_cast<double>(parts.size());
  }
  optimizer.step();
  khorus::allreduce("loss", &loss, 1, khorus::ReduceOp::kSum);  // [khorus]
  return loss / where.pipelines;
}

void train(const Config& c) {
  const Tensor text = read_text(c);
  const Where where = find_place(c);
  Stage stage(c, where);
  khorus::torch::DistributedOptimizer optimizer(  // [khorus] averages over this stage's process set
      std::make_unique<torch::optim::AdamW>(stage->parameters(),
                                            torch::optim::AdamWOptions(c.learning_rate)),
      stage->named_parameters(),
      {.backward_passes_per_step = c["--micro-batches"],
       .process_set = where.peers.process_set_id()});
  if (khorus::rank() == 0) {
    std::printf("%d pipelines x %d stages\n", where.pipelines, where.stages);
  }
  for (int64_t step = 1; step <= c["--steps"]; ++step) {
    const double loss = train_step(stage, optimizer, where, windows_of(text, c, step), c);
    if (khorus::rank() != 0 || (step % 10 != 0 && step != c["--steps"])) continue;
    std::printf("step %ld/%ld  loss %.8f\n", static_cast<long>(step),
                static_cast<long>(c["--steps"]), loss);
    std::fflush(stdout);
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const Config config = parse_flags(argc, argv);
    khorus::init();  // [khorus]
    train(config);
    khorus::shutdown();  // [khorus]
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "pipeline_lm: %s\n", error.what());
    return 1;
  }
}

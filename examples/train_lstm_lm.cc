// train_lstm_lm: the classic character model (embedding -> LSTM -> linear) on one or more
// processes. One file, read from top to bottom: configuration, text, model, training, generation.
//
//   khorusrun -np 2 train_lstm_lm --data /usr/lib/python3 --out out/train_lstm_lm     (a minute)
//   train_lstm_lm --generate "def " --out out/train_lstm_lm     write text with what was learned
//   khorusrun -np 2 train_lstm_lm --data ... --out out/train_lstm_lm --resume --epochs 12
//
// `make train-lstm` does the first two. The rest of the flags is in `Config`.
//
// An epoch visits the windows of the text once, in an order that is a function of (seed, epoch);
// rank r takes its share of every step. What Khorus adds is marked [khorus].
#include <khorus/khorus.h>
#include <khorus/torch.h>
#include <torch/torch.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <set>

namespace {

namespace fs = std::filesystem;
using torch::Tensor;

// ---------------------------------------------------------------------------------- configuration

struct Config {
  std::map<std::string, std::string> words = {
      {"--data", ""},                  // file, or folder walked for .py and .txt files
      {"--out", "out/train_lstm_lm"},  // folder of the checkpoint
      {"--generate", ""},              // write text after this instead of training
  };
  std::map<std::string, int64_t> numbers = {
      {"--limit", 400'000},                   // bytes of text that are used, from its beginning
      {"--epochs", 10},     {"--batch", 16},  // windows per rank and step
      {"--context", 64},                      // bytes per window
      {"--embedding", 32},  {"--hidden", 128},
      {"--layers", 1},      {"--length", 300},  // bytes to generate
      {"--seed", 1},
  };
  double learning_rate = 4e-3;
  bool resume = false;  // go on from the checkpoint

  int64_t operator[](const char* name) const { return numbers.at(name); }
  std::string checkpoint() const { return words.at("--out") + "/checkpoint.safetensors"; }
};

Config parse_flags(int argc, char** argv) {
  Config c;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--resume") {
      c.resume = true;
      continue;
    }
    const bool known = c.words.contains(name) || c.numbers.contains(name);
    if (!known) throw std::invalid_argument("unknown flag " + name + "; see Config");
    if (i + 1 == argc) throw std::invalid_argument(name + " needs a value");
    const std::string value = argv[++i];
    if (c.words.contains(name)) {
      c.words[name] = value;
      continue;
    }
    size_t used = 0;
    const int64_t number = std::stoll("0" + value, &used);
    if (used != value.size() + 1 || number < 1) {
      throw std::invalid_argument(name + " takes a whole number of at least 1, not " + value);
    }
    c.numbers[name] = number;
  }
  if (c.words["--generate"].empty() && c.words["--data"].empty()) {
    throw std::invalid_argument("no text to train on: give --data FILE or --data FOLDER");
  }
  return c;
}

// ------------------------------------------------------------------------------------------- text

struct Corpus {
  std::string alphabet;    // the distinct bytes; a token is an index into it
  Tensor train, held_out;  // [windows, context + 1] int64; the last tenth is held out
};

std::string read_text(const fs::path& path, size_t limit) {
  std::set<fs::path> files;  // in the same order everywhere
  if (!fs::is_directory(path)) files.insert(path);
  if (fs::is_directory(path)) {
    for (const auto& entry : fs::recursive_directory_iterator(path)) {
      const auto suffix = entry.path().extension();
      if (entry.is_regular_file() && (suffix == ".py" || suffix == ".txt")) files.insert(entry);
    }
  }
  std::string text;
  for (const fs::path& file : files) {
    std::ifstream stream(file, std::ios::binary);
    if (!stream) throw std::runtime_error("cannot read " + file.string());
    text.append(std::istreambuf_iterator<char>(stream), {});
    if (text.size() >= limit) break;
  }
  text.resize(std::min(text.size(), limit));
  return text;
}

Tensor tokens_of(const std::string& text, const std::string& alphabet) {
  Tensor tokens = torch::empty({static_cast<int64_t>(text.size())}, torch::kInt64);
  auto* to = tokens.data_ptr<int64_t>();
  for (const char byte : text) {
    const size_t token = alphabet.find(byte);
    if (token == std::string::npos) throw std::runtime_error("the model has not seen this byte");
    *to++ = static_cast<int64_t>(token);
  }
  return tokens;
}

Corpus make_corpus(const Config& c) {
  const std::string text = read_text(c.words.at("--data"), static_cast<size_t>(c["--limit"]));
  const std::set<char> distinct(text.begin(), text.end());
  Corpus corpus;
  corpus.alphabet.assign(distinct.begin(), distinct.end());
  const int64_t length = c["--context"] + 1;
  const int64_t windows = static_cast<int64_t>(text.size()) / length;
  if (windows < 20) throw std::runtime_error("the text is too short for --context");
  const Tensor all =
      tokens_of(text, corpus.alphabet).narrow(0, 0, windows * length).view({windows, length});
  corpus.train = all.narrow(0, 0, windows * 9 / 10);
  corpus.held_out = all.narrow(0, windows * 9 / 10, windows - windows * 9 / 10);
  return corpus;
}

// ------------------------------------------------------------------------------------------ model

struct CharacterModelImpl : torch::nn::Module {
  CharacterModelImpl(const Config& c, int64_t alphabet)
      : embedding(register_module("embedding", torch::nn::Embedding(alphabet, c["--embedding"]))),
        lstm(register_module("lstm",
                             torch::nn::LSTM(torch::nn::LSTMOptions(c["--embedding"], c["--hidden"])
                                                 .num_layers(c["--layers"])
                                                 .batch_first(true)))),
        linear(register_module("linear", torch::nn::Linear(c["--hidden"], alphabet))) {}

  using State = std::tuple<Tensor, Tensor>;

  // tokens: [batch, time] int64. Returns logits [batch, time, alphabet] and the LSTM's state.
  std::tuple<Tensor, State> forward(const Tensor& tokens, std::optional<State> state = {}) {
    const auto [hidden, next] = lstm->forward(embedding(tokens), state);
    return {linear(hidden), next};
  }

  torch::nn::Embedding embedding;
  torch::nn::LSTM lstm;
  torch::nn::Linear linear;
};
TORCH_MODULE(CharacterModel);

// Mean loss over windows [windows, context + 1], in nats per byte.
Tensor loss_of(CharacterModel& model, const Tensor& windows) {
  const int64_t time = windows.size(1) - 1;
  const Tensor logits = std::get<0>(model->forward(windows.narrow(1, 0, time)));
  return torch::nn::functional::cross_entropy(logits.flatten(0, 1),
                                              windows.narrow(1, 1, time).reshape({-1}));
}

// --------------------------------------------------------------------------------------- training

// One epoch. Returns the mean training loss over all ranks.
double train_epoch(CharacterModel& model, khorus::torch::DistributedOptimizer& optimizer,
                   const Tensor& windows, const Config& c, int64_t epoch) {
  const int64_t share = c["--batch"], step_windows = share * khorus::size();
  auto generator =
      at::make_generator<at::CPUGeneratorImpl>(static_cast<uint64_t>(c["--seed"] * 1000 + epoch));
  const Tensor order = torch::randperm(windows.size(0), generator);
  double sums[2] = {0, 0};  // losses, steps
  for (int64_t first = 0; first + step_windows <= windows.size(0); first += step_windows) {
    const Tensor mine = order.narrow(0, first + khorus::rank() * share, share);  // [khorus]
    optimizer.zero_grad();
    const Tensor loss = loss_of(model, windows.index_select(0, mine));
    loss.backward();  // [khorus] gradients are averaged over the ranks while this runs
    optimizer.step();
    sums[0] += loss.item<double>();
    sums[1] += 1;
  }
  if (sums[1] == 0) throw std::runtime_error("the text has fewer windows than one step takes");
  khorus::allreduce("epoch_loss", sums, 2, khorus::ReduceOp::kSum);  // [khorus]
  return sums[0] / sums[1];
}

void train(const Config& c) {
  const Corpus corpus = make_corpus(c);
  torch::manual_seed(static_cast<uint64_t>(c["--seed"]));
  CharacterModel model(c, static_cast<int64_t>(corpus.alphabet.size()));
  khorus::torch::broadcast_parameters(*model, /*root_rank=*/0);  // [khorus]
  khorus::torch::DistributedOptimizer optimizer(                 // [khorus]
      std::make_unique<torch::optim::Adam>(model->parameters(),
                                           torch::optim::AdamOptions(c.learning_rate)),
      model->named_parameters());

  // The notes make the model again, and say whether a checkpoint is of this run.
  khorus::torch::TrainingState state{*model, optimizer};
  for (const char* name : {"--context", "--embedding", "--hidden", "--layers", "--seed"}) {
    state.notes[name] = std::to_string(c[name]);
  }
  state.notes["alphabet"] = "";
  for (const char byte : corpus.alphabet) {
    state.notes["alphabet"] += std::to_string(static_cast<uint8_t>(byte)) + " ";
  }
  if (c.resume) khorus::torch::load_checkpoint(c.checkpoint(), state);  // [khorus]
  if (khorus::rank() == 0) fs::create_directories(c.words.at("--out"));

  for (int64_t epoch = state.step + 1; epoch <= c["--epochs"]; ++epoch) {
    const double loss = train_epoch(model, optimizer, corpus.train, c, epoch);
    const torch::NoGradGuard no_grad;
    const double held_out = loss_of(model, corpus.held_out).item<double>();
    if (khorus::rank() == 0) {
      std::printf("epoch %ld/%ld  loss %.4f  held-out loss %.4f\n", static_cast<long>(epoch),
                  static_cast<long>(c["--epochs"]), loss, held_out);
      std::fflush(stdout);
    }
    state.step = epoch;
    khorus::torch::save_checkpoint(c.checkpoint(), state);  // [khorus] rank 0 writes
  }
}

// ------------------------------------------------------------------------------------- generation

void generate(Config c) {
  const khorus::torch::Safetensors content = khorus::torch::load_safetensors(c.checkpoint());
  for (const char* name : {"--embedding", "--hidden", "--layers"}) {
    c.numbers[name] = std::stoll(content.metadata.at("note." + std::string(name)));
  }
  std::string alphabet;
  std::istringstream bytes(content.metadata.at("note.alphabet"));
  for (int byte = 0; bytes >> byte;) alphabet.push_back(static_cast<char>(byte));
  CharacterModel model(c, static_cast<int64_t>(alphabet.size()));
  khorus::torch::load_model(*model, content);

  const torch::NoGradGuard no_grad;
  torch::manual_seed(static_cast<uint64_t>(c["--seed"]));
  std::cout << c.words.at("--generate");
  Tensor tokens = tokens_of(c.words.at("--generate"), alphabet).unsqueeze(0);
  std::optional<CharacterModelImpl::State> state;
  for (int64_t i = 0; i < c["--length"]; ++i) {
    const auto [logits, next] = model->forward(tokens, state);
    state = next;  // the LSTM remembers: from here on one token at a time is enough
    tokens = torch::multinomial(torch::softmax(logits[0][-1] / 0.7, 0), 1).unsqueeze(0);
    std::cout << alphabet[static_cast<size_t>(tokens.item<int64_t>())];
  }
  std::cout << std::endl;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const Config config = parse_flags(argc, argv);
    if (!config.words.at("--generate").empty()) return generate(config), 0;
    khorus::init();  // [khorus]
    train(config);
    khorus::shutdown();  // [khorus]
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "train_lstm_lm: %s\n", error.what());
    return 1;
  }
}

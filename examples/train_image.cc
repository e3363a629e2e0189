// train_image: a convolutional network with SyncBatchNorm on 8x8 images of handwritten digits.
// One file, read from top to bottom: configuration, images, model, training.
//
//   python examples/export_digits.py out/digits.safetensors        once; needs scikit-learn
//   khorusrun -np 2 train_image --data out/digits.safetensors      (some seconds)
//
// `make train-image` does both. The data is scikit-learn's copy of the "Optical Recognition of
// Handwritten Digits" set: 1797 images, of which every fifth is kept for the test.
//
// The batches of the ranks may differ in size (the last one of an epoch does): batch normalisation
// is over all of them, and the loss is weighted so that the averaged gradient is that of the whole
// batch. What Khorus adds is marked [khorus].
#include <khorus/khorus.h>
#include <khorus/torch.h>
#include <torch/torch.h>

#include <cstdio>
#include <map>

namespace {

using torch::Tensor;

// ---------------------------------------------------------------------------------- configuration

struct Config {
  std::string data;  // the file that export_digits.py wrote
  std::string out;   // the model is kept here, if given
  std::map<std::string, int64_t> numbers = {
      {"--epochs", 8},
      {"--batch", 64},  // images per step, all ranks together
      {"--seed", 1},
  };
  double learning_rate = 0.05;

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
    } else if (name == "--out") {
      c.out = value;
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
  if (c.data.empty()) throw std::invalid_argument("no images: give --data FILE");
  return c;
}

// ----------------------------------------------------------------------------------------- images

struct Images {
  Tensor pixels;  // [images, 1, 8, 8] float32, 0 to 1
  Tensor labels;  // [images] int64
};

Images images_in(const khorus::torch::Safetensors& file, const std::string& part) {
  if (!file.tensors.contains(part + ".images") || !file.tensors.contains(part + ".labels")) {
    throw std::runtime_error("the file has no " + part + " images; make it with export_digits.py");
  }
  return {file.tensors.at(part + ".images").to(torch::kFloat32).unsqueeze(1) / 16,
          file.tensors.at(part + ".labels").to(torch::kInt64)};
}

// This rank's part of `count` things: where it begins and how many.
std::pair<int64_t, int64_t> share_of(int64_t count) {
  const int64_t rank = khorus::rank(), size = khorus::size();
  const int64_t begin = count * rank / size;
  return {begin, count * (rank + 1) / size - begin};
}

// ------------------------------------------------------------------------------------------ model

struct DigitNetImpl : torch::nn::Module {
  DigitNetImpl()
      : layers(register_module(
            "layers", torch::nn::Sequential(convolution(1, 16), khorus::torch::SyncBatchNorm(16),
                                            torch::nn::ReLU(), convolution(16, 32),
                                            khorus::torch::SyncBatchNorm(32), torch::nn::ReLU(),
                                            torch::nn::MaxPool2d(2), convolution(32, 64),
                                            khorus::torch::SyncBatchNorm(64), torch::nn::ReLU(),
                                            torch::nn::MaxPool2d(2), torch::nn::Flatten(),
                                            torch::nn::Linear(64 * 2 * 2, 10)))) {}

  static torch::nn::Conv2d convolution(int64_t from, int64_t to) {
    return torch::nn::Conv2d(torch::nn::Conv2dOptions(from, to, 3).padding(1).bias(false));
  }
  // pixels: [batch, 1, 8, 8]. Returns logits [batch, 10].
  Tensor forward(const Tensor& pixels) { return layers->forward(pixels); }

  torch::nn::Sequential layers;
};
TORCH_MODULE(DigitNet);

// --------------------------------------------------------------------------------------- training

// Mean loss of the epoch over all ranks.
double train_epoch(DigitNet& model, khorus::torch::DistributedOptimizer& optimizer,
                   const Images& images, const Config& c, int64_t epoch) {
  model->train();
  auto generator =
      at::make_generator<at::CPUGeneratorImpl>(static_cast<uint64_t>(c["--seed"] * 1000 + epoch));
  const int64_t total = images.labels.size(0);
  const Tensor order = torch::randperm(total, generator);
  double sum = 0;
  for (int64_t first = 0; first < total; first += c["--batch"]) {
    const int64_t count = std::min(c["--batch"], total - first);  // of all ranks
    const auto [begin, mine] = share_of(count);                   // [khorus]
    const Tensor chosen = order.narrow(0, first + begin, mine);
    optimizer.zero_grad();
    const Tensor logits = model->forward(images.pixels.index_select(0, chosen));
    const Tensor loss = torch::nn::functional::cross_entropy(
        logits, images.labels.index_select(0, chosen),
        torch::nn::functional::CrossEntropyFuncOptions().reduction(torch::kSum));
    // [khorus] The average over the ranks of this is the mean over the whole batch.
    (loss * khorus::size() / static_cast<double>(count)).backward();
    optimizer.step();
    sum += loss.item<double>();
  }
  khorus::allreduce("epoch_loss", &sum, 1, khorus::ReduceOp::kSum);  // [khorus]
  return sum / static_cast<double>(total);
}

// The part of the images that is recognised; every rank looks at its share.
double accuracy(DigitNet& model, const Images& images) {
  model->eval();  // SyncBatchNorm talks to nobody now
  const torch::NoGradGuard no_grad;
  const auto [begin, count] = share_of(images.labels.size(0));  // [khorus]
  const Tensor guesses = model->forward(images.pixels.narrow(0, begin, count)).argmax(1);
  double good = guesses.eq(images.labels.narrow(0, begin, count)).sum().item<double>();
  khorus::allreduce("accuracy", &good, 1, khorus::ReduceOp::kSum);  // [khorus]
  return good / static_cast<double>(images.labels.size(0));
}

void train(const Config& c) {
  const khorus::torch::Safetensors file = khorus::torch::load_safetensors(c.data);
  const Images train_images = images_in(file, "train"), test_images = images_in(file, "test");
  torch::manual_seed(static_cast<uint64_t>(c["--seed"]));
  DigitNet model;
  khorus::torch::broadcast_parameters(*model, /*root_rank=*/0);  // [khorus]
  khorus::torch::DistributedOptimizer optimizer(                 // [khorus]
      std::make_unique<torch::optim::SGD>(
          model->parameters(),
          torch::optim::SGDOptions(c.learning_rate).momentum(0.9).weight_decay(1e-4)),
      model->named_parameters());
  for (int64_t epoch = 1; epoch <= c["--epochs"]; ++epoch) {
    const double loss = train_epoch(model, optimizer, train_images, c, epoch);
    const double test = accuracy(model, test_images);
    if (khorus::rank() != 0) continue;
    std::printf("epoch %ld/%ld  loss %.4f  test accuracy %.2f%%\n", static_cast<long>(epoch),
                static_cast<long>(c["--epochs"]), loss, 100 * test);
    std::fflush(stdout);
  }
  if (!c.out.empty()) {
    khorus::torch::save_checkpoint(c.out, {*model, optimizer, c["--epochs"]});  // [khorus]
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
    std::fprintf(stderr, "train_image: %s\n", error.what());
    return 1;
  }
}

// Reads a safetensors file and writes it again: safetensors_copy IN OUT. Exits with 1 and the error
// when the file is refused. Used to compare with the Python package.
#include <cstdio>
#include <exception>

#include "khorus/torch_checkpoint.h"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: safetensors_copy IN OUT\n");
    return 2;
  }
  try {
    khorus::torch::save_safetensors(argv[2], khorus::torch::load_safetensors(argv[1]));
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "safetensors_copy: %s\n", error.what());
    return 1;
  }
}

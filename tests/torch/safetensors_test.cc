// The safetensors format: round trips, layout, and files that must be refused.
#include <torch/torch.h>

#include <filesystem>
#include <fstream>
#include <random>

#include "tests/torch/temporary_folder.h"
#include "tests/torch/world.h"

namespace khorus::torch::testing {
namespace {

using ::testing::HasSubstr;
namespace fs = std::filesystem;

std::string refusal(const std::string& bytes) {
  try {
    decode_safetensors(bytes, "FILE");
  } catch (const Error& error) {
    EXPECT_EQ(error.status().code(), StatusCode::kInvalidArgument);
    return error.what();
  }
  return "accepted";
}

std::string with_header(const std::string& header, size_t data_bytes) {
  std::string length(8, '\0');
  for (size_t i = 0; i < 8; ++i) length[i] = static_cast<char>(header.size() >> (8 * i) & 0xff);
  return length + header + std::string(data_bytes, 'x');
}

Safetensors sample_content() {
  Safetensors content;
  content.metadata = {{"format", "pt"}, {"quote\"d", "na\xc3\xafve\n"}};
  const std::pair<const char*, ::torch::Dtype> dtypes[] = {
      {"u8", ::torch::kUInt8},      {"i8", ::torch::kInt8},     {"i16", ::torch::kInt16},
      {"i32", ::torch::kInt32},     {"i64", ::torch::kInt64},   {"f16", ::torch::kFloat16},
      {"bf16", ::torch::kBFloat16}, {"f32", ::torch::kFloat32}, {"f64", ::torch::kFloat64},
      {"bool", ::torch::kBool}};
  for (const auto& [name, dtype] : dtypes) {
    content.tensors[name] = (::torch::arange(15) % 7).view({3, 5}).to(dtype);
  }
  content.tensors["scalar"] = ::torch::tensor(2.5);
  content.tensors["empty"] = ::torch::empty({0, 3});
  content.tensors["transposed"] = ::torch::arange(6).view({2, 3}).t();
  return content;
}

// Values are compared by their bytes: a NaN equals itself.
std::string bytes_of(const Tensor& tensor) {
  const Tensor whole = tensor.contiguous();
  return {static_cast<const char*>(whole.const_data_ptr()), whole.nbytes()};
}

void expect_equal(const Safetensors& a, const Safetensors& b) {
  EXPECT_EQ(a.metadata, b.metadata);
  ASSERT_EQ(a.tensors.size(), b.tensors.size());
  for (const auto& [name, tensor] : a.tensors) {
    ASSERT_TRUE(b.tensors.contains(name)) << name;
    const Tensor& other = b.tensors.at(name);
    EXPECT_EQ(tensor.scalar_type(), other.scalar_type()) << name;
    EXPECT_EQ(tensor.sizes(), other.sizes()) << name;
    EXPECT_EQ(bytes_of(tensor), bytes_of(other)) << name;
  }
}

TEST(Safetensors, RoundTripsInMemoryAndThroughAFile) {
  const TemporaryFolder folder;
  const Safetensors content = sample_content();
  const std::string bytes = encode_safetensors(content);
  expect_equal(decode_safetensors(bytes), content);
  save_safetensors(folder / "a", content);
  save_safetensors(folder / "a", content);  // over an old one
  expect_equal(load_safetensors(folder / "a"), content);
  EXPECT_EQ(folder.files(), 1U);
  std::ifstream stream(folder / "a", std::ios::binary);
  EXPECT_EQ(std::string((std::istreambuf_iterator<char>(stream)), {}), bytes);
  expect_equal(decode_safetensors(encode_safetensors({})), {});
}

TEST(Safetensors, AFailedWriteLeavesTheOldFileAndNothingElse) {
  const TemporaryFolder folder;
  save_safetensors(folder / "a", sample_content());
  Safetensors bad;
  bad.tensors["complex"] = ::torch::zeros({2}, ::torch::kComplexDouble);
  EXPECT_THROW(save_safetensors(folder / "a", bad), Error);
  expect_equal(load_safetensors(folder / "a"), sample_content());
  EXPECT_EQ(folder.files(), 1U);
  fs::create_directory(folder / "taken");
  std::ofstream(folder / "taken/file");
  EXPECT_THROW(save_safetensors(folder / "taken", sample_content()), Error);  // at the rename
  EXPECT_EQ(folder.files(), 2U);
  EXPECT_THROW(save_safetensors(folder / "no/folder", sample_content()), Error);
}

TEST(Safetensors, RefusesToWriteWhatItCouldNotRead) {
  const auto error_of = [](const std::string& name, const Tensor& tensor, std::string word = "") {
    try {
      encode_safetensors({{{name, tensor}}, {{"key", std::move(word)}}});
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("written");
  };
  EXPECT_THAT(error_of("__metadata__", ::torch::ones(1)), HasSubstr("rename it"));
  EXPECT_THAT(error_of("w", Tensor()), HasSubstr("\"w\" is undefined"));
  EXPECT_THAT(error_of("w", ::torch::eye(2).to_sparse()), HasSubstr("to_dense()"));
  EXPECT_THAT(error_of("w\xff", ::torch::ones(1)), HasSubstr("not UTF-8"));
  EXPECT_THAT(error_of("w", ::torch::ones(1), "\xff"), HasSubstr("not UTF-8"));
}

TEST(Safetensors, NamesWhatIsWrongWithAFile) {
  const auto entry = [](const std::string& dtype, const std::string& shape,
                        const std::string& offsets) {
    return "{\"w\":{\"dtype\":" + dtype + ",\"shape\":" + shape + ",\"data_offsets\":" + offsets +
           "}}";
  };
  const struct {
    std::string bytes, words;
  } cases[] = {
      {"", "a header is missing"},
      {std::string(7, '\0'), "a header is missing"},
      {std::string(8, '\0'), "does not begin with {"},
      {std::string(8, '\xff'), "its header claims 18446744073709551615 bytes of a file of 8"},
      {with_header("{}", 0).substr(0, 9), "its header claims 2 bytes of a file of 9"},
      {with_header(" {}", 0), "does not begin with {"},
      {with_header("{\"w\":", 0), "not JSON"},
      {with_header("{\"\xff\":1}", 0), "not JSON"},
      {with_header("{}{}", 0), "not JSON"},
      {with_header("{\"w\":" + std::string(10000, '['), 0), "nested too deeply"},
      {with_header("{\"w\":1}", 0), "says no dtype"},
      {with_header("{\"w\":{\"dtype\":\"F32\",\"shape\":[]}}", 4), "says no data_offsets"},
      {with_header(entry("\"F31\"", "[1]", "[0,4]"), 4), "unknown dtype \"F31\""},
      {with_header(entry("5", "[1]", "[0,4]"), 4), "unknown dtype 5"},
      {with_header(entry("\"F32\"", "7", "[0,4]"), 4), "a shape that is no list"},
      {with_header(entry("\"F32\"", "[-1]", "[0,4]"), 4), "has -1 where a size"},
      {with_header(entry("\"F32\"", "[1.5]", "[0,4]"), 4), "has 1.5 where a size"},
      {with_header(entry("\"F32\"", "[1]", "[0]"), 4), "not two numbers"},
      {with_header(entry("\"F32\"", "[1]", "[0,18446744073709551615]"), 4), "where a size or"},
      {with_header(entry("\"F32\"", "[2]", "[0,4]"), 4), "needs 8 bytes and lies at bytes 0 to 4"},
      {with_header(entry("\"F32\"", "[0]", "[4,0]"), 4), "needs 0 bytes and lies at bytes 4 to 0"},
      {with_header(entry("\"F32\"", "[4611686018427387904,4]", "[0,0]"), 0), "impossible shape"},
      {with_header(entry("\"F32\"", "[0,4611686018427387904,4]", "[0,0]"), 0), "impossible shape"},
      {with_header(entry("\"F32\"", "[1]", "[4,8]"), 8), "there is a gap"},
      {with_header(entry("\"F32\"", "[1]", "[0,4]"), 5), "take 4 bytes and the file has 5"},
      {with_header(entry("\"F32\"", "[2]", "[0,8]"), 4), "take 8 bytes and the file has 4"},
      {with_header("{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]},"
                   "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[2,4]}}",
                   4),
       "they overlap"},
      {with_header("{\"w\":{\"dtype\":\"U8\",\"dtype\":\"U8\"}}", 0), "\"dtype\" is there twice"},
      {with_header("{\"__metadata__\":[]}", 0), "__metadata__ is no object"},
      {with_header("{\"__metadata__\":{\"a\":1}}", 0), "metadata \"a\" is not a string"},
  };
  for (const auto& [bytes, words] : cases) {
    EXPECT_THAT(refusal(bytes), HasSubstr("FILE is not a good safetensors file"));
    EXPECT_THAT(refusal(bytes), HasSubstr(words)) << bytes.substr(0, 200);
  }
}

// Any file that differs a little from a good one is read or refused; nothing else happens. What is
// read can be written again.
TEST(Safetensors, SurvivesMutations) {
  const std::string good = encode_safetensors(sample_content());
  const size_t header_end = good.rfind('}') + 1;
  std::mt19937_64 random(7);
  const auto below = [&random](size_t n) { return static_cast<size_t>(random() % n); };
  const int rounds = std::getenv("KHORUS_TEST_SOAK") != nullptr ? 300'000 : 3'000;
  const std::string words = "0123456789[]{},:\"-eF";
  int accepted = 0;
  for (int round = 0; round < rounds; ++round) {
    std::string bytes = good;
    for (size_t change = 0; change <= below(3) && !bytes.empty(); ++change) {
      const size_t place =
          below(10) == 0 ? below(bytes.size()) : below(std::min(header_end, bytes.size()));
      switch (below(5)) {
        case 0:
          bytes[place] = static_cast<char>(random());
          break;
        case 1:
          bytes[place] = words[below(words.size())];
          break;
        case 2:
          bytes.erase(place, 1 + below(4));
          break;
        case 3:
          bytes.insert(place, 1, words[below(words.size())]);
          break;
        default:
          bytes.resize(place + 1);
      }
    }
    try {
      const Safetensors content = decode_safetensors(bytes);
      expect_equal(decode_safetensors(encode_safetensors(content)), content);
      ++accepted;
    } catch (const Error& error) {
      ASSERT_EQ(error.status().code(), StatusCode::kInvalidArgument) << error.what();
    }
  }
  EXPECT_GT(accepted, 0);
  EXPECT_LT(accepted, rounds / 2);
}

TEST(Safetensors, ReadsBoolBytesAsTruth) {
  const std::string header = "{\"w\":{\"dtype\":\"BOOL\",\"shape\":[2],\"data_offsets\":[0,2]}}";
  std::string bytes = with_header(header, 2);
  bytes.back() = '\0';
  EXPECT_TRUE(decode_safetensors(bytes).tensors.at("w").equal(::torch::tensor({true, false})));
}

}  // namespace
}  // namespace khorus::torch::testing

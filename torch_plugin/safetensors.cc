// The safetensors format (https://github.com/huggingface/safetensors#format), written and read.
//
// What is read is not trusted: every number is checked before it is used, and the tensors must
// cover the bytes after the header exactly, without overlap or gap. Pure apart from the files; any
// thread.
#include <ATen/ATen.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "torch_plugin/file.h"
#include "torch_plugin/tensor_view.h"

namespace khorus::torch {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // as the Python package
constexpr size_t kLengthBytes = 8;                 // of the header's length, little endian
constexpr int kMaxHeaderDepth = 4;
constexpr const char* kMetadata = "__metadata__";

struct FileDtype {
  const char* name;
  at::ScalarType type;
};

constexpr FileDtype kFileDtypes[] = {
    {"BOOL", at::kBool},
    {"U8", at::kByte},
    {"I8", at::kChar},
    {"U16", at::kUInt16},
    {"I16", at::kShort},
    {"U32", at::kUInt32},
    {"I32", at::kInt},
    {"U64", at::kUInt64},
    {"I64", at::kLong},
    {"F8_E4M3", at::kFloat8_e4m3fn},
    {"F8_E5M2", at::kFloat8_e5m2},
    {"F16", at::kHalf},
    {"BF16", at::kBFloat16},
    {"F32", at::kFloat},
    {"F64", at::kDouble},
};

// One tensor of a file. The bytes are counted from the end of the header.
struct Entry {
  std::string name;
  at::ScalarType type = at::kFloat;
  std::vector<int64_t> shape;
  uint64_t begin = 0, end = 0;
};

// Copies bytes of the file, counted from the end of the header.
using ReadBytes = std::function<void(uint64_t begin, void* to, size_t count)>;

[[noreturn]] void refuse(const std::string& what, const std::string& why) {
  throw_invalid(what + " is not a good safetensors file: " + why);
}

// ---- writing

const char* file_dtype_of(const std::string& name, const Tensor& tensor) {
  for (const FileDtype& dtype : kFileDtypes) {
    if (dtype.type == tensor.scalar_type()) return dtype.name;
  }
  throw_invalid("tensor \"" + name + "\" has dtype " + at::toString(tensor.scalar_type()) +
                ", which safetensors files do not carry here");
}

// Wide types first: then every tensor lies at a multiple of its element size.
NamedTensors in_file_order(const Safetensors& content) {
  NamedTensors ordered;
  for (const auto& [name, tensor] : content.tensors) {
    if (name == kMetadata) throw_invalid("a tensor cannot be called __metadata__; rename it");
    if (!tensor.defined()) throw_invalid("tensor \"" + name + "\" is undefined; leave it out");
    if (tensor.layout() != at::kStrided) {
      throw_invalid("tensor \"" + name + "\" is sparse; call to_dense() first");
    }
    ordered.emplace_back(name, tensor.detach().cpu().contiguous());
  }
  std::stable_sort(ordered.begin(), ordered.end(), [](const auto& a, const auto& b) {
    return a.second.element_size() > b.second.element_size();
  });
  return ordered;
}

// Length and header, padded to a multiple of 8.
std::string encode_header(const NamedTensors& tensors,
                          const std::map<std::string, std::string>& metadata) {
  Json header = Json::object();
  if (!metadata.empty()) header[kMetadata] = metadata;
  uint64_t end = 0;
  for (const auto& [name, tensor] : tensors) {
    const uint64_t begin = end;
    end += tensor.nbytes();
    header[name] = {{"dtype", file_dtype_of(name, tensor)},
                    {"shape", tensor.sizes().vec()},
                    {"data_offsets", {begin, end}}};
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const Json::exception& error) {
    throw_invalid(std::string("a name or a word of the metadata is not UTF-8: ") + error.what());
  }
  text.resize((text.size() + 7) / 8 * 8, ' ');
  if (text.size() > kMaxHeaderBytes) {
    throw_invalid("the header has " + std::to_string(text.size()) + " bytes; at most " +
                  std::to_string(kMaxHeaderBytes) + " are possible: shorten names or metadata");
  }
  std::string length(kLengthBytes, '\0');
  for (size_t i = 0; i < kLengthBytes; ++i) {
    length[i] = static_cast<char>(static_cast<uint64_t>(text.size()) >> (8 * i) & 0xff);
  }
  return length + text;
}

std::string_view bytes_of(const Tensor& tensor) {
  return {static_cast<const char*>(tensor.const_data_ptr()), tensor.nbytes()};
}

// ---- reading

uint64_t decode_length(std::string_view bytes, uint64_t file_bytes, const std::string& what) {
  if (file_bytes < kLengthBytes) {
    refuse(what, "it has " + std::to_string(file_bytes) + " bytes; a header is missing");
  }
  uint64_t length = 0;
  for (size_t i = 0; i < kLengthBytes; ++i) {
    length |= static_cast<uint64_t>(static_cast<uint8_t>(bytes[i])) << (8 * i);
  }
  if (length > kMaxHeaderBytes || length > file_bytes - kLengthBytes) {
    refuse(what, "its header claims " + std::to_string(length) + " bytes of a file of " +
                     std::to_string(file_bytes));
  }
  return length;
}

// Also refuses what the JSON library would accept: a name given twice, nesting without end.
Json parse_header(std::string_view text, const std::string& what) {
  if (text.empty() || text.front() != '{') refuse(what, "its header does not begin with {");
  std::vector<std::set<std::string>> open;  // the names of the objects that are being read
  const auto watch = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (depth > kMaxHeaderDepth) refuse(what, "its header is nested too deeply");
    if (event == Json::parse_event_t::object_start) open.emplace_back();
    if (event == Json::parse_event_t::object_end) open.pop_back();
    if (event == Json::parse_event_t::key) {
      const auto& name = parsed.get_ref<const std::string&>();
      if (!open.back().insert(name).second) refuse(what, "\"" + name + "\" is there twice");
    }
    return true;
  };
  try {
    return Json::parse(text.begin(), text.end(), watch);
  } catch (const Json::exception& error) {
    refuse(what, std::string("its header is not JSON: ") + error.what());
  }
}

// The bytes of a tensor of this shape; refuses what no memory could have.
uint64_t checked_bytes(const Entry& entry, const std::string& what) {
  uint64_t bytes = at::elementSize(entry.type);
  bool empty = false;
  for (const int64_t extent : entry.shape) {
    empty |= extent == 0;
    const auto factor = static_cast<uint64_t>(std::max<int64_t>(extent, 1));
    if (bytes > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()) / factor) {
      refuse(what, "tensor \"" + entry.name + "\" has the impossible shape " +
                       khorus::to_string(entry.shape));
    }
    bytes *= factor;
  }
  return empty ? 0 : bytes;
}

uint64_t unsigned_number(const Json& value, const std::string& name, const std::string& what) {
  if (!value.is_number_unsigned() ||
      value.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    refuse(what, "tensor \"" + name + "\" has " + value.dump(-1, ' ', true) +
                     " where a size or an offset belongs");
  }
  return value.get<uint64_t>();
}

const Json& member(const Json& value, const char* key, const std::string& name,
                   const std::string& what) {
  const auto found = value.is_object() ? value.find(key) : value.end();
  if (!value.is_object() || found == value.end()) {
    refuse(what, "tensor \"" + name + "\" says no " + key);
  }
  return *found;
}

Entry entry_of(const std::string& name, const Json& value, const std::string& what) {
  Entry entry;
  entry.name = name;
  const Json& dtype = member(value, "dtype", name, what);
  const auto* const known =
      std::find_if(std::begin(kFileDtypes), std::end(kFileDtypes),
                   [&dtype](const FileDtype& d) { return dtype.is_string() && dtype == d.name; });
  if (known == std::end(kFileDtypes)) {
    refuse(what, "tensor \"" + name + "\" has the unknown dtype " + dtype.dump(-1, ' ', true));
  }
  entry.type = known->type;
  const Json& shape = member(value, "shape", name, what);
  const Json& offsets = member(value, "data_offsets", name, what);
  if (!shape.is_array()) refuse(what, "tensor \"" + name + "\" has a shape that is no list");
  if (!offsets.is_array() || offsets.size() != 2) {
    refuse(what, "tensor \"" + name + "\" has data_offsets that are not two numbers");
  }
  for (const Json& extent : shape) {
    entry.shape.push_back(static_cast<int64_t>(unsigned_number(extent, name, what)));
  }
  entry.begin = unsigned_number(offsets[0], name, what);
  entry.end = unsigned_number(offsets[1], name, what);
  const uint64_t needed = checked_bytes(entry, what);
  if (entry.end < entry.begin || entry.end - entry.begin != needed) {
    refuse(what, "tensor \"" + name + "\" needs " + std::to_string(needed) +
                     " bytes and lies at bytes " + std::to_string(entry.begin) + " to " +
                     std::to_string(entry.end));
  }
  return entry;
}

// Sorted by place; together they are exactly the bytes after the header.
void check_places(std::vector<Entry>& entries, uint64_t data_bytes, const std::string& what) {
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  uint64_t end = 0;
  for (const Entry& entry : entries) {
    if (entry.begin != end) {
      refuse(what, "tensor \"" + entry.name + "\" begins at byte " + std::to_string(entry.begin) +
                       ", and what is before it ends at " + std::to_string(end) +
                       (entry.begin < end ? ": they overlap" : ": there is a gap"));
    }
    end = entry.end;
  }
  if (end != data_bytes) {
    refuse(what, "its tensors take " + std::to_string(end) + " bytes and the file has " +
                     std::to_string(data_bytes) + " for them");
  }
}

Tensor read_tensor(const Entry& entry, const ReadBytes& read) {
  // A byte that is neither 0 nor 1 is no bool: such bytes are true.
  const bool is_bool = entry.type == at::kBool;
  Tensor tensor = at::empty(entry.shape, is_bool ? at::kByte : entry.type);
  if (tensor.nbytes() > 0) read(entry.begin, tensor.data_ptr(), tensor.nbytes());
  return is_bool ? tensor.ne(0) : tensor;
}

Safetensors decode(std::string_view header_text, uint64_t data_bytes, const ReadBytes& read,
                   const std::string& what) {
  const Json header = parse_header(header_text, what);
  Safetensors content;
  std::vector<Entry> entries;
  for (const auto& [name, value] : header.items()) {
    if (name != kMetadata) {
      entries.push_back(entry_of(name, value, what));
      continue;
    }
    if (!value.is_object()) refuse(what, "its __metadata__ is no object");
    for (const auto& [key, word] : value.items()) {
      if (!word.is_string()) refuse(what, "its metadata \"" + key + "\" is not a string");
      content.metadata[key] = word.get<std::string>();
    }
  }
  check_places(entries, data_bytes, what);
  for (const Entry& entry : entries) content.tensors[entry.name] = read_tensor(entry, read);
  return content;
}

}  // namespace

std::string encode_safetensors(const Safetensors& content) {
  const NamedTensors ordered = in_file_order(content);
  std::string bytes = encode_header(ordered, content.metadata);
  for (const auto& [name, tensor] : ordered) bytes += bytes_of(tensor);
  return bytes;
}

Safetensors decode_safetensors(std::string_view bytes, const std::string& what) {
  const uint64_t length = decode_length(bytes, bytes.size(), what);
  const std::string_view data = bytes.substr(kLengthBytes + length);
  const auto read = [data](uint64_t begin, void* to, size_t count) {
    std::memcpy(to, data.data() + begin, count);
  };
  return decode(bytes.substr(kLengthBytes, length), data.size(), read, what);
}

void save_safetensors(const std::string& path, const Safetensors& content) {
  const NamedTensors ordered = in_file_order(content);
  NewFile file(path);
  file.write(encode_header(ordered, content.metadata));
  for (const auto& [name, tensor] : ordered) file.write(bytes_of(tensor));
  file.commit();
}

Safetensors load_safetensors(const std::string& path) {
  const OldFile file(path);
  std::string length_bytes(kLengthBytes, '\0');
  if (file.size() >= kLengthBytes) file.read(0, length_bytes.data(), kLengthBytes);
  const uint64_t length = decode_length(length_bytes, file.size(), path);
  std::string header(length, '\0');
  file.read(kLengthBytes, header.data(), header.size());
  const uint64_t data = kLengthBytes + length;
  const auto read = [&file, data](uint64_t begin, void* to, size_t count) {
    file.read(data + begin, to, count);
  };
  return decode(header, file.size() - data, read, path);
}

}  // namespace khorus::torch

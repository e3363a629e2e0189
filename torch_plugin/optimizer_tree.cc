// See optimizer_tree.h.
//
// A node of the JSON is an object with one key, the kind: archive (an object of nodes), tensor (its
// name), tensors (a list of names), count (an int64 tensor of one element), tuple (a list of
// nodes), int, double (a number, or "inf", "-inf", "nan"), bool, string, none.
#include "torch_plugin/optimizer_tree.h"

#include <ATen/ATen.h>
#include <torch/optim/lbfgs.h>
#include <torch/serialize.h>

#include <cmath>
#include <sstream>

#include "torch_plugin/tensor_view.h"

namespace khorus::torch {
namespace {

using Node = nlohmann::json;
using ::torch::serialize::InputArchive;
using ::torch::serialize::OutputArchive;

::torch::optim::Optimizer& innermost(::torch::optim::Optimizer& optimizer) {
  auto* distributed = dynamic_cast<DistributedOptimizer*>(&optimizer);
  return distributed != nullptr ? distributed->wrapped() : optimizer;
}

// ---- archive to tree

Node node_of_double(double value) {
  if (std::isfinite(value)) return {{"double", value}};
  return {{"double", std::isnan(value) ? "nan" : value > 0 ? "inf" : "-inf"}};
}

class TreeWriter {
 public:
  explicit TreeWriter(std::map<std::string, Tensor>& tensors) : tensors_(tensors) {}

  // `path` names the tensors below. `rename` (may be null) gives the names of the archive's keys.
  Node archive(InputArchive& archive, const std::string& path,
               const std::map<std::string, std::string>* rename = nullptr) {
    Node members = Node::object();
    for (const std::string& key : archive.keys()) {
      const std::string name = rename == nullptr ? key : rename->at(key);
      const std::string below = path.empty() ? name : path + "." + name;
      c10::IValue value;
      archive.read(key, value);
      if (value.isObject()) {
        InputArchive nested;
        archive.read(key, nested);
        members[name] = this->archive(nested, below);
      } else {
        members[name] = node(value, below);
      }
    }
    return {{"archive", members}};
  }

 private:
  std::string keep(const Tensor& tensor, const std::string& path) {
    tensors_[path] = tensor;
    return path;
  }

  Node node(const c10::IValue& value, const std::string& path) {
    if (value.isNone()) return {{"none", nullptr}};
    if (value.isInt()) return {{"int", value.toInt()}};
    if (value.isDouble()) return node_of_double(value.toDouble());
    if (value.isBool()) return {{"bool", value.toBool()}};
    if (value.isString()) return {{"string", value.toStringRef()}};
    if (value.isTensor()) {
      const Tensor tensor = value.toTensor();
      const bool is_count = tensor.scalar_type() == at::kLong && tensor.dim() == 0;
      if (is_count) return {{"count", tensor.item<int64_t>()}};
      return {{"tensor", keep(tensor, path)}};
    }
    Node parts = Node::array();
    if (value.isTensorList()) {
      for (const Tensor& tensor : value.toTensorVector()) {
        parts.push_back(keep(tensor, path + "." + std::to_string(parts.size())));
      }
      return {{"tensors", parts}};
    }
    if (value.isTuple()) {
      for (const c10::IValue& part : value.toTupleRef().elements()) {
        parts.push_back(node(part, path + "." + std::to_string(parts.size())));
      }
      return {{"tuple", parts}};
    }
    throw_invalid("the optimizer keeps \"" + path + "\" as " + value.tagKind() +
                  ", which a checkpoint cannot hold");
  }

  std::map<std::string, Tensor>& tensors_;
};

// ---- tree to archive

class TreeReader {
 public:
  explicit TreeReader(const std::map<std::string, Tensor>& tensors) : tensors_(tensors) {}

  // Throws what Node and map throw for a tree of another form.
  void archive(const Node& node, OutputArchive& to) const {
    for (const auto& [key, member] : node.at("archive").items()) {
      if (member.contains("archive")) {
        OutputArchive nested(to.compilation_unit());
        archive(member, nested);
        to.write(key, nested);
      } else {
        to.write(key, value(member));
      }
    }
  }

 private:
  Tensor tensor(const Node& name) const { return tensors_.at(name.get<std::string>()); }

  static int64_t integer(const Node& node) {
    if (!node.is_number_integer()) throw std::domain_error(node.dump() + " is no whole number");
    return node.get<int64_t>();
  }

  c10::IValue value(const Node& node) const {
    if (node.contains("none")) return {};
    if (node.contains("int")) return integer(node["int"]);
    if (node.contains("bool")) return node["bool"].get<bool>();
    if (node.contains("string")) return node["string"].get<std::string>();
    if (node.contains("count")) return at::scalar_tensor(integer(node["count"]), at::kLong);
    if (node.contains("tensor")) return tensor(node["tensor"]);
    if (node.contains("double")) {
      const Node& number = node["double"];
      return number.is_string() ? std::stod(number.get<std::string>()) : number.get<double>();
    }
    if (node.contains("tensors")) {
      c10::List<Tensor> list;
      for (const Node& name : node["tensors"]) list.push_back(tensor(name));
      return list;
    }
    std::vector<c10::IValue> parts;
    for (const Node& part : node.at("tuple")) parts.push_back(value(part));
    return c10::ivalue::Tuple::create(std::move(parts));
  }

  const std::map<std::string, Tensor>& tensors_;
};

// What libtorch wrote is read back, because only what is read has a public way to walk over it.
InputArchive through_bytes(OutputArchive& written) {
  std::stringstream stream;
  written.save_to(stream);
  InputArchive read;
  read.load_from(stream);
  return read;
}

std::string address_of(const Tensor& parameter) {
  return std::to_string(reinterpret_cast<size_t>(parameter.unsafeGetTensorImpl()));
}

// Parameters in the order of the groups, each with the name it has in the tree.
std::vector<std::pair<Tensor, std::string>> named_in_order(
    const ::torch::optim::Optimizer& optimizer, const ParameterNames& names) {
  std::vector<std::pair<Tensor, std::string>> result;
  for (const auto& group : optimizer.param_groups()) {
    for (const Tensor& parameter : group.params()) {
      const auto name = names.find(parameter.unsafeGetTensorImpl());
      result.emplace_back(parameter,
                          name != names.end() ? name->second : "#" + std::to_string(result.size()));
    }
  }
  return result;
}

// Moments have the shape of their parameter; LBFGS keeps flat vectors over all parameters instead.
void check_shapes(::torch::optim::Optimizer& optimizer, const Node& parameter,
                  const Tensor& current, const OptimizerTree& tree, const std::string& what) {
  if (dynamic_cast<::torch::optim::LBFGS*>(&innermost(optimizer)) != nullptr) return;
  for (const auto& [key, node] : parameter.at("archive").items()) {
    if (!node.contains("tensor")) continue;
    const auto name = node["tensor"].get<std::string>();
    const Tensor& tensor = tree.tensors.at(name);
    if (tensor.sizes() == current.sizes()) continue;
    throw_invalid(what + "\"" + name + "\" has shape " +
                  khorus::to_string(Shape(tensor.sizes().vec())) + " and its parameter " +
                  khorus::to_string(Shape(current.sizes().vec())));
  }
}

// Of all tensors that the node names.
void move_to(const at::Device& device, const Node& node, std::map<std::string, Tensor>& tensors) {
  const auto move = [&](const Node& name) {
    Tensor& tensor = tensors.at(name.get<std::string>());
    tensor = tensor.to(device);
  };
  if (node.is_array()) {
    for (const Node& part : node) move_to(device, part, tensors);
  } else if (node.is_object()) {
    for (const auto& [key, below] : node.items()) {
      if (key == "tensor") {
        move(below);
      } else if (key == "tensors") {
        for (const Node& name : below) move(name);
      } else {
        move_to(device, below, tensors);
      }
    }
  }
}

// libtorch's archive has numbers where the tree has names. Any numbers do, if they agree. `tensors`
// are the tree's, each on the device of its parameter.
Node with_numbers(::torch::optim::Optimizer& optimizer, const OptimizerTree& tree,
                  const std::string& what, std::map<std::string, Tensor>* tensors) {
  *tensors = tree.tensors;
  Node root = tree.structure;
  Node& groups = root.at("archive").at("param_groups").at("archive");
  Node states = Node::object();
  const Node& named_states = tree.structure.at("archive").at("state").at("archive");
  int64_t number = 0;
  for (size_t g = 0; g < optimizer.param_groups().size(); ++g) {
    const auto& parameters = optimizer.param_groups()[g].params();
    Node& group = groups.at("param_groups/" + std::to_string(g)).at("archive");
    for (size_t i = 0; i < parameters.size(); ++i) {
      Node& key = group.at("params/" + std::to_string(i)).at("string");
      const auto state = named_states.find(key.get<std::string>());
      key = std::to_string(++number);
      if (state == named_states.end()) continue;
      check_shapes(optimizer, *state, parameters[i], tree, what);
      move_to(parameters[i].device(), *state, *tensors);
      states[std::to_string(number)] = *state;
    }
  }
  root["archive"]["state"]["archive"] = states;
  return root;
}

// Loading adds to the state that is there, so what the archive does not have must go first.
void load_or_keep(::torch::optim::Optimizer& optimizer, InputArchive& archive) {
  auto& state = innermost(optimizer).state();
  auto before = std::move(state);
  state.clear();
  try {
    optimizer.load(archive);
  } catch (...) {
    state = std::move(before);
    throw;
  }
}

}  // namespace

nlohmann::json parse_tree(const std::string& text) {
  constexpr int kMaxDepth = 64;  // several functions here call themselves for what is below
  const auto watch = [](int depth, Node::parse_event_t, Node&) {
    if (depth > kMaxDepth) throw_invalid("an optimizer's tree is nested too deeply");
    return true;
  };
  return Node::parse(text, watch);
}

void drop_lbfgs_scratch(::torch::optim::Optimizer& optimizer) {
  for (auto& [parameter, state] : innermost(optimizer).state()) {
    auto* lbfgs = dynamic_cast<::torch::optim::LBFGSParamState*>(state.get());
    if (lbfgs != nullptr) lbfgs->al(std::nullopt);
  }
}

OptimizerTree tree_of(::torch::optim::Optimizer& optimizer, const ParameterNames& names) {
  drop_lbfgs_scratch(optimizer);
  OutputArchive written;
  optimizer.save(written);
  InputArchive archive = through_bytes(written);
  std::map<std::string, std::string> name_of;  // by the address in the archive
  for (const auto& [parameter, name] : named_in_order(optimizer, names)) {
    name_of[address_of(parameter)] = name;
  }
  OptimizerTree tree;
  TreeWriter writer(tree.tensors);
  tree.structure = writer.archive(archive, "");
  InputArchive states;
  archive.read("state", states);
  tree.tensors.clear();  // the walk above named the state's tensors by address
  Node& members = tree.structure["archive"];
  members["state"] = writer.archive(states, "", &name_of);
  for (auto& [group_key, group] : members["param_groups"]["archive"].items()) {
    if (!group.contains("archive")) continue;
    for (auto& [key, value] : group["archive"].items()) {
      if (key.starts_with("params/") && value.contains("string")) {
        value["string"] = name_of.at(value["string"].get<std::string>());
      }
    }
  }
  return tree;
}

void restore_from_tree(::torch::optim::Optimizer& optimizer, const OptimizerTree& tree,
                       const std::string& what) {
  const std::string other = what + "the optimizer in it is of another kind or has other parameters";
  try {
    OutputArchive written;
    std::map<std::string, Tensor> tensors;
    const Node numbered = with_numbers(optimizer, tree, what, &tensors);
    TreeReader(tensors).archive(numbered, written);
    InputArchive archive = through_bytes(written);
    load_or_keep(optimizer, archive);
  } catch (const c10::Error& error) {
    throw_invalid(other + ": " + error.what_without_backtrace());
  } catch (const nlohmann::json::exception& error) {
    throw_invalid(other + ": " + error.what());
  } catch (const std::logic_error& error) {  // a tensor that is not there, a number that is none
    throw_invalid(other + ": " + error.what());
  }
}

}  // namespace khorus::torch

#include "models/sequence_model.h"

#include <nlohmann/json.hpp>

#include "engine/io/file.h"
#include "engine/text/counted.h"
#include "models/deep_s4.h"
#include "models/s4_stack.h"

namespace adder {
namespace {

// "" when the text is no JSON object with a model_type.
std::string model_type(const std::string& config_json) {
  const auto json = nlohmann::json::parse(config_json, nullptr, false);
  if (!json.is_object() || !json.contains("model_type") || !json["model_type"].is_string()) {
    return "";
  }
  return json["model_type"].get<std::string>();
}

[[noreturn]] void refuse(const std::string& name, const std::string& type) {
  throw ConfigError(
      str(name, ": model_type '", type, "' is no sequence model; 'deep_s4' and 's4' are"));
}

void check_labels(const Tensor& labels, const Shape& shape, std::int64_t classes) {
  check_shape("sequence loss", "labels", labels, shape);
  const std::int32_t* label = labels.data<std::int32_t>();
  for (std::int64_t i = 0; i < labels.numel(); ++i) {
    if (label[i] < 0 || label[i] >= classes) {
      throw ShapeError(str("sequence loss: label ", label[i], " at position ", i,
                           ", the model has ", counted(classes, "class", "classes")));
    }
  }
}

}  // namespace

ParameterPtr SequenceModel::make(const std::string& name, Role role, Shape shape) {
  auto parameter = std::make_shared<Parameter>(name, role, Tensor::empty(shape, dtype_));
  parameters_.push_back(parameter);
  return parameter;
}

LinearMap SequenceModel::make_linear(const std::string& name, Role role, std::int64_t out,
                                     std::int64_t in) {
  LinearMap map;
  map.name = name;
  map.weight = make(name + ".weight", role, {out, in});
  map.bias = make(name + ".bias", Role::linear_bias, {out});
  return map;
}

BufferPtr SequenceModel::make_buffer(const std::string& name, Shape shape, Dtype dtype) {
  buffers_.push_back(std::make_shared<Buffer>(Buffer{name, Tensor::zeros(shape, dtype)}));
  return buffers_.back();
}

void SequenceModel::add_parameter(ParameterPtr parameter) {
  parameters_.push_back(std::move(parameter));
}

std::vector<std::string> SequenceModel::biasable_modules() const {
  std::vector<std::string> modules;
  for (const LinearMap* map : linear_maps_) modules.push_back(map->name);
  return modules;
}

ParameterPtr SequenceModel::ensure_bias(const std::string& module) {
  for (const LinearMap* map : linear_maps_) {
    if (map->name == module) return map->bias;
  }
  return nullptr;
}

std::vector<std::pair<std::string, Tensor>> SequenceModel::stored_tensors(Dtype dtype) const {
  std::vector<std::pair<std::string, Tensor>> tensors;
  for (const ParameterPtr& parameter : parameters_) {
    if (parameter->role() == Role::adapter) continue;
    Tensor value = parameter->value();
    bool matrix = false;
    for (const LinearMap* map : linear_maps_) {
      if (map->weight != parameter) continue;
      matrix = true;
      if (!map->branches.empty()) value = map->merged_weight();
    }
    for (const StateMap* map : state_maps_) {
      if (map->base == parameter && !map->branches.empty()) value = map->merged();
    }
    tensors.emplace_back(parameter->name(), value.to(matrix ? dtype : Dtype::f32));
  }
  for (const BufferPtr& buffer : buffers_) tensors.emplace_back(buffer->name, buffer->value);
  return tensors;
}

SequenceLoss sequence_loss(const SequenceModel& model, const SequenceBatch& batch,
                           const ForwardContext& context, std::int64_t denominator) {
  if (batch.labels.defined() == batch.target.defined()) {
    throw ShapeError("sequence loss: a batch has either labels or a target");
  }
  const Var y = model.forward(batch.x, context);
  const Var rows = y.shape().rank() == 2 ? y : reshape(y, {-1, model.output_size()});
  SequenceLoss result;
  LossResult loss;
  const auto factor = [&](std::int64_t count) {
    result.count = count;
    return 1.0 / static_cast<double>(denominator > 0 ? denominator : count);
  };
  if (batch.labels.defined()) {
    const Shape expected =
        model.pooled() ? Shape{batch.x.dim(0)} : Shape{batch.x.dim(0), batch.x.dim(1)};
    check_labels(batch.labels.to(Device{}), expected, model.output_size());
    loss = cross_entropy(rows, batch.labels.reshape({-1}), factor(batch.labels.numel()));
  } else {
    check_shape("sequence loss", "target", batch.target, y.shape());
    loss = square_error(rows, batch.target.reshape(rows.shape()), factor(batch.target.numel()));
  }
  result.loss = loss.loss;
  result.sums = loss.sums;
  return result;
}

bool names_sequence_model(const std::string& config_json) {
  const std::string type = model_type(config_json);
  return type == "deep_s4" || type == "s4";
}

std::unique_ptr<SequenceModel> load_sequence_model(const std::string& directory) {
  const std::string path = join_path(directory, "config.json");
  const std::string type = model_type(read_file(path));
  if (type == "deep_s4") return DeepS4::load(directory);
  if (type == "s4") return S4Stack::load(directory);
  refuse(path, type);
}

std::unique_ptr<SequenceModel> init_sequence_model(const std::string& config_json,
                                                   const std::string& name, std::uint64_t seed) {
  const std::string type = model_type(config_json);
  if (type == "deep_s4") return DeepS4::init(DeepS4Config::from_json(config_json, name), seed);
  if (type == "s4") return S4Stack::init(S4StackConfig::from_json(config_json, name), seed);
  refuse(name, type);
}

}  // namespace adder

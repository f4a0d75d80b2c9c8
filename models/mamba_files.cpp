// Mamba weights: random initialisation, and model directories in the published layouts.
#include <algorithm>
#include <cmath>

#include "engine/io/file.h"
#include "engine/io/safetensors.h"
#include "engine/random.h"
#include "models/mamba.h"
#include "models/weight_table.h"

namespace adder {
namespace {

// The original state-spaces checkpoints call the embedding differently; all else agrees.
std::string name_in_files(const WeightFiles& files, const std::string& name) {
  if (name == "backbone.embeddings.weight" && !files.contains(name)) {
    return "backbone.embedding.weight";
  }
  return name;
}

// Random values of one parameter by the original recipe (state-spaces/mamba, MambaLMHeadModel).
void init_parameter(const Parameter& parameter, const MambaConfig& c, std::uint64_t seed,
                    std::uint64_t stream) {
  const Tensor& value = parameter.value();
  const auto uniform = [&](double bound) { fill_uniform(value, -bound, bound, seed, stream); };
  const auto root = [](std::int64_t n) { return 1 / std::sqrt(static_cast<double>(n)); };
  switch (parameter.role()) {
    case Role::embedding:
    case Role::head:
      fill_normal(value, 0, c.initializer_range, seed, stream);
      return;
    case Role::norm:
    case Role::D:
      value.fill(1);
      return;
    case Role::in_proj:
      uniform(root(c.hidden_size));
      return;
    case Role::conv_weight:
    case Role::conv_bias:
      uniform(root(c.conv_kernel));
      return;
    case Role::x_proj:
      uniform(root(c.inner_size));
      return;
    case Role::out_proj: {
      const double depth =
          c.rescale_prenorm_residual ? std::sqrt(static_cast<double>(c.num_layers)) : 1;
      uniform(root(c.inner_size) / depth);
      return;
    }
    case Role::dt_proj: {
      const double bound = root(c.time_step_rank) * c.time_step_scale;
      if (c.time_step_init_constant) {
        value.fill(bound);
      } else {
        uniform(bound);
      }
      return;
    }
    case Role::dt_bias: {
      // The inverse softplus of a time step that is log-uniform in [min, max].
      fill_uniform(value, std::log(c.time_step_min), std::log(c.time_step_max), seed, stream);
      float* bias = value.data<float>();
      for (std::int64_t i = 0; i < value.numel(); ++i) {
        const double dt = std::max(std::exp(static_cast<double>(bias[i])), c.time_step_floor);
        bias[i] = static_cast<float>(dt + std::log(-std::expm1(-dt)));
      }
      return;
    }
    case Role::A_log: {
      float* a = value.data<float>();
      for (std::int64_t i = 0; i < value.numel(); ++i) {
        a[i] = static_cast<float>(std::log(static_cast<double>(i % c.state_size + 1)));
      }
      return;
    }
    default:  // biases of linear maps
      value.fill(0);
      return;
  }
}

Tensor stored_as(const Parameter& parameter, const Tensor& value, Dtype dtype) {
  const Tensor shaped = parameter.role() == Role::conv_weight
                            ? value.reshape({value.dim(0), 1, value.dim(1)})
                            : value;
  const bool keeps_f32 = parameter.role() == Role::A_log || parameter.role() == Role::D;
  return shaped.to(keeps_f32 ? Dtype::f32 : dtype);
}

}  // namespace

std::unique_ptr<Mamba> Mamba::init(const MambaConfig& config, std::uint64_t seed) {
  auto model = std::make_unique<Mamba>(config);
  std::uint64_t stream = 1;
  for (const ParameterPtr& parameter : model->parameters_) {
    init_parameter(*parameter, config, seed, stream++);
  }
  return model;
}

std::unique_ptr<Mamba> Mamba::load(const std::string& directory, Dtype matrix_dtype) {
  const std::string config_path = join_path(directory, "config.json");
  MambaConfig config = MambaConfig::from_json(read_file(config_path), config_path);
  const WeightFiles files = WeightFiles::open(directory);
  const std::string embedding = name_in_files(files, "backbone.embeddings.weight");
  // Some publications state the unpadded vocabulary: the table itself decides.
  if (files.contains(embedding)) {
    const Tensor table = files.load(embedding);
    if (table.rank() == 2 && table.dim(0) > config.vocab_size &&
        table.dim(0) < config.vocab_size + 1024) {
      config.vocab_size = table.dim(0);
    }
  }
  if (config.tie_embeddings && files.contains("lm_head.weight") && files.contains(embedding)) {
    // Tied models may store the table twice; a head that differs is a separate one.
    const Tensor head = files.load("lm_head.weight");
    const Tensor table = files.load(embedding);
    const bool same = head.shape() == table.shape() && head.to_vector() == table.to_vector();
    if (!same) config.tie_embeddings = false;
  }
  auto model = std::make_unique<Mamba>(config, matrix_dtype);
  for (const ParameterPtr& parameter : model->parameters_) {
    load_parameter(*parameter, files, name_in_files(files, parameter->name()));
  }
  return model;
}

void Mamba::save(const std::string& directory, Dtype dtype) const {
  std::vector<std::pair<std::string, Tensor>> tensors;
  MambaConfig config = config_;
  for (const ParameterPtr& parameter : parameters_) {
    if (parameter->role() == Role::adapter) continue;
    Tensor value = parameter->value();
    for (const LinearMap* map : linear_maps_) {
      if (map->weight == parameter && !map->branches.empty()) value = map->merged_weight();
    }
    tensors.emplace_back(parameter->name(), stored_as(*parameter, value, dtype));
  }
  write_file_atomic(join_path(directory, "config.json"), config.to_json());
  write_safetensors(join_path(directory, "model.safetensors"), tensors, {{"format", "pt"}});
}

}  // namespace adder

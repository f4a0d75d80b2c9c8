// Weights of the deep S4: random initialisation, and model directories.
#include <algorithm>
#include <cmath>
#include <numbers>

#include "engine/error.h"
#include "engine/io/file.h"
#include "engine/random.h"
#include "models/deep_s4.h"
#include "models/weight_table.h"

namespace adder {
namespace {

constexpr double kSmallestDt = 1e-3;
constexpr double kLargestDt = 1e-1;
constexpr double kSmallestDecay = 1e-7;  // a logarithm of 0 would be no number for a file

// The initial values of the experiments' models: dt log-uniform, C complex normal with variance one
// (a half for each part), A as the configuration says, linear maps as in PyTorch.
void init_parameter(const Parameter& parameter, const DeepS4Config& config, std::uint64_t seed,
                    std::uint64_t stream) {
  const Tensor& value = parameter.value();
  auto* v = value.data<float>();
  const bool random = config.A_init == "random";
  switch (parameter.role()) {
    case Role::D:
      return fill_normal(value, 0, 1, seed, stream);
    case Role::C:
      return fill_normal(value, 0, std::sqrt(0.5), seed, stream);
    case Role::log_dt:
      return fill_uniform(value, std::log(kSmallestDt), std::log(kLargestDt), seed, stream);
    case Role::A_real: {
      if (!random) return value.fill(std::log(0.5));
      Random draw(seed, stream);
      for (std::int64_t i = 0; i < value.numel(); ++i) {
        v[i] = static_cast<float>(std::log(std::max(draw.uniform(), kSmallestDecay)));
      }
      return;
    }
    case Role::A_imag: {
      Random draw(seed, stream);
      const std::int64_t n = config.d_state;
      for (std::int64_t i = 0; i < value.numel(); ++i) {
        const auto mode =
            random ? static_cast<std::int64_t>(draw.below(static_cast<std::uint64_t>(n))) : i % n;
        v[i] = static_cast<float>(std::numbers::pi * static_cast<double>(mode));
      }
      return;
    }
    default: {
      // Linear weights and biases: uniform within 1 / sqrt(inputs).
      const bool encoder = parameter.name().rfind("encoder.", 0) == 0;
      const std::int64_t inputs = encoder ? config.d_input : config.d_model;
      const double bound = 1 / std::sqrt(static_cast<double>(inputs));
      return fill_uniform(value, -bound, bound, seed, stream);
    }
  }
}

}  // namespace

std::unique_ptr<DeepS4> DeepS4::init(const DeepS4Config& config, std::uint64_t seed) {
  auto model = std::make_unique<DeepS4>(config);
  std::uint64_t stream = 1;
  for (const ParameterPtr& parameter : model->parameters_) {
    init_parameter(*parameter, config, seed, stream++);
  }
  return model;
}

std::unique_ptr<DeepS4> DeepS4::load(const std::string& directory) {
  const std::string path = join_path(directory, "config.json");
  auto model = std::make_unique<DeepS4>(DeepS4Config::from_json(read_file(path), path));
  const WeightFiles files = WeightFiles::open(directory);
  for (const ParameterPtr& parameter : model->parameters_) {
    load_parameter(*parameter, files, parameter->name());
  }
  return model;
}

void DeepS4::save(const std::string& directory, Dtype dtype) const {
  write_file_atomic(join_path(directory, "config.json"), config_.to_json());
  write_safetensors(join_path(directory, "model.safetensors"), stored_tensors(dtype),
                    {{"format", "pt"}});
}

}  // namespace adder

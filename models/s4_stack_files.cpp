// Weights of the official S4 model: random initialisation, and model directories.
#include <cmath>

#include "engine/error.h"
#include "engine/io/file.h"
#include "engine/random.h"
#include "models/s4_dplr.h"
#include "models/s4_init.h"
#include "models/s4_stack.h"
#include "models/weight_table.h"

namespace adder {
namespace {

constexpr double kPi = 3.14159265358979323846;

std::string length_name(std::size_t layer) {
  return str("s4_layers.", layer, ".layer.kernel.l_kernel");
}

void init_linear(const LinearMap& map, std::uint64_t seed, std::uint64_t& stream) {
  const double bound = 1 / std::sqrt(static_cast<double>(map.weight->value().dim(1)));
  fill_uniform(map.weight->value(), -bound, bound, seed, stream++);
  fill_uniform(map.bias->value(), -bound, bound, seed, stream++);
}

}  // namespace

void S4Stack::init_layer(S4Block& block, std::uint64_t seed, std::uint64_t& stream) const {
  if (config_.layer == "s4d") {
    block.A_real.base->value().fill(std::log(0.5));
    for (std::int64_t n = 0; n < config_.d_state / 2; ++n) {
      block.A_imag.base->value().slice(1, n, n + 1).fill(kPi * static_cast<double>(n));
    }
  } else {
    S4InitOptions wanted;
    wanted.init = config_.init;
    wanted.d_state = config_.d_state;
    wanted.copies = config_.copies();
    wanted.rank = config_.rank;
    wanted.seed = seed + stream;
    const S4StateParameters state = s4_state_parameters(s4_init(wanted), options(), Dtype::f32);
    block.A_real.base->value().copy_from(state.A_real);
    block.A_imag.base->value().copy_from(state.A_imag);
    block.B->value().copy_from(state.B.reshape(block.B->value().shape()));
    if (block.P) block.P->value().copy_from(state.P);
  }
  fill_uniform(block.inv_dt->value(), std::log(config_.dt_min), std::log(config_.dt_max), seed,
               stream++);
  fill_normal(block.D->value(), 0, 1, seed, stream++);
  fill_normal(block.C.base->value(), 0, std::sqrt(0.5), seed, stream++);
  if (!block.P) return;
  const Tensor& b = block.B->value();
  const S4DplrSystem system{block.A_real.base->value(), block.A_imag.base->value(),
                            block.inv_dt->value(),      b.reshape({b.dim(1), b.dim(2), 2}),
                            block.P->value(),           options()};
  block.C.base->value().copy_from(s4_dplr_store(system, block.C.base->value(), block.l_kernel));
}

std::unique_ptr<S4Stack> S4Stack::init(const S4StackConfig& config, std::uint64_t seed) {
  auto model = std::make_unique<S4Stack>(config);
  std::uint64_t stream = 1;
  init_linear(model->encoder_, seed, stream);
  for (const auto& block : model->blocks_) {
    model->init_layer(*block, seed, stream);
    for (const LinearMap* map :
         {&block->output_linear, &block->input_linear, &block->input_gate, &block->output_gate}) {
      if (map->weight) init_linear(*map, seed, stream);
    }
    block->norm.reset();
  }
  model->norm_.reset();
  init_linear(model->decoder_, seed, stream);
  return model;
}

std::unique_ptr<S4Stack> S4Stack::load(const std::string& directory) {
  const std::string path = join_path(directory, "config.json");
  auto model = std::make_unique<S4Stack>(S4StackConfig::from_json(read_file(path), path));
  const WeightFiles files = WeightFiles::open(directory);
  for (const ParameterPtr& parameter : model->parameters_) {
    load_parameter(*parameter, files, parameter->name());
  }
  for (const BufferPtr& buffer : model->buffers_) load_buffer(*buffer, files);
  for (const auto& block : model->blocks_) block->norm.check_loaded(directory);
  model->norm_.check_loaded(directory);
  for (std::size_t i = 0; i < model->blocks_.size(); ++i) {
    S4Block& block = *model->blocks_[i];
    const std::string name = length_name(i);
    if (!block.P || !files.contains(name)) continue;
    const Tensor length = files.load(name);
    const double value = length.numel() == 1 ? length.item() : 0;
    if (!(value >= 1 && value <= 2147483648.0)) {
      throw IoError(str(files.file_of(name), ": ", name, " is ", length.shape(), " starting with ",
                        value, ", expected one length of at least 1"));
    }
    block.l_kernel = static_cast<std::int64_t>(value);
  }
  return model;
}

void S4Stack::save(const std::string& directory, Dtype dtype) const {
  auto tensors = stored_tensors(dtype);
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    if (!blocks_[i]->P) continue;
    const std::vector<std::int64_t> length{blocks_[i]->l_kernel};
    tensors.emplace_back(length_name(i), Tensor::from({}, length));
  }
  if (config_.layer == "s4d") {
    // There the map is a convolution over one position.
    for (auto& [name, value] : tensors) {
      for (const auto& block : blocks_) {
        if (block->output_linear.weight->name() != name) continue;
        value = value.reshape({value.dim(0), value.dim(1), 1});
      }
    }
  }
  write_file_atomic(join_path(directory, "config.json"), config_.to_json());
  write_safetensors(join_path(directory, "model.safetensors"), tensors, {{"format", "pt"}});
}

}  // namespace adder

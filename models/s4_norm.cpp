#include "models/s4_norm.h"

#include "engine/error.h"

namespace adder {

Var S4Norm::operator()(const Var& x, const ForwardContext& context, bool frozen, bool again) const {
  if (kind == "none") return x;
  const Var w = weight ? weight->var() : Var();
  const Var b = bias ? bias->var() : Var();
  if (kind == "layer_scalar") return scalar_norm(x, w, b);
  if (kind == "layer") return layer_norm(x, w, b, kEpsilon);
  MomentNormOptions options{.epsilon = kEpsilon, .momentum = kMomentum};
  if (kind == "instance") options.over = MomentsOf::instance;
  if (kind == "group") options.over = MomentsOf::group;
  if (kind == "batch") {
    options.use_running = frozen || !context.training;
    if (options.use_running || !again) {
      options.running = {mean->value, var->value, batches->value};
    }
  }
  return moment_norm(x, w, b, options);
}

void S4Norm::reset() const {
  if (weight) weight->value().fill(1);
  if (bias) bias->value().fill(0);
  if (!mean) return;
  mean->value.fill(0);
  var->value.fill(1);
  batches->value.fill(0);
}

void S4Norm::check_loaded(const std::string& place) const {
  if (!var) return;
  for (std::int64_t i = 0; i < var->value.numel(); ++i) {
    if (var->value.item(i) >= 0) continue;
    throw IoError(str(place, ": ", var->name, " is ", var->value.item(i), " at ", i,
                      ", a variance is at least 0"));
  }
}

}  // namespace adder

// Whole training trajectories against PyTorch and peft.
#include <cmath>
#include <doctest/doctest.h>

#include "autograd/op_cases.h"
#include "autograd/optim.h"
#include "tests/support/golden.h"

using namespace adder;
using namespace adder::test;

namespace {

struct Run {
  SafetensorsFile shared = SafetensorsFile::open(golden_path("traj_shared.safetensors"));
  SafetensorsFile golden;
  std::unique_ptr<Mamba> model = golden_model(shared, "traj_shared");
  Tensor ids = as_ids(shared.load("batches/input_ids"));
  Tensor labels = as_ids(shared.load("batches/labels"));

  explicit Run(const std::string& name)
      : golden(SafetensorsFile::open(golden_path("traj_" + name + ".safetensors"))) {}

  // Trains on the stored batches and holds every loss and gradient norm against the golden ones.
  void follow(Optimizer& optimizer, double lr, std::int64_t steps, const std::string& prefix = "") {
    const Tensor losses = golden.load(prefix + "losses");
    const Tensor norms = golden.load(prefix + "grad_norms");
    for (std::int64_t step = 0; step < losses.numel(); ++step) {
      CAPTURE(step);
      Tape tape;
      const HeadLossResult result =
          model->loss(ids.select(0, step).contiguous(), labels.select(0, step).contiguous(), {});
      const double loss = result.loss.value().item();
      CHECK(std::abs(loss - losses.item(step)) <= 2e-4 * losses.item(step));
      tape.backward(result.loss);
      const double norm = gradient_norm(optimizer.trainables());
      CHECK(std::abs(norm - norms.item(step)) <= 1e-3 * norms.item(step));
      const double rate = lr * schedule_factor(Schedule::linear, step, steps, 0);
      optimizer.step(rate, clip_factor(norm, 1));
    }
  }

  void check_final_parameters() const {
    for (const ParameterPtr& parameter : model->parameters()) {
      CAPTURE(parameter->name());
      const Tensor expected = golden.load("final/" + parameter->name());
      CHECK(relative_error(parameter->value(), expected.reshape(parameter->value().shape())) <=
            2e-3);
    }
  }
};

}  // namespace

TEST_CASE("full fine-tuning follows PyTorch's AdamW for 30 steps") {
  Run run("full");
  for (const ParameterPtr& parameter : run.model->parameters()) parameter->train_dense();
  const auto optimizer = make_adamw(collect_trainables(run.model->parameters()));
  run.follow(*optimizer, 3e-3, 30);
  run.check_final_parameters();
}

TEST_CASE("weight decay follows PyTorch's AdamW") {
  Run run("full_decay");
  for (const ParameterPtr& parameter : run.model->parameters()) parameter->train_dense();
  const auto optimizer =
      make_adamw(collect_trainables(run.model->parameters()), {.weight_decay = 0.1});
  run.follow(*optimizer, 3e-3, 10);
  run.check_final_parameters();
}

TEST_CASE("SGD with momentum follows PyTorch") {
  Run run("full_sgd");
  for (const ParameterPtr& parameter : run.model->parameters()) parameter->train_dense();
  const auto optimizer = make_sgd(collect_trainables(run.model->parameters()), {.momentum = 0.9});
  run.follow(*optimizer, 0.2, 10);
  run.check_final_parameters();
}

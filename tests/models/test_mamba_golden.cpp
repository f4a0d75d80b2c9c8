// Exactness against transformers' MambaForCausalLM.
#include <cmath>
#include <doctest/doctest.h>

#include "autograd/op_cases.h"
#include "tests/support/golden.h"

using namespace adder;
using namespace adder::test;

TEST_CASE("logits, loss and every gradient equal transformers'") {
  for (int k = 0; k < 6; ++k) {
    const std::string name = str("mamba_", k, ".safetensors");
    CAPTURE(name);
    const SafetensorsFile file = SafetensorsFile::open(golden_path(name));
    for (const bool recompute : {false, true}) {
      CAPTURE(recompute);
      const auto model = golden_model(file, name);
      for (const ParameterPtr& parameter : model->parameters()) parameter->train_dense();
      const Tensor ids = as_ids(file.load("input_ids"));
      const Tensor labels = as_ids(file.load("labels"));

      const Tensor logits = model->logits(ids);
      if (file.contains("logits")) {
        CHECK(relative_error(logits, file.load("logits")) <= 1e-5);
      } else {
        const Tensor tail = logits.slice(1, ids.dim(1) - 3, ids.dim(1));
        CHECK(relative_error(tail, file.load("logits_tail")) <= 1e-5);
      }

      Tape tape;
      const HeadLossResult result =
          model->loss(ids, labels, {.training = true, .recompute = recompute});
      const double expected = file.load("loss").item();
      CHECK(std::abs(result.loss.value().item() - expected) <= 1e-6 * std::abs(expected));
      tape.backward(result.loss);
      for (const ParameterPtr& parameter : model->parameters()) {
        CAPTURE(parameter->name());
        const Tensor gradient = parameter->var().grad();
        REQUIRE(gradient.defined());
        const Tensor golden = file.load("grad/" + parameter->name()).reshape(gradient.shape());
        CHECK(relative_error(gradient, golden) <= 1e-4);
      }
    }
  }
}

TEST_CASE("both published layouts load and give transformers' logits") {
  for (const char* directory : {"tiny_hf", "tiny_ssm"}) {
    CAPTURE(directory);
    const auto model = Mamba::load(golden_path(directory));
    const SafetensorsFile expected =
        SafetensorsFile::open(golden_path(std::string(directory) + "/expected.safetensors"));
    const Tensor logits = model->logits(as_ids(expected.load("input_ids")));
    CHECK(relative_error(logits, expected.load("logits")) <= 1e-5);
  }
}

TEST_CASE("the step form equals the parallel form for prompts of 1 to 9 tokens") {
  for (int k = 0; k < 6; ++k) {
    const std::string name = str("mamba_", k, ".safetensors");
    const SafetensorsFile file = SafetensorsFile::open(golden_path(name));
    const auto model = golden_model(file, name);
    const std::int64_t vocabulary = model->vocab_size();
    std::vector<std::int32_t> ids(24);
    for (std::size_t i = 0; i < ids.size(); ++i) {
      ids[i] = static_cast<std::int32_t>(static_cast<std::int64_t>(i * i * 7 + 3) % vocabulary);
    }
    const Tensor all = Tensor::from({2, 12}, ids);
    const Tensor logits = model->logits(all);
    for (std::int64_t prompt = 1; prompt <= 9; ++prompt) {
      CAPTURE(name);
      CAPTURE(prompt);
      const auto state = model->new_state(2);
      Tensor now = model->prefill(all.slice(1, 0, prompt).contiguous(), *state);
      for (std::int64_t t = prompt; t < 12; ++t) {
        CHECK(relative_error(now, logits.select(1, t - 1)) <= 1e-4);
        now = model->step(all.select(1, t).contiguous(), *state);
      }
      CHECK(relative_error(now, logits.select(1, 11)) <= 1e-4);
    }
  }
}

TEST_CASE("matrices stored as bf16 are widened in the kernels") {
  const SafetensorsFile file = SafetensorsFile::open(golden_path("mamba_0.safetensors"));
  const auto model = golden_model(file, "mamba_0");
  const auto half = std::make_unique<Mamba>(model->config(), Dtype::bf16);
  const auto rounded = golden_model(file, "mamba_0");
  for (std::size_t i = 0; i < model->parameters().size(); ++i) {
    half->parameters()[i]->value().copy_from(model->parameters()[i]->value());
    rounded->parameters()[i]->value().copy_from(half->parameters()[i]->value());
  }
  const Tensor ids = as_ids(file.load("input_ids"));
  CHECK(relative_error(half->logits(ids), rounded->logits(ids)) <= 1e-5);
  CHECK(relative_error(half->logits(ids), model->logits(ids)) <= 0.1);
}

#include <doctest/doctest.h>
#include <string>

#include "engine/error.h"
#include "models/mamba_config.h"

using adder::ConfigError;
using adder::MambaConfig;

namespace {

MambaConfig read(const std::string& text) {
  return MambaConfig::from_json(text, "c.json");
}

const std::string kSizes = R"("hidden_size": 40, "num_hidden_layers": 3, "vocab_size": 61)";
const std::string kOriginal = R"("d_model": 40, "n_layer": 3, "vocab_size": 61)";

}  // namespace

TEST_CASE("the configuration of transformers, with its defaults") {
  const MambaConfig c = read("{" + kSizes + R"(, "a_key_of_others": [1], "state_size": null})");
  CHECK(c.hidden_size == 40);
  CHECK(c.num_layers == 3);
  CHECK(c.vocab_size == 61);
  CHECK(c.state_size == 16);
  CHECK(c.inner_size == 80);
  CHECK(c.time_step_rank == 3);  // hidden size / 16, rounded up
  const MambaConfig d = read("{" + kSizes + R"(, "expand": 1.5, "time_step_rank": 7,
    "hidden_act": "swish", "time_step_init_scheme": "constant", "layer_norm_epsilon": 1e-6,
    "tie_word_embeddings": false, "eos_token_id": 5})");
  CHECK(d.inner_size == 60);
  CHECK(d.time_step_rank == 7);
  CHECK(d.time_step_init_constant);
  CHECK(d.norm_epsilon == 1e-6);
  CHECK(!d.tie_embeddings);
  CHECK(d.eos_token_id == 5);
  CHECK(read("{" + kSizes + R"(, "expand": 3, "intermediate_size": 50})").inner_size == 50);
  CHECK(read("{" + kSizes + R"(, "time_step_rank": "auto"})").time_step_rank == 3);
}

TEST_CASE("the original configuration") {
  const MambaConfig c = read("{" + kOriginal + R"(, "ssm_cfg": {"d_state": 8, "dt_rank": "auto",
    "expand": 4, "dt_init": "constant", "bias": true}, "pad_vocab_size_multiple": 8})");
  CHECK(c.vocab_size == 64);
  CHECK(c.state_size == 8);
  CHECK(c.inner_size == 160);
  CHECK(c.time_step_rank == 3);
  CHECK(c.time_step_init_constant);
  CHECK(c.use_bias);
  CHECK(read("{" + kOriginal + R"(, "pad_vocab_size_multiple": 1})").vocab_size == 61);
  CHECK(read("{" + kOriginal + R"(, "ssm_cfg": null})").state_size == 16);
}

TEST_CASE("what is written is read back") {
  MambaConfig c = read("{" + kSizes + R"(, "conv_kernel": 3, "use_bias": true})");
  const MambaConfig again = read(c.to_json());
  CHECK(again.to_json() == c.to_json());
  CHECK(again.conv_kernel == 3);
  CHECK(again.use_bias);
}

TEST_CASE("bad configurations are refused by key and value") {
  const auto refused = [](const std::string& text, const std::string& message) {
    CAPTURE(text);
    CHECK_THROWS_WITH_AS(read(text), doctest::Contains(message.c_str()), ConfigError);
  };
  const auto with = [](const std::string& more) { return "{" + kSizes + ", " + more + "}"; };
  const auto original = [](const std::string& more) { return "{" + kOriginal + ", " + more + "}"; };
  refused("{", "c.json: byte 2: not valid JSON");
  refused("[1]", "c.json: not a JSON object");
  refused("{}", "c.json: 'hidden_size' is missing");
  refused(R"({"d_model": 8})", "'n_layer' is missing");
  refused(R"({"model_type": "llama"})", "'model_type' is \"llama\"");
  refused(with(R"("state_size": 0)"), "'state_size' is 0, expected from 1");
  refused(with(R"("state_size": 2.5)"), "'state_size' is 2.5, expected a whole number");
  refused(with(R"("state_size": 18446744073709551615)"), "expected from 1 to 2147483648");
  refused(with(R"("use_bias": 1)"), "'use_bias' is 1, expected true or false");
  refused(with(R"("layer_norm_epsilon": "small")"), "expected a number");
  refused(with(R"("layer_norm_epsilon": -1)"), "'layer_norm_epsilon' is -1");
  refused(with(R"("hidden_act": "gelu")"), "'hidden_act' is \"gelu\"");
  refused(with(R"("time_step_rank": "many")"), "'time_step_rank' is \"many\"");
  refused(with(R"("time_step_init_scheme": "randm")"), "did you mean 'random'");
  refused(with(R"("expand": 0)"), "the inner size is 0");
  refused(with(R"("expand": 1e9)"), "the inner size is 40000000000");
  refused(original(R"("rms_norm": false)"), "'rms_norm' is false");
  refused(original(R"("ssm_cfg": 3)"), "'ssm_cfg' is 3, expected an object");
  refused(original(R"("ssm_cfg": {"layer": "Mamba2"})"), "c.json: ssm_cfg: 'layer' is \"Mamba2\"");
  refused(original(R"("ssm_cfg": {"d_state": "x"})"), "c.json: ssm_cfg: 'd_state' is \"x\"");
}

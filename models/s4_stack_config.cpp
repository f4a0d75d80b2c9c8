#include "engine/error.h"
#include "models/json_reader.h"
#include "models/s4_stack.h"

namespace adder {
namespace {

const std::vector<std::string> kActivations = {"gelu", "relu",    "silu", "tanh",
                                               "elu",  "sigmoid", "none"};

void read_state_space(JsonReader& json, S4StackConfig& c) {
  json.read("bottleneck", c.bottleneck, 1, 1 << 20);
  if (c.bottleneck > 0 && c.d_model % c.bottleneck != 0) {
    json.fail(str("'bottleneck' is ", c.bottleneck, ", which does not divide d_model ", c.d_model));
  }
  json.read("mode", c.mode, {"diag", "dplr"});
  json.read_text("init", c.init);
  if (c.mode == "dplr") c.disc = "bilinear";
  json.read("disc", c.disc,
            c.mode == "dplr" ? std::vector<std::string>{"bilinear"}
                             : std::vector<std::string>{"zoh", "bilinear", "dss"});
  json.read("rank", c.rank, 1, kS4MostRanks);
  json.read("n_ssm", c.n_ssm, 0);
  if (c.d_inner() % c.copies() != 0) {
    json.fail(str("'n_ssm' is ", c.n_ssm, ", which does not divide ",
                  c.bottleneck > 0 ? "d_model / bottleneck " : "d_model ", c.d_inner()));
  }
  json.read("channels", c.channels, 1, 1024);
  json.read("l_max", c.l_max, 1);
  json.read("bandlimit", c.bandlimit, 0, 1e9);
  json.read("bidirectional", c.bidirectional);
}

void read_block(JsonReader& json, S4StackConfig& c) {
  json.read("activation", c.activation, kActivations);
  json.read("gate", c.gate, 1, 1024);
  json.read("gate_act", c.gate_act, kActivations);
  json.read("mult_act", c.mult_act, kActivations);
  std::vector<std::string> final_acts = kActivations;
  final_acts.insert(final_acts.begin(), "glu");
  json.read("final_act", c.final_act, final_acts);
  if (c.gate == 0 && c.gate_act != "none") json.fail("'gate_act' is given without 'gate'");
  if (!json.is_null("final_act")) return;
  c.final_act.clear();
  const std::int64_t width = c.gate > 0 ? c.gate * c.d_model : c.channels * c.d_inner();
  if (width != c.d_model) {
    json.fail(str("'final_act' is null, which leaves the linear map out, but ", width,
                  " features come out of the layer for d_model ", c.d_model));
  }
}

}  // namespace

S4StackConfig S4StackConfig::from_json(const std::string& text, const std::string& name) {
  JsonReader json(text, name);
  S4StackConfig c;
  std::string type = "s4";
  json.read("model_type", type, {"s4"});
  json.read("layer", c.layer, {"s4", "s4d"});
  json.read("d_input", c.d_input, 1);
  json.read("d_output", c.d_output, 1);
  json.read("d_model", c.d_model, 1);
  json.read("n_layers", c.n_layers, 1, 4096);
  json.read("d_state", c.d_state, 2, 65536);
  if (c.d_state % 2 != 0) {
    json.fail(
        str("'d_state' is ", c.d_state,
            ", expected an even number: modes come in conjugate pairs, of which one is stored"));
  }
  if (c.layer == "s4") read_state_space(json, c);
  json.read("dt_min", c.dt_min, 1e-12, 1e3);
  json.read("dt_max", c.dt_max, c.dt_min, 1e3);
  if (c.layer == "s4") read_block(json, c);
  json.read("dropout", c.dropout, 0, 0.999);
  json.read("tie_dropout", c.tie_dropout);
  json.read("prenorm", c.prenorm);
  json.read("norm", c.norm, {"layer", "layer_scalar", "batch", "instance", "group", "none"});
  json.read("pooling", c.pooling, {"mean", "last", "none"});
  json.finish();
  return c;
}

std::string S4StackConfig::to_json() const {
  const bool whole = layer == "s4";
  nlohmann::ordered_json json;
  json["model_type"] = "s4";
  json["layer"] = layer;
  json["d_input"] = d_input;
  json["d_output"] = d_output;
  json["d_model"] = d_model;
  json["n_layers"] = n_layers;
  json["d_state"] = d_state;
  if (whole) {
    if (bottleneck > 0) json["bottleneck"] = bottleneck;
    json["mode"] = mode;
    json["init"] = init;
    json["disc"] = disc;
    json["rank"] = rank;
    json["n_ssm"] = n_ssm;
    json["channels"] = channels;
    json["l_max"] = l_max;
  }
  json["dt_min"] = dt_min;
  json["dt_max"] = dt_max;
  if (whole) {
    json["bandlimit"] = bandlimit;
    json["bidirectional"] = bidirectional;
    json["activation"] = activation;
    if (gate > 0) {
      json["gate"] = gate;
      json["gate_act"] = gate_act;
    }
    json["mult_act"] = mult_act;
    json["final_act"] = nullptr;
    if (!final_act.empty()) json["final_act"] = final_act;
  }
  json["dropout"] = dropout;
  json["tie_dropout"] = tie_dropout;
  json["prenorm"] = prenorm;
  json["norm"] = norm;
  json["pooling"] = pooling;
  return json.dump(2) + "\n";
}

}  // namespace adder

// adder eval: loss, perplexity and the data set's metrics.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <map>

#include "engine/io/file.h"
#include "engine/io/safetensors.h"
#include "tools/commands/commands.h"
#include "tools/commands/common.h"
#include "tools/console.h"
#include "tools/data/batching.h"
#include "tools/eval/evaluate_sequences.h"
#include "tools/exit_codes.h"

namespace adder::tools {
namespace {

constexpr std::int64_t kLargestDump = std::int64_t{4} << 30;

struct Options {
  ModelOptions model;
  std::string data;
  std::string split = "val";
  std::string dump_logits;
  std::string predictions;
  std::vector<std::string> data_options;
  std::int64_t batch_size = 8;
  std::int64_t max_length = 0;
  std::int64_t max_examples = 0;
  std::uint64_t seed = 42;
  GenerationOptions generation;
  bool no_generation = false;
  bool json = false;
};

std::map<std::string, std::string> parse_overrides(const std::vector<std::string>& pairs) {
  std::map<std::string, std::string> overrides;
  for (const std::string& pair : pairs) {
    const std::size_t equals = pair.find('=');
    if (equals == std::string::npos) {
      throw ConfigError(str("--data-option ", pair, ": KEY=VALUE is needed"));
    }
    overrides[pair.substr(0, equals)] = pair.substr(equals + 1);
  }
  const char* root = std::getenv("ADDER_DATA");
  if (root != nullptr && *root != '\0') overrides.try_emplace("data_root", root);
  return overrides;
}

// "logits" (N, L, V) with "input_ids", "labels" (N, L) and "lengths" (N); L is the longest
// example's length, and positions beyond an example's own are zero (label -100).
void dump_logits(const LanguageModel& model, const Dataset& data, const std::string& path) {
  std::vector<std::int64_t> lengths = example_lengths(data);
  const auto count = static_cast<std::int64_t>(lengths.size());
  const std::int64_t longest = *std::max_element(lengths.begin(), lengths.end());
  const std::int64_t vocabulary = model.vocab_size();
  if (longest > kLargestDump / 4 / vocabulary / count) {
    throw ConfigError(str("--dump-logits: ", count, " examples of up to ", longest, " tokens over ",
                          vocabulary, " ids make more than ", byte_size(kLargestDump),
                          "; evaluate fewer with --max-examples"));
  }
  const Tensor logits = Tensor::zeros({count, longest, vocabulary});
  const Tensor ids = Tensor::zeros({count, longest}, Dtype::i32);
  const Tensor labels = Tensor::full({count, longest}, kIgnoredLabel, Dtype::i32);
  for (std::int64_t i = 0; i < count; ++i) {
    const Example& example = data.examples[static_cast<std::size_t>(i)];
    const std::int64_t length = lengths[static_cast<std::size_t>(i)];
    const Tensor row = Tensor::from({1, length}, example.input_ids);
    logits.select(0, i).slice(0, 0, length).copy_from(model.logits(row).select(0, 0));
    ids.select(0, i).slice(0, 0, length).copy_from(row.select(0, 0));
    labels.select(0, i).slice(0, 0, length).copy_from(Tensor::from({length}, example.labels));
  }
  write_safetensors(path, {{"logits", logits},
                           {"input_ids", ids},
                           {"labels", labels},
                           {"lengths", Tensor::from({count}, lengths)}});
}

void print_result(const Options& options, const std::string& name, const EvalResult& result,
                  const char* counted) {
  if (options.json) {
    OrderedJson json;
    json["model"] = options.model.model;
    if (!options.model.adapter.empty()) json["adapter"] = options.model.adapter;
    json["data"] = options.data;
    json["split"] = options.split;
    json["examples"] = result.examples;
    json["supervised_tokens"] = result.supervised_tokens;
    for (const auto& [metric, value] : result.metrics) json[metric] = value;
    print_json(json);
  } else {
    std::vector<std::pair<std::string, std::string>> rows = {
        {"data", name},
        {"examples", grouped(result.examples)},
        {counted, grouped(result.supervised_tokens)}};
    for (const auto& [metric, value] : result.metrics) {
      rows.emplace_back(metric, number_text(value));
    }
    print_pairs(rows);
  }
}

int run_on_sequences(const Options& options, const LoadedModel& loaded) {
  if (!options.predictions.empty()) {
    throw ConfigError("--predictions is for language models; see --dump-logits");
  }
  if (options.max_length > 0) {
    throw ConfigError("--max-length is for language models: these sequences have one length");
  }
  SequenceOptions wanted;
  wanted.split = options.split;
  wanted.max_examples = options.max_examples;
  wanted.seed = options.seed;
  SequenceModel& model = *loaded.any.sequence;
  const auto data =
      open_sequence_data(options.data, model, parse_overrides(options.data_options))->split(wanted);
  check_fits(*data, model);
  model.reserve_length(data->length());
  const InterruptScope interrupt;
  Status status;
  SequenceEvalOptions eval;
  eval.batch_size = options.batch_size;
  if (options.max_examples > 0) eval.fresh_examples = options.max_examples;
  eval.interrupted = &interrupt.flag();
  eval.progress = [&](std::int64_t done, std::int64_t total) {
    status.update(str("evaluating ", done, " of ", total));
  };
  const EvalResult result = evaluate_sequences(model, *data, eval);
  if (!result.interrupted && !options.dump_logits.empty()) {
    dump_sequence_logits(model, *data, eval, options.dump_logits);
  }
  status.clear();
  if (interrupt.flag()) return kExitInterrupted;
  print_result(options, data->name(), result, data->classes() ? "answers" : "values");
  return kExitOk;
}

void write_predictions(const std::string& path, const std::vector<Prediction>& predictions) {
  AtomicFile file(path);
  for (const Prediction& prediction : predictions) {
    OrderedJson json;
    json["input"] = prediction.input;
    json["prediction"] = prediction.prediction;
    json["references"] = prediction.references;
    file.write(dump_json(json, -1) + "\n");
  }
  file.commit();
}

int run(const Options& options) {
  const LoadedModel loaded = load_model(options.model);
  if (loaded.any.sequence != nullptr) return run_on_sequences(options, loaded);
  refuse_sequence_data(options.data, options.model.model);
  Mamba& model = *loaded.any.mamba;
  const Tokenizer* tokenizer = loaded.tokenizer_or_null();
  DataOptions data_options;
  data_options.split = options.split;
  data_options.max_length = options.max_length;
  data_options.max_examples = options.max_examples;
  data_options.overrides = parse_overrides(options.data_options);
  data_options.seed = options.seed;
  data_options.vocab_size = model.vocab_size();
  const Dataset data = load_dataset(options.data, tokenizer, data_options);

  const InterruptScope interrupt;
  Status status;
  EvalOptions eval;
  eval.batch_size = options.batch_size;
  eval.keep_predictions = !options.predictions.empty();
  eval.interrupted = &interrupt.flag();
  eval.progress = [&](std::int64_t done, std::int64_t total) {
    status.update(str("evaluating ", done, " of ", total));
  };
  EvalResult result = evaluate(model, data, tokenizer, eval);
  if (!result.interrupted && data.kind == TaskKind::generation && !options.no_generation &&
      tokenizer != nullptr) {
    // Here an input is one item with all its references, not one item per text.
    data_options.generation = true;
    const Dataset prompts = load_dataset(options.data, tokenizer, data_options);
    eval.loss = false;
    eval.generation = options.generation;
    eval.progress = [&](std::int64_t done, std::int64_t total) {
      status.update(str("decoding ", done, " of ", total));
    };
    EvalResult generated = evaluate(model, prompts, tokenizer, eval);
    result.metrics.insert(result.metrics.end(), generated.metrics.begin(), generated.metrics.end());
    result.predictions = std::move(generated.predictions);
    result.interrupted = generated.interrupted;
  }
  status.clear();
  if (result.interrupted) return kExitInterrupted;
  if (!options.dump_logits.empty()) dump_logits(model, data, options.dump_logits);
  if (!options.predictions.empty()) write_predictions(options.predictions, result.predictions);
  print_result(options, data.name, result, "supervised tokens");
  return kExitOk;
}

}  // namespace

Command add_eval(CLI::App& parent) {
  auto options = std::make_shared<Options>();
  CLI::App* app = parent.add_subcommand("eval", "Loss, perplexity and metrics on a data set");
  add_model_options(*app, options->model);
  app->add_option("--data", options->data, "FILE.jsonl, FILE.txt, TASK:FOLDER or synthetic-s4")
      ->required();
  app->add_option("--split", options->split, "of a TASK: train, val or test")
      ->capture_default_str();
  app->add_option("--batch-size", options->batch_size, "sequences in a batch")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{65536}))
      ->capture_default_str();
  app->add_option("--max-length", options->max_length, "longest sequence; 0: no limit (text: 256)")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app->add_option("--max-examples", options->max_examples,
                  "a fixed subset; 0: all (synthetic-s4: 1024)")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app->add_option("--data-option", options->data_options, "KEY=VALUE, e.g. instruction=…");
  GenerationOptions& g = options->generation;
  g.max_new_tokens = 128;
  app->add_option("--num-beams", g.num_beams, "when decoding; 1: greedy")->capture_default_str();
  app->add_option("--max-new-tokens", g.max_new_tokens, "when decoding")->capture_default_str();
  app->add_option("--min-new-tokens", g.min_new_tokens, "when decoding")->capture_default_str();
  app->add_flag("--no-generation", options->no_generation, "only the loss of generation tasks");
  app->add_option("--seed", options->seed, "of --max-examples")->capture_default_str();
  app->add_option("--dump-logits", options->dump_logits,
                  "write logits, and what is right, to this .safetensors file");
  app->add_option("--predictions", options->predictions,
                  "write input, prediction and references to this .jsonl file");
  app->add_flag("--json", options->json, "print one JSON object");
  app->footer("Example:\n  adder eval --model model --adapter run/adapter --data sst2:glue_sst2");
  return {app, [options] { return run(*options); }};
}

}  // namespace adder::tools

// Generation with a language model in its recurrent form: greedy, sampled and beam search.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "models/language_model.h"

namespace adder {

struct GenerationOptions {
  std::int64_t max_new_tokens = 64;
  std::int64_t min_new_tokens = 0;  // the end mark cannot come before this many new tokens
  std::int64_t num_beams = 1;       // above 1: beam search, which ignores the sampling options
  double length_penalty = 1;        // beam scores are divided by (new tokens)^length_penalty
  double temperature = 0;           // 0: greedy
  std::int64_t top_k = 0;           // sample among the k likeliest; 0: all
  double top_p = 1;  // … and of these among the fewest whose probabilities reach this sum
  std::uint64_t seed = 42;
  std::int32_t end_id = -1;     // the end mark; negative: none
  std::int64_t vocab_size = 0;  // ids from here on (a table's padding) are never generated; 0: none
};

struct Generation {
  std::vector<std::int32_t> ids;  // the new tokens, without the end mark
  bool ended = false;             // stopped at the end mark
  double score = 0;               // beam search: the hypothesis's normalised score
};

// Called with each new token (not the end mark); generation stops when it returns false.
using TokenCallback = std::function<bool(std::int32_t)>;

// Continues `prompt`. The callback streams tokens, or for beam search, whose tokens are known only
// at the end, is called once per step with -1. Throws ConfigError for an empty prompt, ids outside
// the vocabulary and impossible options, and NumericError when the model's logits are not finite.
Generation generate(const LanguageModel& model, const std::vector<std::int32_t>& prompt,
                    const GenerationOptions& options, const TokenCallback& on_token = {});

// Continues many prompts, up to `batch_size` at a time: those of like length go together, the
// shorter ones generating while the longer ones are still being read, so nothing is padded. Prompt
// i samples from stream i of the seed. Beam search takes one prompt at a time. `on_done`, when
// given, is called after each batch with the number of finished prompts; false stops (the rest come
// back empty).
std::vector<Generation> generate_many(const LanguageModel& model,
                                      const std::vector<std::vector<std::int32_t>>& prompts,
                                      const GenerationOptions& options,
                                      std::int64_t batch_size = 16,
                                      const std::function<bool(std::int64_t)>& on_done = {});

// All hypotheses that beam search ends with, best first. At each step the 2 * num_beams likeliest
// continuations are looked at; one that ends is kept if it ranks among the first num_beams, scored
// by (sum of log probabilities) / (new tokens, end mark counted)^length_penalty, and the first
// num_beams others go on. Stops when num_beams hypotheses are kept and no running one could beat
// the worst of them at its present length (the rule of Hugging Face's scorer without early
// stopping).
std::vector<Generation> beam_search(const LanguageModel& model,
                                    const std::vector<std::int32_t>& prompt,
                                    const GenerationOptions& options,
                                    const TokenCallback& on_step = {});

// The id that `logits` (vocabulary) yield under the options; `new_tokens` have been generated so
// far. Exposed for tests.
std::int32_t choose_token(std::vector<double>& logits, std::int64_t new_tokens,
                          const GenerationOptions& options, class Random& random);

}  // namespace adder

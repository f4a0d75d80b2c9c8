#include "models/generate.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "engine/random.h"

namespace adder {
namespace {

constexpr double kImpossible = -std::numeric_limits<double>::infinity();

void check_options(const LanguageModel& model, const GenerationOptions& o) {
  const auto require = [](bool ok, const auto&... message) {
    if (!ok) throw ConfigError(str("generate: ", message...));
  };
  require(o.max_new_tokens >= 1, "max_new_tokens is ", o.max_new_tokens, ", must be at least 1");
  require(o.min_new_tokens >= 0, "min_new_tokens is ", o.min_new_tokens, ", must not be negative");
  require(o.min_new_tokens <= o.max_new_tokens, "min_new_tokens ", o.min_new_tokens,
          " is more than max_new_tokens ", o.max_new_tokens);
  require(o.num_beams >= 1, "num_beams is ", o.num_beams, ", must be at least 1");
  require(o.temperature >= 0 && std::isfinite(o.temperature), "temperature is ", o.temperature,
          ", must be 0 (greedy) or positive");
  require(o.top_k >= 0, "top_k is ", o.top_k, ", must be 0 (no limit) or positive");
  require(o.top_p > 0 && o.top_p <= 1, "top_p is ", o.top_p, ", must be above 0 and at most 1");
  require(std::isfinite(o.length_penalty), "length_penalty must be finite");
  require(o.end_id < model.vocab_size(), "the end mark ", o.end_id, " is outside the model's ",
          model.vocab_size(), " ids");
}

void check_prompt(const LanguageModel& model, const std::vector<std::int32_t>& prompt) {
  if (prompt.empty()) throw ConfigError("generate: the prompt is empty");
  for (const std::int32_t id : prompt) {
    if (id < 0 || id >= model.vocab_size()) {
      throw ConfigError(
          str("generate: prompt id ", id, " is outside the model's ", model.vocab_size(), " ids"));
    }
  }
}

// Row `row` of logits (B, V) as far as ids may be generated.
std::vector<double> logits_row(const Tensor& logits, std::int64_t row,
                               const GenerationOptions& options) {
  const std::int64_t vocabulary = logits.dim(1);
  const std::int64_t count =
      options.vocab_size > 0 ? std::min(options.vocab_size, vocabulary) : vocabulary;
  const Tensor values = logits.select(0, row).to(Device{}).to(Dtype::f32);
  const float* data = values.data<float>();
  std::vector<double> out(data, data + count);
  for (const double value : out) {
    if (!std::isfinite(value)) throw NumericError("generate: the model's logits are not finite");
  }
  return out;
}

void log_softmax(std::vector<double>& x) {
  const double largest = *std::max_element(x.begin(), x.end());
  double sum = 0;
  for (const double value : x) sum += std::exp(value - largest);
  const double shift = largest + std::log(sum);
  for (double& value : x) value -= shift;
}

std::int32_t argmax(const std::vector<double>& x) {
  return static_cast<std::int32_t>(std::max_element(x.begin(), x.end()) - x.begin());
}

bool end_is_barred(std::int64_t new_tokens, const GenerationOptions& o) {
  return o.end_id >= 0 && new_tokens < o.min_new_tokens;
}

Tensor ids_tensor(Shape shape, const std::vector<std::int32_t>& ids) {
  return Tensor::from(shape, ids);
}

// One sequence of a batch that is being decoded.
struct Row {
  std::size_t index;  // of the prompt
  const std::vector<std::int32_t>* prompt;
  std::size_t read;  // prompt tokens that the state has seen
  Random random;
  Generation out;
};

// Decodes prompts together; each starts to generate once its own prompt is read.
void decode_batch(const LanguageModel& model, std::vector<Row>& rows,
                  const GenerationOptions& options, const TokenCallback& on_token,
                  std::vector<Generation>& results) {
  std::size_t common = rows.front().prompt->size();
  for (const Row& row : rows) common = std::min(common, row.prompt->size());
  std::vector<std::int32_t> ids;
  for (Row& row : rows) {
    ids.insert(ids.end(), row.prompt->begin(),
               row.prompt->begin() + static_cast<std::ptrdiff_t>(common));
    row.read = common;
  }
  const auto state = model.new_state(static_cast<std::int64_t>(rows.size()));
  Tensor logits = model.prefill(
      ids_tensor({static_cast<std::int64_t>(rows.size()), static_cast<std::int64_t>(common)}, ids),
      *state);
  while (true) {
    std::vector<std::int64_t> going;
    ids.clear();
    for (std::size_t r = 0; r < rows.size(); ++r) {
      Row& row = rows[r];
      std::int32_t next = 0;
      if (row.read < row.prompt->size()) {
        next = (*row.prompt)[row.read++];
      } else {
        std::vector<double> scores = logits_row(logits, static_cast<std::int64_t>(r), options);
        const auto produced = static_cast<std::int64_t>(row.out.ids.size());
        next = choose_token(scores, produced, options, row.random);
        row.out.ended = next == options.end_id;
        if (!row.out.ended) row.out.ids.push_back(next);
        const bool stop = !row.out.ended && on_token && !on_token(next);
        if (row.out.ended || stop || produced + 1 == options.max_new_tokens) continue;
      }
      going.push_back(static_cast<std::int64_t>(r));
      ids.push_back(next);
    }
    if (going.size() < rows.size()) {
      std::vector<Row> kept;
      std::size_t next_kept = 0;
      for (std::size_t r = 0; r < rows.size(); ++r) {
        if (next_kept < going.size() && going[next_kept] == static_cast<std::int64_t>(r)) {
          kept.push_back(std::move(rows[r]));
          ++next_kept;
        } else {
          results[rows[r].index] = std::move(rows[r].out);
        }
      }
      rows = std::move(kept);
      if (rows.empty()) return;
      state->reorder(going);
    }
    logits = model.step(ids_tensor({static_cast<std::int64_t>(ids.size())}, ids), *state);
  }
}

}  // namespace

std::int32_t choose_token(std::vector<double>& logits, std::int64_t new_tokens,
                          const GenerationOptions& options, Random& random) {
  if (end_is_barred(new_tokens, options) &&
      static_cast<std::size_t>(options.end_id) < logits.size()) {
    logits[static_cast<std::size_t>(options.end_id)] = kImpossible;
  }
  if (options.temperature == 0) return argmax(logits);
  // Candidates, likeliest first (ties by id, so that a seed means one text everywhere).
  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto likelier = [&](std::int32_t a, std::int32_t b) {
    const double x = logits[static_cast<std::size_t>(a)];
    const double y = logits[static_cast<std::size_t>(b)];
    return x != y ? x > y : a < b;
  };
  std::size_t count = order.size();
  if (options.top_k > 0) count = std::min(count, static_cast<std::size_t>(options.top_k));
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count), order.end(),
                    likelier);
  std::vector<double> weight(count);
  const double largest = logits[static_cast<std::size_t>(order.front())];
  double total = 0;
  for (std::size_t i = 0; i < count; ++i) {
    weight[i] =
        std::exp((logits[static_cast<std::size_t>(order[i])] - largest) / options.temperature);
    total += weight[i];
  }
  if (options.top_p < 1) {
    double sum = 0;
    std::size_t kept = 0;
    while (kept < count && sum < options.top_p * total) sum += weight[kept++];
    count = kept;
    total = sum;
  }
  double mark = random.uniform() * total;
  for (std::size_t i = 0; i + 1 < count; ++i) {
    mark -= weight[i];
    if (mark < 0) return order[i];
  }
  return order[count - 1];
}

std::vector<Generation> generate_many(const LanguageModel& model,
                                      const std::vector<std::vector<std::int32_t>>& prompts,
                                      const GenerationOptions& options, std::int64_t batch_size,
                                      const std::function<bool(std::int64_t)>& on_done) {
  check_options(model, options);
  for (const auto& prompt : prompts) check_prompt(model, prompt);
  std::vector<std::size_t> order(prompts.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return prompts[a].size() < prompts[b].size();
  });
  std::vector<Generation> results(prompts.size());
  const std::size_t step =
      options.num_beams > 1 ? 1 : static_cast<std::size_t>(std::max<std::int64_t>(batch_size, 1));
  for (std::size_t begin = 0; begin < order.size(); begin += step) {
    const std::size_t end = std::min(begin + step, order.size());
    if (options.num_beams > 1) {
      results[order[begin]] = generate(model, prompts[order[begin]], options);
    } else {
      std::vector<Row> rows;
      for (std::size_t i = begin; i < end; ++i) {
        rows.push_back({order[i], &prompts[order[i]], 0, Random(options.seed, order[i]), {}});
      }
      decode_batch(model, rows, options, {}, results);
    }
    if (on_done && !on_done(static_cast<std::int64_t>(end))) break;
  }
  return results;
}

Generation generate(const LanguageModel& model, const std::vector<std::int32_t>& prompt,
                    const GenerationOptions& options, const TokenCallback& on_token) {
  check_options(model, options);
  check_prompt(model, prompt);
  if (options.num_beams > 1) return beam_search(model, prompt, options, on_token).front();
  std::vector<Generation> results(1);
  std::vector<Row> rows;
  rows.push_back({0, &prompt, 0, Random(options.seed, 0), {}});
  decode_batch(model, rows, options, on_token, results);
  return std::move(results.front());
}

std::vector<Generation> beam_search(const LanguageModel& model,
                                    const std::vector<std::int32_t>& prompt,
                                    const GenerationOptions& options,
                                    const TokenCallback& on_step) {
  check_options(model, options);
  check_prompt(model, prompt);
  struct Candidate {
    double total;
    std::size_t beam;
    std::int32_t id;
  };
  struct Beam {
    double total = 0;
    std::vector<std::int32_t> ids;
  };
  const auto beams = static_cast<std::size_t>(options.num_beams);
  std::vector<Beam> live(1);
  std::vector<Generation> kept;
  const auto normalised = [&](double total, std::size_t tokens) {
    return total / std::pow(static_cast<double>(tokens), options.length_penalty);
  };
  const auto keep = [&](double total, std::size_t tokens, std::vector<std::int32_t> ids,
                        bool ended) {
    const double score = normalised(total, tokens);
    const auto place = std::find_if(kept.begin(), kept.end(),
                                    [&](const Generation& other) { return other.score < score; });
    kept.insert(place, {std::move(ids), ended, score});
    if (kept.size() > beams) kept.pop_back();
  };

  const auto state = model.new_state(1);
  Tensor logits =
      model.prefill(ids_tensor({1, static_cast<std::int64_t>(prompt.size())}, prompt), *state);
  for (std::int64_t produced = 0; produced < options.max_new_tokens; ++produced) {
    std::vector<Candidate> candidates;
    for (std::size_t b = 0; b < live.size(); ++b) {
      std::vector<double> scores = logits_row(logits, static_cast<std::int64_t>(b), options);
      log_softmax(scores);
      for (std::size_t id = 0; id < scores.size(); ++id) {
        const bool end = static_cast<std::int64_t>(id) == options.end_id;
        if (end && end_is_barred(produced, options)) continue;
        candidates.push_back({live[b].total + scores[id], b, static_cast<std::int32_t>(id)});
      }
    }
    const std::size_t count = std::min(2 * beams, candidates.size());
    std::partial_sort(candidates.begin(), candidates.begin() + static_cast<std::ptrdiff_t>(count),
                      candidates.end(), [](const Candidate& a, const Candidate& b) {
                        if (a.total != b.total) return a.total > b.total;
                        return a.beam != b.beam ? a.beam < b.beam : a.id < b.id;
                      });
    candidates.resize(count);
    std::vector<Beam> next;
    std::vector<std::int64_t> from;
    const auto tokens = static_cast<std::size_t>(produced) + 1;
    for (std::size_t rank = 0; rank < count; ++rank) {
      const Candidate& c = candidates[rank];
      if (c.id == options.end_id) {
        if (rank < beams) keep(c.total, tokens, live[c.beam].ids, true);
      } else if (next.size() < beams) {
        next.push_back({c.total, live[c.beam].ids});
        next.back().ids.push_back(c.id);
        from.push_back(static_cast<std::int64_t>(c.beam));
      }
    }
    live = std::move(next);
    const bool settled = kept.size() == beams && !candidates.empty() &&
                         kept.back().score >= normalised(candidates.front().total, tokens);
    if (settled) return kept;
    if (live.empty() || (on_step && !on_step(-1))) break;
    if (produced + 1 < options.max_new_tokens) {
      std::vector<std::int32_t> ids;
      for (const Beam& beam : live) ids.push_back(beam.ids.back());
      state->reorder(from);
      logits = model.step(ids_tensor({static_cast<std::int64_t>(ids.size())}, ids), *state);
    }
  }
  for (Beam& beam : live) {
    const std::size_t tokens = beam.ids.size();
    keep(beam.total, tokens, std::move(beam.ids), false);
  }
  if (kept.empty()) kept.emplace_back();
  return kept;
}

}  // namespace adder

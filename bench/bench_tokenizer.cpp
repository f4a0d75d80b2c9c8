// Encoding and decoding rates. ADDER_BENCH_TOKENIZER names a tokenizer.json (default: the built-in
// byte-level tokenizer), ADDER_BENCH_TEXT a text file (default: generated words).
#include <benchmark/benchmark.h>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "engine/text/tokenizer.h"

namespace {

std::string generated_text() {
  std::mt19937 random(1);
  std::vector<std::string> words(5000);
  for (std::string& word : words) {
    const size_t length = 1 + random() % 9;
    while (word.size() < length) word += static_cast<char>('a' + random() % 26);
  }
  std::string text;
  while (text.size() < (size_t{1} << 20)) {
    const size_t rank = random() % (1 + random() % words.size());  // few words are frequent
    text += words[rank] + (random() % 12 == 0 ? ".\n" : " ");
  }
  return text;
}

const std::string& bench_text() {
  static const std::string text = [] {
    const char* path = std::getenv("ADDER_BENCH_TEXT");
    if (path == nullptr) return generated_text();
    std::ifstream in(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(in), {});
  }();
  return text;
}

const adder::Tokenizer& bench_tokenizer() {
  static const adder::Tokenizer tokenizer = [] {
    const char* path = std::getenv("ADDER_BENCH_TOKENIZER");
    return path == nullptr ? adder::Tokenizer::byte_level() : adder::Tokenizer::from_file(path);
  }();
  return tokenizer;
}

void report(benchmark::State& state, size_t tokens) {
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * bench_text().size()));
  state.counters["tokens/s"] = benchmark::Counter(static_cast<double>(state.iterations() * tokens),
                                                  benchmark::Counter::kIsRate);
}

// Rates are per byte of text in both directions.
void bench_encode(benchmark::State& state) {
  size_t tokens = 0;
  for (auto step : state) {
    const auto ids = bench_tokenizer().encode(bench_text());
    tokens = ids.size();
    benchmark::DoNotOptimize(ids.data());
  }
  report(state, tokens);
}

void bench_decode(benchmark::State& state) {
  const auto ids = bench_tokenizer().encode(bench_text());
  for (auto step : state) {
    const std::string text = bench_tokenizer().decode(ids);
    benchmark::DoNotOptimize(text.data());
  }
  report(state, ids.size());
}

void bench_load(benchmark::State& state) {
  for (auto step : state) {
    const auto tokenizer = adder::Tokenizer::from_json(bench_tokenizer().json(), "bench");
    benchmark::DoNotOptimize(tokenizer.vocab_size());
  }
}

BENCHMARK(bench_encode)->Unit(benchmark::kMillisecond);
BENCHMARK(bench_decode)->Unit(benchmark::kMillisecond);
BENCHMARK(bench_load)->Unit(benchmark::kMillisecond);

}  // namespace

BENCHMARK_MAIN();

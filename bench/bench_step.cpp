// A training step of mamba-130m's shape, its parts, its floor, and decoding.
//
//   bench_step step [REPEATS]   LoRA r 8 on out_proj + SDT, batch 4, L 256, against its products
//   bench_step sdt [REPEATS]    what SDT adds to LoRA, in alternating steps
//   bench_step length           time and memory of a step for L = 512 … 16384 (6 layers)
//   bench_step decode [ROUNDS]  one sequence, float32 and bf16 weights, against reading them once
//
// Each prints one JSON line per figure. bench/compare.py runs them beside PyTorch.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <string>
#include <sys/resource.h>
#include <vector>

#include "bench/step.h"
#include "engine/cpu/parallel.h"
#include "engine/kernels/matmul.h"

using namespace adder;
using namespace adder::bench;

namespace {

std::int64_t peak_resident_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss * 1024;
}

std::unique_ptr<Mamba> model_130m(std::int64_t layers) {
  return Mamba::init(shape_130m(layers), 1);
}

// The matrix products of a step as (rows, out, in) forward products and their gradients, alone: the
// weights are distinct per layer, so they come from memory as they do in a step.
double products_alone(std::int64_t layers, std::int64_t tokens, int repeats) {
  struct Weight {
    Tensor w;
    std::int64_t count;
  };
  const std::int64_t d = 768;
  const std::int64_t e = 1536;
  std::vector<Tensor> weights;
  const std::pair<std::int64_t, std::int64_t> maps[] = {{2 * e, d}, {80, e}, {e, 48}, {d, e}};
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    for (const auto& [out, in] : maps) weights.push_back(Tensor::full({out, in}, 0.01));
  }
  const Tensor head = Tensor::full({50280, d}, 0.01);
  const Tensor activations = Tensor::full({tokens, 2 * e}, 0.01);
  const Tensor result = Tensor::zeros({tokens, 2 * e});
  const auto columns = [](const Tensor& t, std::int64_t n) {
    return t.flatten_rows().reshape({-1}).slice(0, 0, t.dim(0) * n).reshape({t.dim(0), n});
  };
  const auto forward = [&](const Tensor& w) {
    kernel::matmul({}, {.a = columns(activations, w.dim(1)),
                        .b = w,
                        .c = columns(result, w.dim(0)),
                        .trans_b = true});
  };
  const auto backward = [&](const Tensor& w) {
    kernel::matmul({},
                   {.a = columns(activations, w.dim(0)), .b = w, .c = columns(result, w.dim(1))});
  };
  const Tensor logits = Tensor::zeros({256, 50280});
  const Tensor small = Tensor::full({8, e}, 0.01);
  const auto run = [&] {
    for (const Tensor& w : weights) forward(w);
    for (std::int64_t row = 0; row < tokens; row += 256) {
      const Tensor rows = columns(activations, d).slice(0, row, row + 256);
      kernel::matmul({}, {.a = rows, .b = head, .c = logits, .trans_b = true});
      kernel::matmul({},
                     {.a = logits, .b = head, .c = columns(result, d).slice(0, row, row + 256)});
    }
    // The input of the lowest layer needs no gradient.
    for (std::size_t i = weights.size(); i-- > 1;) backward(weights[i]);
    for (std::int64_t layer = 0; layer < layers; ++layer) {  // LoRA r 8 on out_proj: six products
      const Tensor x = columns(activations, e);
      const Tensor y = columns(activations, d);
      const Tensor reduced = columns(result, 8);
      const Tensor b = columns(activations, 8).slice(0, 0, d);
      kernel::matmul({}, {.a = x, .b = small, .c = reduced, .trans_b = true});
      kernel::matmul(
          {}, {.a = columns(activations, 8), .b = b, .c = columns(result, d), .trans_b = true});
      kernel::matmul(
          {}, {.a = y, .b = columns(activations, 8), .c = Tensor::empty({d, 8}), .trans_a = true});
      kernel::matmul({}, {.a = y, .b = b, .c = reduced});
      kernel::matmul(
          {}, {.a = columns(activations, 8), .b = x, .c = Tensor::empty({8, e}), .trans_a = true});
      kernel::matmul({}, {.a = columns(activations, 8), .b = small, .c = columns(result, e)});
    }
  };
  run();
  std::vector<double> times;
  for (int i = 0; i < repeats; ++i) times.push_back(seconds_of(run));
  return median(times);
}

void bench_step(int repeats) {
  const Tensor ids = random_ids(4, 256, 1);
  const Tensor labels = random_ids(4, 256, 2);
  std::vector<double> times;
  std::int64_t peak = 0;
  {
    Trainee trainee(model_130m(24), kSdt);
    trainee.step(ids, labels);
    reset_peak_memory({});
    for (int i = 0; i < repeats; ++i)
      times.push_back(seconds_of([&] { trainee.step(ids, labels); }));
    peak = memory_stats({}).peak_bytes;
  }
  const std::int64_t resident = peak_resident_bytes();
  const double step = median(times);
  const double products = products_alone(24, 1024, 3);
  std::printf(
      "{\"bench\": \"step\", \"seconds\": %.4f, \"fastest\": %.4f, \"tokens_per_s\": %.1f, "
      "\"peak_tensor_bytes\": %lld, \"peak_resident_bytes\": %lld, \"products_alone_seconds\": "
      "%.4f, "
      "\"ratio_to_products\": %.3f}\n",
      step, *std::min_element(times.begin(), times.end()), 1024 / step,
      static_cast<long long>(peak), static_cast<long long>(resident), products, step / products);
}

void bench_sdt(int repeats) {
  const Tensor ids = random_ids(4, 256, 1);
  const Tensor labels = random_ids(4, 256, 2);
  Trainee lora(model_130m(24), kLora);
  Trainee sdt(model_130m(24), kSdt);
  const std::vector<double> ratios = step_ratios(
      repeats, [&] { lora.step(ids, labels); }, [&] { sdt.step(ids, labels); }, seconds_of);
  std::printf(
      "{\"bench\": \"sdt_over_lora\", \"median_ratio\": %.4f, \"least\": %.4f, \"most\": %.4f}\n",
      median(ratios), *std::min_element(ratios.begin(), ratios.end()),
      *std::max_element(ratios.begin(), ratios.end()));
}

void bench_length() {
  Trainee trainee(model_130m(6), kSdt);
  for (std::int64_t length = 512; length <= 16384; length *= 2) {
    const Tensor ids = random_ids(1, length, 1);
    const Tensor labels = random_ids(1, length, 2);
    reset_peak_memory({});
    std::vector<double> times;
    for (int i = 0; i < 3; ++i) times.push_back(seconds_of([&] { trainee.step(ids, labels); }));
    std::printf(
        "{\"bench\": \"length\", \"L\": %lld, \"seconds\": %.4f, \"peak_tensor_bytes\": %lld}\n",
        static_cast<long long>(length), median(times),
        static_cast<long long>(memory_stats({}).peak_bytes));
    std::fflush(stdout);
  }
}

// Seconds to read all parameters once, on all threads: nothing but loads and additions, each thread
// its half of every tensor.
double read_once(const Mamba& model) {
  static std::atomic<std::uint64_t> sink = 0;
  return seconds_of([&] {
    cpu::parallel_for(cpu::num_threads(), 1, [&](std::int64_t begin, std::int64_t end) {
      typedef std::uint64_t V __attribute__((vector_size(64)));
      V sums[4] = {};
      for (const ParameterPtr& parameter : model.parameters()) {
        const Tensor& value = parameter->value();
        const auto bytes = static_cast<std::int64_t>(value.nbytes());
        const char* data = static_cast<const char*>(value.raw());
        const std::int64_t last = bytes * end / cpu::num_threads();
        for (std::int64_t j = bytes * begin / cpu::num_threads() / 64 * 64; j + 256 <= last;
             j += 256) {
          for (int k = 0; k < 4; ++k) {
            V v;
            std::memcpy(&v, data + j + 64 * k, sizeof v);
            sums[k] += v;
          }
        }
      }
      std::uint64_t total = 0;
      for (const V& v : sums) total += v[0] + v[5];
      sink += total;
    });
  });
}

// The machine's bandwidth drifts with its other guests and depends on where pages lie, so the same
// weights are read and decoded with in turns.
void bench_decode(int rounds) {
  const auto source = Mamba::init(shape_130m(24), 1);
  struct Decoder {
    std::unique_ptr<Mamba> model;
    std::unique_ptr<DecodingState> state;
    double bytes = 0;
    std::vector<double> step, read, shares;
  };
  std::vector<Decoder> decoders;
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
    Decoder d;
    d.model = std::make_unique<Mamba>(source->config(), dtype);
    for (std::size_t i = 0; i < d.model->parameters().size(); ++i) {
      d.model->parameters()[i]->value().copy_from(source->parameters()[i]->value());
      d.bytes += static_cast<double>(d.model->parameters()[i]->value().nbytes());
    }
    d.state = d.model->new_state(1);
    d.model->prefill(random_ids(1, 8, 3), *d.state);
    decoders.push_back(std::move(d));
  }
  constexpr int kTokens = 4;
  const Tensor token = random_ids(1, 1, 4).reshape({1});
  std::vector<double> ratios;
  for (int round = 0; round < rounds; ++round) {
    for (Decoder& d : decoders) {
      double read = 0;
      for (int i = 0; i < kTokens / 2; ++i) read += read_once(*d.model);
      const double step = seconds_of([&] {
        for (int i = 0; i < kTokens; ++i) d.model->step(token, *d.state);
      });
      for (int i = 0; i < kTokens / 2; ++i) read += read_once(*d.model);
      d.step.push_back(step / kTokens);
      d.read.push_back(read / kTokens);
      d.shares.push_back(read / step);
    }
    ratios.push_back(decoders[0].step.back() / decoders[1].step.back());
  }
  for (const Decoder& d : decoders) {
    std::printf(
        "{\"bench\": \"decode\", \"weights\": \"%s\", \"tokens_per_s\": %.2f, "
        "\"read_GB_per_s\": %.2f, \"limit_tokens_per_s\": %.2f, \"share_of_limit\": %.3f}\n",
        dtype_name(d.model->parameters()[0]->value().dtype()), 1 / median(d.step),
        d.bytes / median(d.read) / 1e9, 1 / median(d.read), median(d.shares));
  }
  std::printf("{\"bench\": \"decode_bf16_over_f32\", \"ratio\": %.3f}\n", median(ratios));
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  const int repeats = argc > 2 ? std::atoi(argv[2]) : 5;
  if (what == "step") {
    bench_step(repeats);
  } else if (what == "sdt") {
    bench_sdt(repeats);
  } else if (what == "length") {
    bench_length();
  } else if (what == "decode") {
    bench_decode(repeats);
  } else {
    std::fprintf(stderr, "usage: bench_step step|sdt|length|decode [repeats]\n");
    return 2;
  }
  return 0;
}

#include <memory>

#include "autograd/ops.h"
#include "bench/cuda/rows.h"
#include "engine/kernels/matmul.h"

namespace adder::bench {
namespace {

constexpr const char* kNoBranch = "none";

struct Map {
  const char* name;
  std::int64_t out, in;
};

void product_at(Harness& harness, const Map& map, std::int64_t rows, Dtype dtype, bool backward) {
  const Device device = harness.device();
  const auto size = static_cast<double>(dtype_size(dtype));
  const std::int64_t in = backward ? map.out : map.in;
  const std::int64_t out = backward ? map.in : map.out;
  const Work work{.bytes = size * static_cast<double>(rows * in + rows * out + in * out),
                  .flops = 2.0 * static_cast<double>(rows) * static_cast<double>(in * out),
                  .product = dtype};
  const Json fields{{"of", map.name},
                    {"pass", backward ? "dx" : "y"},
                    {"dtype", dtype_name(dtype)},
                    {"shape", {rows, map.out, map.in}}};
  harness.figure("matmul", fields, work, [&] {
    const MatmulArgs args{.a = harness.uniform({rows, in}, dtype),
                          .b = harness.uniform({map.out, map.in}, dtype),
                          .c = Tensor::empty({rows, out}, dtype, device),
                          .trans_b = !backward};
    return [args, device] { kernel::matmul(device, args); };
  });
}

// Forward and backward of a frozen map, without and with a low-rank branch of rank 8: what the
// branch costs is the difference. x comes as layers give it, with room behind its rows.
void low_rank_at(Harness& harness, const Map& map, std::int64_t rows, Dtype dtype,
                 const char* branch, double dropout) {
  struct Input {
    Tensor values;
    Var x;
  };
  const auto input = std::make_shared<Input>();
  const double flops = 4.0 * static_cast<double>(rows) * static_cast<double>(map.out * map.in);
  const double moved = static_cast<double>(2 * rows * (map.in + map.out) + 2 * map.in * map.out);
  const Json fields{{"of", map.name},
                    {"branch", branch},
                    {"pass", "forward and backward"},
                    {"dtype", dtype_name(dtype)},
                    {"shape", {rows, map.out, map.in}}};
  const Work work{
      .bytes = static_cast<double>(dtype_size(dtype)) * moved, .flops = flops, .product = dtype};
  const auto make = [&] {
    input->values = harness.uniform({rows, map.in}, dtype);
    const Var w(harness.uniform({map.out, map.in}, dtype));
    std::vector<LowRank> branches;
    if (branch != kNoBranch) {  // what trains is float32
      branches.push_back({.A = Var::leaf(harness.uniform({8, map.in}, Dtype::f32)),
                          .B = Var::leaf(harness.uniform({map.out, 8}, Dtype::f32)),
                          .dropout = dropout});
    }
    const Tensor seed = harness.uniform({rows, map.out}, dtype);
    return [input, w, branches, seed] {
      Tape tape;
      const Var y = linear(input->x, w, {}, branches);
      tape.backward({y}, {seed});
      for (const LowRank& each : branches) {
        each.A.slot()->clear();
        each.B.slot()->clear();
      }
    };
  };
  harness.figure("linear", fields, work, make, [&] {  // the room serves once
    input->x = Var::leaf(Tensor::empty_with_room({rows, map.in}, dtype, harness.device()));
    input->x.value().copy_from(input->values);
  });
}

}  // namespace

void product_rows(Harness& harness) {
  const bool tiny = harness.tiny();
  const std::int64_t rows = tiny ? 6 : 16384;
  const std::vector<Map> maps =
      tiny ? std::vector<Map>{{"in_proj", 12, 5}}
           : std::vector<Map>{{"130m in_proj", 3072, 768},  {"130m x_proj", 80, 1536},
                              {"130m dt_proj", 1536, 48},   {"130m out_proj", 768, 1536},
                              {"1.4b in_proj", 8192, 2048}, {"1.4b x_proj", 160, 4096},
                              {"1.4b dt_proj", 4096, 128},  {"1.4b out_proj", 2048, 4096}};
  for (const Dtype dtype : {Dtype::bf16, Dtype::f32}) {
    for (const Map& map : maps) {
      for (const bool backward : {false, true}) product_at(harness, map, rows, dtype, backward);
    }
  }
  // The head takes a chunk of rows at a time.
  const Map head = tiny ? Map{"head", 29, 5} : Map{"130m head", 50280, 768};
  for (const Dtype dtype : {Dtype::bf16, Dtype::f32}) {
    for (const bool backward : {false, true}) {
      product_at(harness, head, tiny ? 3 : 256, dtype, backward);
    }
  }
  const std::vector<Map> adapted =
      tiny ? std::vector<Map>{{"out_proj", 5, 12}}
           : std::vector<Map>{{"130m out_proj", 768, 1536}, {"130m in_proj", 3072, 768}};
  for (const Dtype dtype : {Dtype::bf16, Dtype::f32}) {
    for (const Map& map : adapted) {
      low_rank_at(harness, map, rows, dtype, kNoBranch, 0);
      low_rank_at(harness, map, rows, dtype, "LoRA 8", 0);
      low_rank_at(harness, map, rows, dtype, "LoRA 8, dropout 0.1", 0.1);
    }
  }
}

}  // namespace adder::bench

#include "bench/cuda/rows.h"
#include "engine/kernels/copy.h"
#include "engine/kernels/elementwise.h"
#include "engine/kernels/embedding.h"
#include "engine/kernels/gather.h"
#include "engine/kernels/norm.h"

namespace adder::bench {
namespace {

struct Sizes {
  std::int64_t rows, hidden, inner, vocabulary;
};

// A figure whose floor is the bytes of `tensors` and whose fields are a dtype and a shape.
void moving(Harness& harness, const std::string& name, Dtype dtype, Shape shape, double bytes,
            const std::function<std::function<void()>()>& make, const char* variant = nullptr) {
  Json fields{{"dtype", dtype_name(dtype)}, {"shape", Json::array()}};
  for (int axis = 0; axis < shape.rank(); ++axis) fields["shape"].push_back(shape[axis]);
  if (variant != nullptr) fields["variant"] = variant;
  harness.figure(name, fields, {.bytes = bytes}, make);
}

// Sums are float32 whatever the activations are.
void norm_rows(Harness& harness, const Sizes& s, Dtype dtype) {
  const Device device = harness.device();
  const Shape shape{s.rows, s.hidden};
  const auto numel = static_cast<double>(shape.numel());
  const auto size = static_cast<double>(dtype_size(dtype));
  moving(harness, "rms_norm_fwd", dtype, shape, numel * (2 * size + 8), [&] {
    const RmsNormFwdArgs args{.x = harness.uniform(shape, dtype),
                              .residual = harness.uniform(shape, Dtype::f32),
                              .weight = harness.uniform({s.hidden}, Dtype::f32),
                              .residual_out = Tensor::empty(shape, Dtype::f32, device),
                              .y = Tensor::empty(shape, dtype, device),
                              .inv_rms = Tensor::empty({s.rows}, Dtype::f32, device)};
    return [args, device] { kernel::rms_norm_fwd(device, args); };
  });
  const bool half = dtype == Dtype::bf16;
  moving(harness, "rms_norm_bwd", dtype, shape, numel * (half ? 16 : 4 * size), [&] {
    RmsNormBwdArgs args;
    args.residual = harness.uniform(shape, Dtype::f32);
    args.weight = harness.uniform({s.hidden}, Dtype::f32);
    args.inv_rms = harness.uniform({s.rows}, Dtype::f32, 0.5, 2);
    args.dy = harness.uniform(shape, dtype);
    args.dresidual_in = harness.uniform(shape, Dtype::f32);
    args.dresidual = Tensor::empty(shape, Dtype::f32, device);
    if (half) args.dx = Tensor::empty(shape, dtype, device);
    return [args, device] { kernel::rms_norm_bwd(device, args); };
  });
}

void map_rows(Harness& harness, const Sizes& s, Dtype dtype) {
  const Device device = harness.device();
  const Shape shape{s.rows, s.inner};
  const double one = static_cast<double>(dtype_size(dtype)) * static_cast<double>(shape.numel());
  const auto in = [&] { return harness.uniform(shape, dtype); };
  const auto out = [&] { return Tensor::empty(shape, dtype, device); };
  moving(
      harness, "unary_fwd", dtype, shape, 2 * one,
      [&] {
        const UnaryFwdArgs args{UnaryOp::silu, in(), out()};
        return [args, device] { kernel::unary_fwd(device, args); };
      },
      "silu");
  moving(
      harness, "unary_bwd", dtype, shape, 3 * one,
      [&] {
        const UnaryBwdArgs args{UnaryOp::silu, in(), in(), out()};
        return [args, device] { kernel::unary_bwd(device, args); };
      },
      "silu");
  moving(
      harness, "binary", dtype, shape, 3 * one,
      [&] {
        const BinaryArgs args{BinaryOp::mul, in(), in(), out()};
        return [args, device] { kernel::binary(device, args); };
      },
      "mul");
  moving(harness, "dropout", dtype, shape, 2 * one, [&] {
    const DropoutArgs args{.x = in(), .y = out(), .p = 0.1, .seed = 1, .stream = 2};
    return [args, device] { kernel::dropout(device, args); };
  });
  moving(harness, "add_in_place", dtype, shape, 3 * one, [&] {
    const AddInPlaceArgs args{in(), in()};
    return [args, device] { kernel::add_in_place(device, args); };
  });
  moving(harness, "fill", dtype, shape, one, [&] {
    const FillArgs args{in(), 0};
    return [args, device] { kernel::fill(device, args); };
  });
  // A slice of a wider tensor, made dense.
  moving(
      harness, "copy", dtype, shape, 2 * one,
      [&] {
        const Tensor wide = harness.uniform({s.rows, 2 * s.inner}, dtype);
        const CopyArgs args{wide.slice(1, 0, s.inner), out()};
        return [args, device] { kernel::copy(device, args); };
      },
      "strided");
}

void float_map_rows(Harness& harness, const Sizes& s) {
  const Device device = harness.device();
  const Shape shape{s.rows, s.inner};
  const double one = 4 * static_cast<double>(shape.numel());
  const auto in = [&] { return harness.uniform(shape, Dtype::f32); };
  moving(harness, "add_bias", Dtype::f32, shape, 2 * one, [&] {
    const AddBiasArgs args{harness.uniform({s.inner}, Dtype::f32), in()};
    return [args, device] { kernel::add_bias(device, args); };
  });
  moving(harness, "column_sum", Dtype::f32, shape, one, [&] {
    const ColumnSumArgs args{in(), Tensor::empty({s.inner}, Dtype::f32, device)};
    return [args, device] { kernel::column_sum(device, args); };
  });
  moving(harness, "scale_in_place", Dtype::f32, shape, 2 * one, [&] {
    const ScaleInPlaceArgs args{in(), 1.0};
    return [args, device] { kernel::scale_in_place(device, args); };
  });
  moving(
      harness, "copy", Dtype::f32, shape, 1.5 * one,
      [&] {
        const CopyArgs args{in(), Tensor::empty(shape, Dtype::bf16, device)};
        return [args, device] { kernel::copy(device, args); };
      },
      "to bfloat16");
}

void vocabulary_rows(Harness& harness, const Sizes& s) {
  const Device device = harness.device();
  const Shape shape{s.rows, s.hidden};
  const double one = 4 * static_cast<double>(shape.numel());
  for (const Dtype dtype : {Dtype::bf16, Dtype::f32}) {
    const double bytes = one + one * static_cast<double>(dtype_size(dtype)) / 4;
    moving(harness, "embedding_fwd", dtype, shape, bytes, [&] {
      const EmbeddingFwdArgs args{harness.ids({s.rows}, s.vocabulary),
                                  harness.uniform({s.vocabulary, s.hidden}, dtype),
                                  Tensor::empty(shape, Dtype::f32, device)};
      return [args, device] { kernel::embedding_fwd(device, args); };
    });
  }
  moving(harness, "embedding_bwd", Dtype::f32, shape, 3 * one, [&] {
    const EmbeddingBwdArgs args{harness.ids({s.rows}, s.vocabulary),
                                harness.uniform(shape, Dtype::f32),
                                harness.uniform({s.vocabulary, s.hidden}, Dtype::f32)};
    return [args, device] { kernel::embedding_bwd(device, args); };
  });
  const std::int64_t chunk = std::min<std::int64_t>(s.rows, 2048);
  const double logits = 4 * static_cast<double>(chunk * s.vocabulary);
  for (const bool gradient : {true, false}) {
    moving(
        harness, "cross_entropy", Dtype::f32, {chunk, s.vocabulary}, logits * (gradient ? 2 : 1),
        [&] {
          CrossEntropyArgs args;
          args.logits = harness.uniform({chunk, s.vocabulary}, Dtype::f32);
          args.targets = harness.ids({chunk}, s.vocabulary);
          args.losses = Tensor::empty({chunk}, Dtype::f64, device);
          args.argmax = Tensor::empty({chunk}, Dtype::i32, device);
          args.write_gradient = gradient;
          args.scale = 1.0 / static_cast<double>(chunk);
          return [args, device] { kernel::cross_entropy(device, args); };
        },
        gradient ? "with gradient" : "loss only");
  }
}

// Every step-th of `bound`.
template <typename T>
Tensor every(const Harness& harness, std::int64_t bound, std::int64_t step) {
  std::vector<T> indices;
  for (std::int64_t i = 0; i < bound; i += step) indices.push_back(static_cast<T>(i));
  return Tensor::from({static_cast<std::int64_t>(indices.size())}, indices).to(harness.device());
}

void gather_rows(Harness& harness, const Sizes& s) {
  const Device device = harness.device();
  for (const Dtype dtype : {Dtype::bf16, Dtype::f32}) {
    const auto size = static_cast<double>(dtype_size(dtype));
    const Tensor columns = every<std::int32_t>(harness, s.inner, 101);
    const std::int64_t k = columns.numel();
    // A sector of 32 bytes is read for each element.
    moving(harness, "gather_columns", dtype, {s.rows, s.inner},
           static_cast<double>(s.rows * k) * (32 + size), [&] {
             const GatherColumnsArgs args{harness.uniform({s.rows, s.inner}, dtype), columns,
                                          Tensor::empty({s.rows, k}, dtype, device)};
             return [args, device] { kernel::gather_columns(device, args); };
           });
    const Tensor half = every<std::int64_t>(harness, s.rows, 2);
    const double bytes = 2 * size * static_cast<double>(half.numel() * s.hidden);
    moving(harness, "gather_rows", dtype, {s.rows, s.hidden}, bytes, [&] {
      const GatherRowsArgs args{harness.uniform({s.rows, s.hidden}, dtype), half,
                                Tensor::empty({half.numel(), s.hidden}, dtype, device)};
      return [args, device] { kernel::gather_rows(device, args); };
    });
    moving(harness, "scatter_rows", dtype, {s.rows, s.hidden}, bytes, [&] {
      const ScatterRowsArgs args{harness.uniform({half.numel(), s.hidden}, dtype), half,
                                 harness.uniform({s.rows, s.hidden}, dtype)};
      return [args, device] { kernel::scatter_rows(device, args); };
    });
  }
  const std::int64_t count = 80 * s.inner;  // x_proj's weight
  const Tensor positions = every<std::int64_t>(harness, count, 101);
  const double bytes = static_cast<double>(positions.numel()) * (32 + 8 + 4);
  moving(harness, "gather_entries", Dtype::f32, {count}, bytes, [&] {
    const GatherEntriesArgs args{harness.uniform({count}, Dtype::f32), positions,
                                 Tensor::empty({positions.numel()}, Dtype::f32, device)};
    return [args, device] { kernel::gather_entries(device, args); };
  });
  moving(harness, "scatter_entries", Dtype::f32, {count}, bytes, [&] {
    const ScatterEntriesArgs args{harness.uniform({positions.numel()}, Dtype::f32), positions,
                                  harness.uniform({count}, Dtype::f32)};
    return [args, device] { kernel::scatter_entries(device, args); };
  });
}

}  // namespace

void layer_rows(Harness& harness) {
  const Sizes s = harness.tiny() ? Sizes{24, 12, 10, 29} : Sizes{16384, 768, 1536, 50280};
  for (const Dtype dtype : {Dtype::bf16, Dtype::f32}) {
    norm_rows(harness, s, dtype);
    map_rows(harness, s, dtype);
  }
  float_map_rows(harness, s);
  vocabulary_rows(harness, s);
  gather_rows(harness, s);
}

}  // namespace adder::bench

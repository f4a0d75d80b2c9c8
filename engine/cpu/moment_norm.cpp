// Statistics in two passes over a part of kRowsPerPart rows while it is in the cache: means, then
// squares about them. Parts are merged in float64 (Chan et al. 1979); their borders do not depend
// on the number of threads.
#include "engine/kernels/moment_norm.h"

#include "engine/cpu/rows.h"

namespace adder::cpu {
namespace {

constexpr std::int64_t kRowsPerPart = 64;
constexpr std::int64_t kBlock = 4;     // vectors of columns that are summed in registers
constexpr std::int64_t kColumns = 64;  // that one thread adds over all parts

// The rows of all groups in parts, which never straddle two groups.
struct Parts {
  explicit Parts(const MomentExtent& extent)
      : e(extent), per_group((e.rows + kRowsPerPart - 1) / kRowsPerPart) {}
  std::int64_t count() const { return e.groups * per_group; }
  std::int64_t first_row(std::int64_t part) const {
    return part / per_group * e.rows + part % per_group * kRowsPerPart;
  }
  std::int64_t rows(std::int64_t part) const {
    return std::min(kRowsPerPart, e.rows - part % per_group * kRowsPerPart);
  }
  MomentExtent e;
  std::int64_t per_group;
};

// A weight, or a constant where there is none.
template <typename T>
struct Affine {
  Affine(const Tensor& tensor, std::int64_t channels, T otherwise)
      : constant(tensor.defined() ? 0 : static_cast<std::size_t>(channels), otherwise),
        data(tensor.defined() ? tensor.data<T>() : constant.data()) {}
  Scratch<T> constant;
  const T* data;
};

// A statistic of a group at channels i …: of each channel, or the group's only one.
template <typename T>
struct Statistic {
  const T* data;
  bool per_channel;
  std::int64_t stride;
  Statistic(const T* from, const MomentExtent& e)
      : data(from), per_channel(e.per_channel), stride(e.per_channel ? e.channels : 1) {}
  Vec<T> operator()(std::int64_t group, std::int64_t i, std::int64_t count) const {
    return per_channel ? load(data + group * stride + i, count) : broadcast(data[group]);
  }
};

// Calls term(row, column, count, sums) for a part's rows, kBlock vectors of columns at a time, and
// done(column, count, sums) when they have been summed.
template <typename T, std::size_t Sums, typename Term, typename Done>
void sum_columns(std::int64_t first, std::int64_t rows, std::int64_t channels, const Term& term,
                 const Done& done) {
  constexpr std::int64_t kStep = kLanes<T>;
  std::int64_t i = 0;
  const auto run = [&](auto vectors, std::int64_t count) {
    constexpr std::int64_t kVectors = decltype(vectors)::value;
    Vec<T> sums[kVectors][Sums] = {};
    for (std::int64_t row = first; row < first + rows; ++row) {
      for (std::int64_t k = 0; k < kVectors; ++k) term(row, i + k * kStep, count, sums[k]);
    }
    for (std::int64_t k = 0; k < kVectors; ++k) done(i + k * kStep, count, sums[k]);
  };
  for (; i + kBlock * kStep <= channels; i += kBlock * kStep) {
    run(std::integral_constant<std::int64_t, kBlock>{}, kStep);
  }
  for (; i < channels; i += kStep) {
    run(std::integral_constant<std::int64_t, 1>{}, std::min(kStep, channels - i));
  }
}

// Calls body(group, first, count) for blocks of the `width` columns of every group, in parallel.
template <typename Body>
void for_each_block(const Parts& parts, std::int64_t width, const Body& body) {
  const std::int64_t blocks = (width + kColumns - 1) / kColumns;
  parallel_for(parts.e.groups * blocks, row_grain(parts.per_group * kColumns),
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t i = begin; i < end; ++i) {
                   const std::int64_t first = i % blocks * kColumns;
                   body(i / blocks, first, std::min(kColumns, width - first));
                 }
               });
}

// partial is (parts, 2, D): means and squares about them of each part and channel. Returns those of
// whole groups, (G, 2, D).
template <typename T>
Scratch<double> merged(const Scratch<T>& partial, const Parts& parts) {
  const std::int64_t d = parts.e.channels;
  Scratch<double> moments(static_cast<std::size_t>(parts.e.groups * 2 * d), 0);
  for_each_block(parts, d, [&](std::int64_t group, std::int64_t first, std::int64_t count) {
    double* mean = moments.data() + group * 2 * d + first;
    double* squares = mean + d;
    const std::int64_t begin = group * parts.per_group;
    const std::int64_t end = begin + parts.per_group;
    for (std::int64_t p = begin; p < end; ++p) {
      const T* from = partial.data() + p * 2 * d + first;
      const auto share = static_cast<double>(parts.rows(p)) / static_cast<double>(parts.e.rows);
      for (std::int64_t c = 0; c < count; ++c) mean[c] += share * static_cast<double>(from[c]);
    }
    for (std::int64_t p = begin; p < end; ++p) {
      const T* from = partial.data() + p * 2 * d + first;
      const auto rows = static_cast<double>(parts.rows(p));
      for (std::int64_t c = 0; c < count; ++c) {
        const double distance = static_cast<double>(from[c]) - mean[c];
        squares[c] += static_cast<double>(from[d + c]) + rows * distance * distance;
      }
    }
  });
  return moments;
}

// The statistics of a group as a whole, from those of its channels.
void merge_channels(Scratch<double>& moments, const MomentExtent& e) {
  const std::int64_t d = e.channels;
  for (std::int64_t group = 0; group < e.groups; ++group) {
    double* mean = moments.data() + group * 2 * d;
    double* squares = mean + d;
    double all = 0;
    for (std::int64_t c = 0; c < d; ++c) all += mean[c] / static_cast<double>(d);
    double sum = 0;
    for (std::int64_t c = 0; c < d; ++c) {
      sum += squares[c] + static_cast<double>(e.rows) * (mean[c] - all) * (mean[c] - all);
    }
    mean[0] = all;
    squares[0] = sum;
  }
}

template <typename T>
void own_statistics(const MomentNormFwdArgs& args, const MomentExtent& e) {
  const Parts parts(e);
  const std::int64_t d = e.channels;
  const T* x = args.x.data<T>();
  Scratch<T> partial(static_cast<std::size_t>(parts.count() * 2 * d));
  parallel_for(
      parts.count(), row_grain(kRowsPerPart * d), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t p = begin; p < end; ++p) {
          const std::int64_t first = parts.first_row(p);
          const std::int64_t rows = parts.rows(p);
          T* means = partial.data() + 2 * p * d;
          T* squares = means + d;
          sum_columns<T, 1>(
              first, rows, d,
              [&](std::int64_t row, std::int64_t i, std::int64_t count, Vec<T>* sums) {
                sums[0] += load(x + row * d + i, count);
              },
              [&](std::int64_t i, std::int64_t count, const Vec<T>* sums) {
                store(means + i, sums[0] / broadcast(static_cast<T>(rows)), count);
              });
          sum_columns<T, 1>(
              first, rows, d,
              [&](std::int64_t row, std::int64_t i, std::int64_t count, Vec<T>* sums) {
                const Vec<T> distance = load(x + row * d + i, count) - load(means + i, count);
                sums[0] = mul_add(distance, distance, sums[0]);
              },
              [&](std::int64_t i, std::int64_t count, const Vec<T>* sums) {
                store(squares + i, sums[0], count);
              });
        }
      });
  Scratch<double> moments = merged(partial, parts);
  if (!e.per_channel) merge_channels(moments, e);
  const std::int64_t per_group = e.per_channel ? d : 1;
  T* means = args.stats.data<T>();
  T* inverses = means + e.groups * per_group;
  const auto count = static_cast<double>(e.count());
  const auto blend = [&](T& running, double value) {
    running =
        static_cast<T>((1 - args.momentum) * static_cast<double>(running) + args.momentum * value);
  };
  for (std::int64_t s = 0; s < e.groups * per_group; ++s) {
    const std::int64_t c = s % per_group;
    const double* of = moments.data() + s / per_group * 2 * d + c;
    means[s] = static_cast<T>(of[0]);
    inverses[s] = static_cast<T>(1 / std::sqrt(of[d] / count + args.epsilon));
    if (!args.running_mean.defined()) continue;
    blend(args.running_mean.data<T>()[c], of[0]);
    blend(args.running_var.data<T>()[c], of[d] / (count - 1));
  }
  if (args.running_mean.defined() && args.batches.defined()) {
    ++*args.batches.data<std::int64_t>();
  }
}

template <typename T>
void running_statistics(const MomentNormFwdArgs& args, const MomentExtent& e) {
  T* means = args.stats.data<T>();
  for (std::int64_t c = 0; c < e.channels; ++c) {
    means[c] = args.running_mean.data<T>()[c];
    const double var = static_cast<double>(args.running_var.data<T>()[c]);
    means[e.channels + c] = static_cast<T>(1 / std::sqrt(var + args.epsilon));
  }
}

template <typename T>
void forward(const MomentNormFwdArgs& args, const MomentExtent& e) {
  if (args.use_running) {
    running_statistics<T>(args, e);
  } else {
    own_statistics<T>(args, e);
  }
  const std::int64_t d = e.channels;
  const Affine<T> weight(args.weight, d, 1);
  const Affine<T> bias(args.bias, d, 0);
  const T* stats = args.stats.data<T>();
  const Statistic<T> mean(stats, e);
  const Statistic<T> inverse(stats + args.stats.numel() / 2, e);
  const T* x = args.x.data<T>();
  T* y = args.y.data<T>();
  parallel_for(e.groups * e.rows, row_grain(d), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const std::int64_t group = row / e.rows;
      for_each_vector<T>(d, [&](std::int64_t i, std::int64_t count) {
        const Vec<T> scale = inverse(group, i, count) * load(weight.data + i, count);
        const Vec<T> distance = load(x + row * d + i, count) - mean(group, i, count);
        store(y + row * d + i, mul_add(distance, scale, load(bias.data + i, count)), count);
      });
    }
  });
}

// Sums over the rows of each group of dy and of dy x^: (G, 2, D) float64.
template <typename T>
Scratch<double> gradient_sums(const MomentNormBwdArgs& args, const MomentExtent& e) {
  const Parts parts(e);
  const std::int64_t d = e.channels;
  const T* x = args.x.data<T>();
  const T* dy = args.dy.data<T>();
  const T* stats = args.stats.data<T>();
  const Statistic<T> mean(stats, e);
  const Statistic<T> inverse(stats + args.stats.numel() / 2, e);
  Scratch<T> partial(static_cast<std::size_t>(parts.count() * 2 * d));
  parallel_for(
      parts.count(), row_grain(kRowsPerPart * d), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t p = begin; p < end; ++p) {
          const std::int64_t group = p / parts.per_group;
          sum_columns<T, 2>(
              parts.first_row(p), parts.rows(p), d,
              [&](std::int64_t row, std::int64_t i, std::int64_t count, Vec<T>* sums) {
                const Vec<T> g = load(dy + row * d + i, count);  // zero beyond a tail
                const Vec<T> distance = load(x + row * d + i, count) - mean(group, i, count);
                sums[0] += g;
                sums[1] = mul_add(g, distance, sums[1]);
              },
              [&](std::int64_t i, std::int64_t count, const Vec<T>* sums) {
                T* to = partial.data() + 2 * p * d + i;
                store(to, sums[0], count);
                store(to + d, sums[1] * inverse(group, i, count), count);
              });
        }
      });
  Scratch<double> sums(static_cast<std::size_t>(e.groups * 2 * d), 0);
  for_each_block(parts, 2 * d, [&](std::int64_t group, std::int64_t first, std::int64_t count) {
    double* to = sums.data() + group * 2 * d + first;
    const T* from = partial.data() + group * parts.per_group * 2 * d + first;
    for (std::int64_t p = 0; p < parts.per_group; ++p, from += 2 * d) {
      for (std::int64_t c = 0; c < count; ++c) to[c] += static_cast<double>(from[c]);
    }
  });
  return sums;
}

template <typename T>
void backward(const MomentNormBwdArgs& args, const MomentExtent& e) {
  const std::int64_t d = e.channels;
  const Affine<T> weight(args.weight, d, 1);
  const std::int64_t per_group = e.per_channel ? d : 1;
  // The means of g and of g x^.
  Scratch<T> means(static_cast<std::size_t>(2 * e.groups * per_group), T{0});
  if (args.dweight.defined() || args.dbias.defined() || !args.given_stats) {
    const Scratch<double> sums = gradient_sums<T>(args, e);
    const auto over_groups = [&](const Tensor& out, std::int64_t which) {
      for (std::int64_t c = 0; out.defined() && c < d; ++c) {
        double sum = 0;
        for (std::int64_t g = 0; g < e.groups; ++g) {
          sum += sums[static_cast<std::size_t>((2 * g + which) * d + c)];
        }
        out.data<T>()[c] = static_cast<T>(sum);
      }
    };
    over_groups(args.dbias, 0);
    over_groups(args.dweight, 1);
    for (std::int64_t s = 0; !args.given_stats && s < 2 * e.groups * per_group; ++s) {
      const std::int64_t which = s / (e.groups * per_group);
      const std::int64_t g = s / per_group % e.groups;
      const std::int64_t begin = s % per_group;
      double sum = 0;
      for (std::int64_t c = begin; c < (e.per_channel ? begin + 1 : d); ++c) {
        sum += static_cast<double>(weight.data[c]) *
               sums[static_cast<std::size_t>((2 * g + which) * d + c)];
      }
      means[static_cast<std::size_t>(s)] = static_cast<T>(sum / static_cast<double>(e.count()));
    }
  }
  if (!args.dx.defined()) return;
  const T* stats = args.stats.data<T>();
  const Statistic<T> mean(stats, e);
  const Statistic<T> inverse(stats + args.stats.numel() / 2, e);
  const Statistic<T> mean_g(means.data(), e);
  const Statistic<T> mean_gx(means.data() + e.groups * per_group, e);
  const T* x = args.x.data<T>();
  const T* dy = args.dy.data<T>();
  T* dx = args.dx.data<T>();
  parallel_for(e.groups * e.rows, row_grain(d), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const std::int64_t group = row / e.rows;
      for_each_vector<T>(d, [&](std::int64_t i, std::int64_t count) {
        const Vec<T> rstd = inverse(group, i, count);
        const Vec<T> normal = (load(x + row * d + i, count) - mean(group, i, count)) * rstd;
        const Vec<T> g = load(dy + row * d + i, count) * load(weight.data + i, count);
        store(dx + row * d + i,
              rstd * (g - mean_g(group, i, count) - normal * mean_gx(group, i, count)), count);
      });
    }
  });
}

}  // namespace

void moment_norm_fwd(const MomentNormFwdArgs& args) {
  const MomentExtent e = check_moment_norm(args);
  dispatch_real("moment_norm_fwd", args.x.dtype(), [&](auto t) { forward<decltype(t)>(args, e); });
}

void moment_norm_bwd(const MomentNormBwdArgs& args) {
  const MomentExtent e = check_moment_norm(args);
  dispatch_real("moment_norm_bwd", args.x.dtype(), [&](auto t) { backward<decltype(t)>(args, e); });
}

}  // namespace adder::cpu

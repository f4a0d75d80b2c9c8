// What tensors do with their own elements. One thread per element, any strides; contiguous tensors
// have one merged axis, so their index arithmetic is a multiplication.
#include "cuda/math.h"
#include "cuda/runtime.h"
#include "cuda/strided.h"
#include "engine/kernels/copy.h"

namespace adder::cuda {
namespace {

constexpr int kThreads = 256;

template <typename To, typename From>
__global__ void copy_kernel(To* to, Strided to_at, const From* from, Strided from_at,
                            std::int64_t count) {
  const std::int64_t i = global_index();
  if (i < count) to[to_at.offset(i)] = convert<To>(from[from_at.offset(i)]);
}

template <typename T>
__global__ void fill_kernel(T* x, Strided at, T value, std::int64_t count) {
  const std::int64_t i = global_index();
  if (i < count) x[at.offset(i)] = value;
}

template <typename T>
__global__ void add_in_place_kernel(T* x, Strided x_at, const T* other, Strided other_at,
                                    std::int64_t count) {
  const std::int64_t i = global_index();
  if (i >= count) return;
  T& target = x[x_at.offset(i)];
  target = from_float<T>(to_float(target) + to_float(other[other_at.offset(i)]));
}

template <typename T>
__global__ void scale_in_place_kernel(T* x, Strided at, float factor, std::int64_t count) {
  const std::int64_t i = global_index();
  if (i >= count) return;
  T& target = x[at.offset(i)];
  target = from_float<T>(to_float(target) * factor);
}

// float16 is only read from files; it reaches a device as another type.
template <typename F>
void dispatch_any(Dtype dtype, const F& f) {
  dispatch(dtype, [&](auto type) {
    if constexpr (std::is_same_v<decltype(type), Float16>) {
      throw DtypeError("float16 is only read from files, not computed with on CUDA");
    } else {
      f(type);
    }
  });
}

}  // namespace

void copy(const CopyArgs& args) {
  const Device device = args.to.device();
  const std::int64_t count = args.to.numel();
  if (args.to.dtype() == args.from.dtype() && args.to.is_contiguous() &&
      args.from.is_contiguous()) {
    check(cudaMemcpyAsync(args.to.raw(), args.from.raw(), args.to.nbytes(),
                          cudaMemcpyDeviceToDevice, stream(device)),
          "copy");
    return;
  }
  dispatch_any(args.to.dtype(), [&](auto to) {
    dispatch_any(args.from.dtype(), [&](auto from) {
      using To = decltype(to);
      using From = decltype(from);
      ADDER_LAUNCH((copy_kernel<To, From>), blocks_for(count, kThreads), kThreads, 0,
                   stream(device), args.to.data<To>(), strided(args.to), args.from.data<From>(),
                   strided(args.from), count);
    });
  });
}

void fill(const FillArgs& args) {
  const std::int64_t count = args.x.numel();
  dispatch_any(args.x.dtype(), [&](auto type) {
    using T = decltype(type);
    ADDER_LAUNCH((fill_kernel<T>), blocks_for(count, kThreads), kThreads, 0,
                 stream(args.x.device()), args.x.data<T>(), strided(args.x), convert<T>(args.value),
                 count);
  });
}

void add_in_place(const AddInPlaceArgs& args) {
  const std::int64_t count = args.x.numel();
  dispatch_storage("add_", args.x.dtype(), [&](auto type) {
    using T = decltype(type);
    ADDER_LAUNCH((add_in_place_kernel<T>), blocks_for(count, kThreads), kThreads, 0,
                 stream(args.x.device()), args.x.data<T>(), strided(args.x), args.other.data<T>(),
                 strided(args.other), count);
  });
}

void scale_in_place(const ScaleInPlaceArgs& args) {
  const std::int64_t count = args.x.numel();
  dispatch_storage("scale_", args.x.dtype(), [&](auto type) {
    using T = decltype(type);
    ADDER_LAUNCH((scale_in_place_kernel<T>), blocks_for(count, kThreads), kThreads, 0,
                 stream(args.x.device()), args.x.data<T>(), strided(args.x),
                 static_cast<float>(args.factor), count);
  });
}

}  // namespace adder::cuda

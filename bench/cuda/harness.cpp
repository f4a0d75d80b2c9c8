#include "bench/cuda/harness.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>

#include "bench/cuda/probes.h"
#include "cuda/runtime.h"
#include "engine/device_runtime.h"
#include "engine/kernels/matmul.h"
#include "engine/random.h"

namespace adder::bench {
namespace {

constexpr int kRepeats = 21;
constexpr double kSecondsPerFigure = 1;  // long ones are repeated less often

}  // namespace

Work& Work::operator+=(const Work& other) {
  bytes += other.bytes, exps += other.exps, issues += other.issues, flops += other.flops;
  if (other.flops > 0) product = other.product;
  return *this;
}

Work operator*(double times, Work work) {
  work.bytes *= times, work.exps *= times, work.issues *= times, work.flops *= times;
  return work;
}

Floor Ceilings::floor(const Work& work) const {
  const double flops = work.product == Dtype::bf16 ? flops_bf16 : flops_f32;
  const std::pair<double, const char*> limits[] = {{work.bytes / bytes, "bytes"},
                                                   {work.exps / exps, "exponentials"},
                                                   {work.issues / issues, "instructions"},
                                                   {work.flops / flops, "products"}};
  Floor floor;
  for (const auto& [seconds, bound] : limits) {
    if (seconds > floor.seconds) floor = {seconds, bound};
  }
  return floor;
}

Harness::Harness(Device device, bool tiny, std::string only)
    : device_(device), tiny_(tiny), only_(std::move(only)) {
  cudaDeviceProp properties{};
  cuda::check(cudaGetDeviceProperties(&properties, device.index), "cudaGetDeviceProperties");
  const std::int64_t bytes = tiny ? 4096 : std::int64_t{2} * properties.l2CacheSize;
  flush_ = Tensor::empty({bytes}, Dtype::u8, device);
  cuda::check(cudaEventCreate(&start_), "cudaEventCreate");
  cuda::check(cudaEventCreate(&end_), "cudaEventCreate");
}

Harness::~Harness() {
  cudaEventDestroy(start_);
  cudaEventDestroy(end_);
}

double Harness::between_events(const std::function<void()>& f, int flushes) const {
  const cudaStream_t stream = cuda::stream(device_);
  // While the caches are flushed the host gets ahead, so that no launch is waited for.
  for (int i = 0; i < flushes; ++i) {
    cuda::check(cudaMemsetAsync(flush_.raw(), 0, flush_.nbytes(), stream), "cudaMemsetAsync");
  }
  cuda::check(cudaEventRecord(start_, stream), "cudaEventRecord");
  f();
  cuda::check(cudaEventRecord(end_, stream), "cudaEventRecord");
  cuda::check(cudaEventSynchronize(end_), "cudaEventSynchronize");
  float milliseconds = 0;
  cuda::check(cudaEventElapsedTime(&milliseconds, start_, end_), "cudaEventElapsedTime");
  return 1e-3 * static_cast<double>(milliseconds);
}

double Harness::device_seconds(const std::function<void()>& f, double ahead) const {
  const double flush = std::max(wall_seconds([&] { between_events([] {}, 8); }) / 8, 1e-6);
  const int flushes = tiny_ ? 1 : static_cast<int>(std::clamp(ahead / flush, 1.0, 1000.0));
  return between_events(f, flushes);
}

Times Harness::time(const std::function<void()>& f, const std::function<void()>& prepare) const {
  const auto once = [&] {
    if (prepare) prepare();
    return between_events(f, 1);
  };
  Times times;
  if (tiny_) {
    times.seconds.push_back(once());
    return times;
  }
  for (int i = 0; i < 2; ++i) once();  // loads the module, fills the allocator
  const double guess = std::max(once(), 1e-6);
  const int repeats =
      static_cast<int>(std::clamp(kSecondsPerFigure / guess, 3.0, static_cast<double>(kRepeats)));
  for (int i = 0; i < repeats; ++i) times.seconds.push_back(once());
  std::sort(times.seconds.begin(), times.seconds.end());
  return times;
}

double Harness::wall_seconds(const std::function<void()>& f) const {
  synchronize(device_);
  const auto start = std::chrono::steady_clock::now();
  f();
  synchronize(device_);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void Harness::print(const Json& line) const {
  std::printf("%s\n", line.dump(-1, ' ', false, Json::error_handler_t::replace).c_str());
  std::fflush(stdout);
}

void Harness::line(const std::string& name, const std::function<Json()>& make) {
  if (!wanted(name)) return;
  Json out{{"bench", name}};
  try {
    const Json fields = make();
    if (fields.is_null()) return;
    out.update(fields);
  } catch (const std::exception& error) {
    out["error"] = error.what();
    ++failures_;
  }
  print(out);
  release_cached_memory(device_);
}

Json Harness::judge(double seconds, const Work& work) const {
  Json fields{{"ms", 1e3 * seconds}};
  if (work.bytes > 0) fields["GB_per_s"] = 1e-9 * work.bytes / seconds;
  if (work.flops > 0) fields["GFLOP_per_s"] = 1e-9 * work.flops / seconds;
  const Floor floor = ceilings_.floor(work);
  if (floor.seconds > 0 && std::isfinite(floor.seconds)) {
    fields["floor_ms"] = 1e3 * floor.seconds;
    fields["bound"] = floor.bound;
    fields["share"] = floor.seconds / seconds;
  }
  return fields;
}

void Harness::figure(const std::string& name, const Json& what, const Work& work,
                     const std::function<std::function<void()>()>& make,
                     const std::function<void()>& prepare) {
  line(name, [&] {
    const std::function<void()> run = make();
    const Times times = time(run, prepare);
    Json fields = what;
    fields.update(judge(times.median(), work));
    fields["least_ms"] = 1e3 * times.least();
    fields["repeats"] = times.seconds.size();
    return fields;
  });
}

double Harness::rate(const std::function<double()>& probe) const {
  double amount = 0;
  const Times times = time([&] { amount = probe(); });
  return amount / times.median();
}

void Harness::measure_ceilings() {
  const auto report = [&](const char* name, const char* unit,
                          const std::function<double()>& probe) {
    const double value = rate(probe);
    if (wanted("ceiling")) {
      print({{"bench", "ceiling"}, {"name", name}, {"value", 1e-9 * value}, {"unit", unit}});
    }
    return value;
  };
  const std::int64_t large = tiny_ ? 1024 : std::int64_t{1} << 28;
  const Tensor from = uniform({large}, Dtype::f32);
  const Tensor to = Tensor::empty({large}, Dtype::f32, device_);
  ceilings_.bytes = report("copy", "GB/s", [&] { return probe_copy(from, to); });
  const int rounds = tiny_ ? 2 : 2000;
  const Tensor sink = Tensor::empty({tiny_ ? 4096 : 1 << 20}, Dtype::f32, device_);
  const std::int64_t cached = tiny_ ? 1024 : std::int64_t{4} << 20;  // 16 MB
  report("read what the L2 holds", "GB/s",
         [&] { return probe_read(from.slice(0, 0, cached), sink, tiny_ ? 2 : 50); });
  for (const int warps : {1, 2, 4}) {
    const std::string name = str("exp2, ", warps, " warps per scheduler");
    const double exps =
        report(name.c_str(), "G/s", [&] { return probe_exp2(sink, warps, rounds); });
    ceilings_.exps = std::max(ceilings_.exps, exps);
  }
  for (const int warps : {1, 4}) {
    const std::string name = str("multiply-add, ", warps, " warps per scheduler");
    const double issues =
        report(name.c_str(), "G/s", [&] { return probe_multiply_add(sink, warps, rounds); });
    ceilings_.issues = std::max(ceilings_.issues, issues);
  }
  report("shuffle", "G/s", [&] { return probe_shuffle(sink, 4, rounds); });
  report("atomic addition in the L2", "G/s",
         [&] { return probe_atomic_add(sink, tiny_ ? 2 : 200); });
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
    const std::int64_t n = tiny_ ? 8 : dtype == Dtype::f32 ? 4096 : 8192;
    const Tensor a = uniform({n, n}, dtype);
    const Tensor c = Tensor::empty({n, n}, dtype, device_);
    const std::string name = str("matrix product, ", dtype_name(dtype));
    const double flops = report(name.c_str(), "GFLOP/s", [&] {
      kernel::matmul(device_, {.a = a, .b = a, .c = c, .trans_b = true});
      return 2.0 * static_cast<double>(n * n * n);
    });
    (dtype == Dtype::f32 ? ceilings_.flops_f32 : ceilings_.flops_bf16) = flops;
  }
  release_cached_memory(device_);
}

Tensor Harness::uniform(Shape shape, Dtype dtype, double low, double high) const {
  static std::uint32_t seed = 0;
  const Tensor tensor = Tensor::empty(shape, dtype, device_);
  draw_on_device(tensor, static_cast<float>(low), static_cast<float>(high), ++seed);
  return tensor;
}

Tensor Harness::ids(Shape shape, std::int64_t bound, std::uint64_t seed) const {
  Random random(seed);
  std::vector<std::int32_t> values(static_cast<std::size_t>(shape.numel()));
  for (std::int32_t& id : values) {
    id = static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(bound)));
  }
  return Tensor::from(shape, values).to(device_);
}

}  // namespace adder::bench

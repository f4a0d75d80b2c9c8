// Timing on a device by its own clock, beside the least time the device would need.
//
// A figure is one JSON line: what ran, its median time, rates, and `floor_ms`: the largest of its
// bytes at the copy bandwidth, its exponentials, its instructions and its matrix operations, each
// at the rate measured on this device at the start; `bound` says which. `share` is floor over
// median.
#pragma once

#include <cuda_runtime.h>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/tensor.h"

namespace adder::bench {

using Json = nlohmann::ordered_json;

// The least a figure has to do. `issues`: instructions of one lane, in the units of a multiply-add.
struct Work {
  double bytes = 0, exps = 0, issues = 0, flops = 0;
  Dtype product = Dtype::f32;  // in which the flops are done

  Work& operator+=(const Work& other);
  friend Work operator*(double times, Work work);
};

struct Floor {
  double seconds = 0;
  const char* bound = "none";
};

// Per second, as measured by measure_ceilings().
struct Ceilings {
  double bytes = 0, exps = 0, issues = 0, flops_f32 = 0, flops_bf16 = 0;
  Floor floor(const Work& work) const;
};

struct Times {
  std::vector<double> seconds;  // ascending
  double median() const { return seconds[seconds.size() / 2]; }
  double least() const { return seconds.front(); }
};

class Harness {
 public:
  // `tiny`: shapes that an emulator can run, once each. `only`: figures whose name starts so.
  Harness(Device device, bool tiny, std::string only);
  ~Harness();
  Harness(const Harness&) = delete;
  Harness& operator=(const Harness&) = delete;

  Device device() const { return device_; }
  bool tiny() const { return tiny_; }
  bool wanted(const std::string& name) const { return name.starts_with(only_); }
  int failures() const { return failures_; }
  const Ceilings& ceilings() const { return ceilings_; }

  // Prints the device's own rates and keeps what floors need of them.
  void measure_ceilings();

  // Runs `f` between two events, many times, the caches flushed before each; `prepare` is outside.
  Times time(const std::function<void()>& f, const std::function<void()>& prepare = {}) const;
  // Seconds of a whole call, host included, until the device is idle again.
  double wall_seconds(const std::function<void()>& f) const;

  // Seconds of `f` on the device alone: the host gets about `ahead` seconds in front of it, so that
  // no launch is waited for (what `f` itself waits for remains).
  double device_seconds(const std::function<void()>& f, double ahead) const;

  // One figure. What `make` builds lives as long as the figure; an error becomes the figure's line.
  // `prepare` runs before each repeat, outside of its time.
  void figure(const std::string& name, const Json& what, const Work& work,
              const std::function<std::function<void()>()>& make,
              const std::function<void()>& prepare = {});
  // A line of other content, guarded in the same way; null prints nothing.
  void line(const std::string& name, const std::function<Json()>& make);

  Tensor uniform(Shape shape, Dtype dtype, double low = -1, double high = 1) const;
  Tensor ids(Shape shape, std::int64_t bound, std::uint64_t seed = 1) const;  // int32
  // `time` against the floor of `work`, as fields of a figure.
  Json judge(double seconds, const Work& work) const;

 private:
  double between_events(const std::function<void()>& f, int flushes) const;
  double rate(const std::function<double()>& probe) const;
  void print(const Json& line) const;

  Device device_;
  bool tiny_;
  std::string only_;
  int failures_ = 0;
  Ceilings ceilings_;
  Tensor flush_;  // twice the L2 cache
  cudaEvent_t start_ = nullptr;
  cudaEvent_t end_ = nullptr;
};

}  // namespace adder::bench

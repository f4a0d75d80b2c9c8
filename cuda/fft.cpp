#include "cuda/fft.h"

#include <cufft.h>
#include <map>
#include <mutex>
#include <tuple>

#include "cuda/runtime.h"

namespace adder::cuda {
namespace {

void check_fft(cufftResult status, const char* what) {
  if (status == CUFFT_SUCCESS) return;
  throw DeviceError(str(what, ": cuFFT status ", static_cast<int>(status)));
}

constexpr std::size_t kMostPlans = 64;

class Plans {
 public:
  cufftHandle get(Device device, std::int64_t length, std::int64_t batch, cufftType type) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const Key key{device.index, length, batch, type};
    const auto found = plans_.find(key);
    if (found != plans_.end()) return found->second;
    if (plans_.size() >= kMostPlans) clear(device);
    cufftHandle plan = 0;
    int n = static_cast<int>(length);
    check_fft(
        cufftPlanMany(&plan, 1, &n, nullptr, 1, 0, nullptr, 1, 0, type, static_cast<int>(batch)),
        "cufftPlanMany");
    plans_[key] = plan;
    check_fft(cufftSetStream(plan, stream(device)), "cufftSetStream");
    return plan;
  }

 private:
  using Key = std::tuple<int, std::int64_t, std::int64_t, cufftType>;

  void clear(Device device) {
    // A plan's work memory may still be in use.
    check(cudaStreamSynchronize(stream(device)), "cudaStreamSynchronize");
    for (const auto& [key, plan] : plans_) cufftDestroy(plan);
    plans_.clear();
  }

  std::mutex mutex_;
  std::map<Key, cufftHandle> plans_;
};

// Never destroyed: the driver may be gone before static objects are.
cufftHandle plan(Device device, std::int64_t length, std::int64_t batch, cufftType type) {
  static auto* plans = new Plans;
  return plans->get(device, length, batch, type);
}

}  // namespace

void fft_forward(Device device, std::int64_t length, std::int64_t batch, float* from, float* to) {
  check_fft(cufftExecR2C(plan(device, length, batch, CUFFT_R2C), from,
                         reinterpret_cast<cufftComplex*>(to)),
            "cufftExecR2C");
}

void fft_inverse(Device device, std::int64_t length, std::int64_t batch, float* from, float* to) {
  check_fft(cufftExecC2R(plan(device, length, batch, CUFFT_C2R),
                         reinterpret_cast<cufftComplex*>(from), to),
            "cufftExecC2R");
}

void fft_forward(Device device, std::int64_t length, std::int64_t batch, double* from, double* to) {
  check_fft(cufftExecD2Z(plan(device, length, batch, CUFFT_D2Z), from,
                         reinterpret_cast<cufftDoubleComplex*>(to)),
            "cufftExecD2Z");
}

void fft_inverse(Device device, std::int64_t length, std::int64_t batch, double* from, double* to) {
  check_fft(cufftExecZ2D(plan(device, length, batch, CUFFT_Z2D),
                         reinterpret_cast<cufftDoubleComplex*>(from), to),
            "cufftExecZ2D");
}

}  // namespace adder::cuda

// What the emulator's tests share.
#pragma once

#include <cstdint>
#include <cuda_runtime.h>
#include <doctest/doctest.h>
#include <string>
#include <vector>

namespace simt_test {

inline void must(cudaError_t error) {
  REQUIRE_EQ(std::string(cudaGetErrorName(error)), "cudaSuccess");
}

// Device memory that lives as long as the test.
template <typename T>
class Buffer {
 public:
  explicit Buffer(std::size_t count) : count_(count) {
    must(cudaMalloc(&data_, count * sizeof(T)));
  }
  explicit Buffer(const std::vector<T>& values) : Buffer(values.size()) { set(values); }
  ~Buffer() { cudaFree(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  T* get() const { return data_; }
  void set(const std::vector<T>& values) {
    must(cudaMemcpy(data_, values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice));
  }
  std::vector<T> read() const {
    std::vector<T> values(count_);
    must(cudaMemcpy(values.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost));
    return values;
  }
  // Bytes that no kernel would leave behind.
  void poison() { must(cudaMemset(data_, 0xff, count_ * sizeof(T))); }

 private:
  T* data_ = nullptr;
  std::size_t count_;
};

class Stream {
 public:
  explicit Stream(unsigned flags = cudaStreamNonBlocking) {
    must(cudaStreamCreateWithFlags(&stream_, flags));
  }
  ~Stream() { cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  operator cudaStream_t() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

// The same numbers in every run, in (-1, 1).
template <typename T = float>
std::vector<T> numbers(std::size_t count, std::uint64_t seed) {
  std::vector<T> values(count);
  std::uint64_t state = seed * 0x9e3779b97f4a7c15ULL + 1;
  for (T& value : values) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    value = static_cast<T>(static_cast<double>(state >> 33U) / (1U << 30U) - 1.0);
  }
  return values;
}

// The message of the simt::Error that `run` ends with; empty when it does not.
template <typename Run>
std::string error_of(Run&& run) {
  try {
    run();
  } catch (const simt::Error& error) {
    return error.what();
  }
  return {};
}

// A kernel that must fail says the same mistake in every order: all of `parts` are in the message.
template <typename Run>
void check_error(const std::vector<std::string>& parts, Run&& run) {
  simt::in_all_orders([&](simt::Order order) {
    CAPTURE(simt::order_name(order));
    const std::string message = error_of(run);
    CAPTURE(message);
    for (const std::string& part : parts) {
      CAPTURE(part);
      CHECK_NE(message.find(part), std::string::npos);
    }
    if (order.kind == simt::Order::Kind::forward) MESSAGE(message);
  });
}

// Norm-relative; NaN anywhere makes it fail every comparison with `<`.
template <typename T, typename U>
double relative_error(const std::vector<T>& got, const std::vector<U>& expected) {
  double difference = 0;
  double norm = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double d = static_cast<double>(got[i]) - static_cast<double>(expected[i]);
    difference += d * d;
    norm += static_cast<double>(expected[i]) * static_cast<double>(expected[i]);
  }
  return std::sqrt(difference / norm);
}

}  // namespace simt_test

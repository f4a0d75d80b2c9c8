// The stand-in for the runtime: devices, memory, copies, limits of a launch, errors.
#include <cstdlib>
#include <cstring>

#include "tests/simt/kernels/kernels.h"
#include "tests/simt/support.h"

using namespace simt_test;

namespace {

std::string launch_error(dim3 grid, dim3 block, std::size_t shared_bytes) {
  try {
    launch_nothing(grid, block, shared_bytes, nullptr);
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return {};
}

}  // namespace

TEST_CASE("launches that hardware refuses are refused, by the same error") {
  const std::string configuration = "empty_kernel: cudaErrorInvalidConfiguration";
  CHECK_EQ(launch_error(1, 1024, 0), "");
  CHECK_EQ(launch_error(1, 1025, 0), configuration);
  CHECK_EQ(launch_error(1, dim3(32, 33), 0), configuration);
  CHECK_EQ(launch_error(1, dim3(1, 1, 65), 0), configuration);
  CHECK_EQ(launch_error(0, 32, 0), configuration);
  CHECK_EQ(launch_error(dim3(1, 0), 32, 0), configuration);
  CHECK_EQ(launch_error(1, dim3(32, 0), 0), configuration);
  CHECK_EQ(launch_error(dim3(1, 65535), 1, 0), "");
  CHECK_EQ(launch_error(dim3(1, 65536), 1, 0), configuration);
  CHECK_EQ(launch_error(dim3(1, 1, 65536), 1, 0), configuration);
  CHECK_EQ(cudaPeekAtLastError(), cudaSuccess);
}

TEST_CASE("shared memory beyond 48 KB needs the attribute, and ends at 227 KB") {
  const std::string invalid = "empty_kernel: cudaErrorInvalidValue";
  CHECK_EQ(launch_error(1, 32, 48 * 1024), "");
  CHECK_EQ(launch_error(1, 32, 48 * 1024 + 1), invalid);
  CHECK_EQ(allow_shared(228 * 1024), cudaErrorInvalidValue);
  CHECK_EQ(cudaGetLastError(), cudaErrorInvalidValue);
  must(allow_shared(100 * 1024));
  CHECK_EQ(launch_error(1, 32, 100 * 1024), "");
  CHECK_EQ(launch_error(1, 32, 100 * 1024 + 1), invalid);
  must(allow_shared(227 * 1024));
  CHECK_EQ(launch_error(1, 32, 227 * 1024), "");
  must(allow_shared(48 * 1024));
}

TEST_CASE("memory runs out, says so, and comes back") {
  std::size_t free = 0;
  std::size_t total = 0;
  must(cudaMemGetInfo(&free, &total));
  const std::size_t before = total;
  const std::size_t used = simt::device_bytes_in_use();
  CHECK_EQ(used, total - free);
  simt::set_device_memory(used + (1 << 20));
  void* first = nullptr;
  void* second = nullptr;
  must(cudaMalloc(&first, 1 << 19));
  CHECK_EQ(cudaMalloc(&second, (1 << 19) + 1), cudaErrorMemoryAllocation);
  CHECK_EQ(second, nullptr);
  CHECK_EQ(cudaGetLastError(), cudaErrorMemoryAllocation);
  CHECK_EQ(cudaGetLastError(), cudaSuccess);
  must(cudaMemGetInfo(&free, &total));
  CHECK_EQ(total, used + (1 << 20));
  CHECK_EQ(free, 1 << 19);
  must(cudaFree(first));
  must(cudaMalloc(&second, 1 << 20));
  must(cudaFree(second));
  must(cudaFree(nullptr));
  CHECK_EQ(cudaFree(second), cudaErrorInvalidValue);  // twice
  cudaGetLastError();
  simt::set_device_memory(before);
  CHECK_EQ(simt::device_bytes_in_use(), used);
}

TEST_CASE("fresh device memory is NaN") {
  const Buffer<float> x(100);
  for (const float value : x.read()) CHECK(std::isnan(value));
}

TEST_CASE("copies in all directions, and those the runtime can tell are wrong") {
  const auto values = numbers(100, 1);
  const Buffer<float> x(values);
  const Buffer<float> y(100);
  must(cudaMemcpy(y.get(), x.get(), 400, cudaMemcpyDeviceToDevice));
  CHECK_EQ(y.read(), values);
  must(cudaMemset(y.get() + 10, 0, 40));
  CHECK_EQ(y.read()[9], values[9]);
  CHECK_EQ(y.read()[10], 0.0F);
  CHECK_EQ(y.read()[19], 0.0F);
  CHECK_EQ(y.read()[20], values[20]);
  std::vector<float> host(100);
  must(cudaMemcpy(host.data(), x.get(), 400, cudaMemcpyDefault));
  CHECK_EQ(host, values);
  CHECK_EQ(cudaMemcpy(y.get(), host.data(), 400, cudaMemcpyDeviceToDevice), cudaErrorInvalidValue);
  CHECK_EQ(cudaMemcpy(host.data(), host.data(), 400, cudaMemcpyDeviceToHost),
           cudaErrorInvalidValue);
  CHECK_EQ(cudaMemcpy(y.get(), x.get(), 400, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
  CHECK_EQ(cudaMemcpy(y.get() + 1, host.data(), 400, cudaMemcpyHostToDevice),
           cudaErrorInvalidValue);
  CHECK_EQ(cudaMemset(y.get() + 1, 0, 400), cudaErrorInvalidValue);
  CHECK_EQ(cudaGetLastError(), cudaErrorInvalidValue);
}

TEST_CASE("two-dimensional copies keep to their pitches") {
  const auto values = numbers(6 * 10, 2);
  const Buffer<float> x(values);
  const Buffer<float> y(std::vector<float>(6 * 4, 0.0F));
  // Columns 3, 4 and 5 of x into columns 0, 1 and 2 of y.
  must(cudaMemcpy2DAsync(y.get(), 16, x.get() + 3, 40, 12, 6, cudaMemcpyDeviceToDevice));
  const auto got = y.read();
  for (std::size_t row = 0; row < 6; ++row) {
    for (std::size_t column = 0; column < 3; ++column) {
      CHECK_EQ(got[row * 4 + column], values[row * 10 + 3 + column]);
    }
    CHECK_EQ(got[row * 4 + 3], 0.0F);
  }
  std::vector<float> host(18);
  must(cudaMemcpy2D(host.data(), 12, y.get(), 16, 12, 6, cudaMemcpyDeviceToHost));
  CHECK_EQ(host[17], values[55]);
  CHECK_EQ(cudaMemcpy2D(host.data(), 8, y.get(), 16, 12, 6, cudaMemcpyDeviceToHost),
           cudaErrorInvalidPitchValue);
  CHECK_EQ(cudaMemcpy2D(host.data(), 12, y.get() + 2, 16, 12, 6, cudaMemcpyDeviceToHost),
           cudaErrorInvalidValue);
  cudaGetLastError();
}

TEST_CASE("what kind of memory a pointer points to") {
  cudaPointerAttributes attributes{};
  const Buffer<float> x(10);
  must(cudaPointerGetAttributes(&attributes, x.get() + 3));
  CHECK_EQ(attributes.type, cudaMemoryTypeDevice);
  float* pinned = nullptr;
  must(cudaMallocHost(&pinned, 40));
  pinned[9] = 1;
  must(cudaPointerGetAttributes(&attributes, pinned));
  CHECK_EQ(attributes.type, cudaMemoryTypeHost);
  CHECK_EQ(cudaFree(pinned), cudaErrorInvalidValue);
  must(cudaFreeHost(pinned));
  cudaGetLastError();
  must(cudaPointerGetAttributes(&attributes, &attributes));
  CHECK_EQ(attributes.type, cudaMemoryTypeUnregistered);
}

TEST_CASE("one device that looks like an sm_90, or none") {
  int count = -1;
  must(cudaGetDeviceCount(&count));
  CHECK_EQ(count, 1);
  cudaDeviceProp properties;
  must(cudaGetDeviceProperties(&properties, 0));
  CHECK_EQ(std::string(properties.name), "SIMT emulator");
  CHECK_EQ(properties.major * 10 + properties.minor, 90);
  int value = 0;
  must(cudaDeviceGetAttribute(&value, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0));
  CHECK_EQ(value, 227 * 1024);
  CHECK_EQ(cudaSetDevice(1), cudaErrorInvalidDevice);
  cudaGetLastError();
  setenv("ADDER_SIMT_DEVICES", "0", 1);
  CHECK_EQ(cudaGetDeviceCount(&count), cudaErrorNoDevice);
  CHECK_EQ(count, 0);
  void* pointer = nullptr;
  CHECK_EQ(cudaMalloc(&pointer, 16), cudaErrorNoDevice);
  CHECK_EQ(launch_error(1, 32, 0), "empty_kernel: cudaErrorNoDevice");
  unsetenv("ADDER_SIMT_DEVICES");
  cudaGetLastError();
  CHECK_EQ(std::string(cudaGetErrorString(cudaErrorMemoryAllocation)), "out of memory");
}

TEST_CASE("orders are parsed and named") {
  for (const char* text : {"forward", "reverse", "random:17"}) {
    CHECK_EQ(simt::order_name(simt::parse_order(text)), text);
  }
  for (const char* text : {"", "random", "random:", "random:x", "backward"}) {
    CHECK_THROWS_AS(simt::parse_order(text), std::invalid_argument);
  }
}

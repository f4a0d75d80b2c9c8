// Kernel rows: the table that binds an operation's name to its implementation on each device.
//
// A row is a constant: no registration at start-up (which a static archive would drop) and no
// virtual backend. In a build with CUDA a missing kernel is a link error; in a build without it
// the column is null and calling it says so, in the one place below.
#pragma once

#include "engine/device.h"
#include "engine/error.h"

namespace adder {

template <typename Args>
struct Kernel {
  const char* name;
  void (*cpu)(const Args&);
  void (*cuda)(const Args&);

  void operator()(Device device, const Args& args) const {
    const auto function = device.is_cpu() ? cpu : cuda;
    if (function == nullptr) {
      throw DeviceError(str(name, ": this build has no ", device.is_cpu() ? "CPU" : "CUDA"));
    }
    function(args);
  }
};

}  // namespace adder

#ifdef ADDER_WITH_CUDA
#define ADDER_CUDA_COLUMN(name) &cuda::name
#else
#define ADDER_CUDA_COLUMN(name) nullptr
#endif

// Declares cpu::name and cuda::name and the row kernel::name that binds them.
#define ADDER_KERNEL(name, Args)                                                  \
  namespace cpu {                                                                 \
  void name(const Args& args);                                                    \
  }                                                                               \
  namespace cuda {                                                                \
  void name(const Args& args);                                                    \
  }                                                                               \
  namespace kernel {                                                              \
  inline constexpr Kernel<Args> name{#name, &cpu::name, ADDER_CUDA_COLUMN(name)}; \
  }                                                                               \
  static_assert(true, "a semicolon follows")

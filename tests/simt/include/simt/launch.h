// Launching a kernel in the emulator: what `<<<>>>` is under nvcc.
#pragma once

#include <functional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "simt/runtime_api.h"

namespace simt {

struct Launch {
  std::string name;
  const void* function = nullptr;
  dim3 grid, block;
  std::size_t shared_bytes = 0;
  std::function<void()> body;         // one thread of the kernel
  std::vector<const void*> pointers;  // the arguments that are pointers, null for the others
};

// Checks the extents and hands the launch to the stream; a wrong one becomes cudaGetLastError()'s.
void submit_launch(Launch launch, cudaStream_t stream);

// Arguments are converted to the parameters' types now and copied anew for every thread, so that a
// kernel that assigns to its parameters behaves as on hardware.
template <typename... Parameters, typename... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block,
            std::size_t shared_bytes, cudaStream_t stream, Arguments&&... arguments) {
  static_assert(sizeof...(Parameters) == sizeof...(Arguments), "as many arguments as parameters");
  static_assert((!std::is_reference_v<Parameters> && ...), "kernels take their arguments by value");
  static_assert((std::is_trivially_copyable_v<Parameters> && ...), "kernel arguments are copied");
  std::tuple<Parameters...> values(std::forward<Arguments>(arguments)...);
  Launch launch{name, reinterpret_cast<const void*>(kernel), grid, block, shared_bytes, {}, {}};
  const auto pointer_of = [](const auto& value) -> const void* {
    if constexpr (std::is_pointer_v<std::remove_cvref_t<decltype(value)>>) return value;
    return nullptr;
  };
  std::apply([&](const auto&... value) { launch.pointers = {pointer_of(value)...}; }, values);
  launch.body = [kernel, values] { std::apply(kernel, values); };
  submit_launch(std::move(launch), stream);
}

}  // namespace simt

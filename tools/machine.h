// What this program was built with and what it can run on.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace adder::tools {

// Name and value: "adder", "compiler", "BLAS", "SIMD", "threads", "CUDA", and "cuda:N" for every
// device of this machine that the build can use.
std::vector<std::pair<std::string, std::string>> machine_rows();

}  // namespace adder::tools

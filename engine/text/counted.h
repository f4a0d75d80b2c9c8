// Numbers with their nouns.
#pragma once

#include <cstdint>
#include <string>

#include "engine/error.h"

namespace adder {

// "1 layer", "2 layers". Give the plural where it takes more than an s: "1 class", "2 classes".
inline std::string counted(std::int64_t number, const std::string& noun,
                           const std::string& plural = "") {
  return str(number, " ", number == 1 ? noun : plural.empty() ? noun + "s" : plural);
}

}  // namespace adder

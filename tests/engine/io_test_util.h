// What the tests of engine/io share.
#pragma once

#include <string>

#include "engine/error.h"
#include "tests/support/temp_directory.h"

namespace adder::test {

// The message of the IoError that `action` throws, or "no IoError".
template <typename Action>
std::string io_error(const Action& action) {
  try {
    action();
  } catch (const IoError& error) {
    return error.what();
  }
  return "no IoError";
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace adder::test

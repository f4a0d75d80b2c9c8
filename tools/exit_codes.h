// What the executable's exit status means.
#pragma once

#include <new>

#include "engine/error.h"

namespace adder::tools {

enum ExitCode : int {
  kExitOk = 0,
  kExitFailure = 1,       // something failed while running
  kExitUsage = 2,         // the command line or a configuration
  kExitData = 3,          // a file or data
  kExitDevice = 4,        // device or memory
  kExitCheck = 5,         // a check failed: selftest, a loss that is not finite
  kExitInterrupted = 130  // Ctrl-C, after what was worth keeping had been written
};

inline ExitCode exit_code_of(const std::exception& error) {
  if (dynamic_cast<const ConfigError*>(&error)) return kExitUsage;
  if (dynamic_cast<const IoError*>(&error)) return kExitData;
  if (dynamic_cast<const DeviceError*>(&error)) return kExitDevice;
  if (dynamic_cast<const std::bad_alloc*>(&error)) return kExitDevice;
  if (dynamic_cast<const NumericError*>(&error)) return kExitCheck;
  return kExitFailure;
}

}  // namespace adder::tools

// Host stand-in for CUDA's header of this name: first on the include path of emulated builds.
#pragma once

#define ADDER_SIMT_EMULATOR 1

#include "simt/control.h"
#include "simt/device.h"
#include "simt/launch.h"
#include "simt/runtime_api.h"

// Readback: numbers on their way from a device to the host.
#pragma once

#include <vector>

#include "engine/tensor.h"

namespace adder {

// The copy is asked for when this is made and travels in the device's own order, so that the tensor
// may be changed or freed afterwards; the host goes on at once and waits only when it looks.
class Readback {
 public:
  Readback() = default;
  explicit Readback(const Tensor& tensor);
  ~Readback();
  Readback(Readback&& other) noexcept;
  Readback& operator=(Readback&& other) noexcept;

  // The tensor's elements as they were then. Waits for this copy alone; call it once.
  std::vector<double> values();

 private:
  void drop();
  Tensor host_;             // of the tensor's type and shape
  Device device_;           // where it comes from
  void* ticket_ = nullptr;  // of the device's runtime; null on the CPU
};

}  // namespace adder

#include "engine/readback.h"

#include <utility>

#include "engine/device_runtime.h"

namespace adder {

Readback::Readback(const Tensor& tensor) : device_(tensor.device()) {
  if (device_.is_cpu()) {
    host_ = tensor.clone();
    return;
  }
  host_ = Tensor::empty(tensor.shape(), tensor.dtype());
  const Tensor dense = tensor.contiguous();
  if (dense.nbytes() > 0) {
    ticket_ = runtime_of(device_).start_read(device_.index, dense.raw(), dense.nbytes());
  }
}

Readback::Readback(Readback&& other) noexcept
    : host_(std::move(other.host_)),
      device_(other.device_),
      ticket_(std::exchange(other.ticket_, nullptr)) {}

Readback& Readback::operator=(Readback&& other) noexcept {
  drop();
  host_ = std::move(other.host_);
  device_ = other.device_;
  ticket_ = std::exchange(other.ticket_, nullptr);
  return *this;
}

Readback::~Readback() {
  drop();
}

void Readback::drop() {
  if (ticket_ == nullptr) return;
  cuda_runtime()->drop_read(device_.index, std::exchange(ticket_, nullptr));
}

std::vector<double> Readback::values() {
  if (ticket_ != nullptr) {
    cuda_runtime()->finish_read(device_.index, std::exchange(ticket_, nullptr), host_.raw());
  }
  return host_.to_vector();
}

}  // namespace adder

#include "models/weight_table.h"

#include <algorithm>
#include <cmath>

#include "engine/error.h"

namespace adder {

namespace {

bool all_finite(const Tensor& tensor) {
  const Tensor values = tensor.to(Dtype::f32);
  const float* v = values.data<float>();
  return std::all_of(v, v + values.numel(), [](float x) { return std::isfinite(x); });
}

}  // namespace

void load_parameter(const Parameter& parameter, const WeightFiles& files, const std::string& name) {
  Tensor loaded = files.load(name);
  const std::string place = str(files.file_of(name), ": ", name);
  if (!is_floating(loaded.dtype())) {
    throw IoError(str(place, " is ", dtype_name(loaded.dtype()), ", expected a floating type"));
  }
  // The convolution's filters carry the middle axis of PyTorch's Conv1d in files.
  if (parameter.role() == Role::conv_weight && loaded.rank() == 3 && loaded.dim(1) == 1) {
    loaded = loaded.reshape({loaded.dim(0), loaded.dim(2)});
  }
  // A convolution over one position is a linear map.
  if (parameter.value().rank() == 2 && loaded.rank() == 3 && loaded.dim(2) == 1) {
    loaded = loaded.reshape({loaded.dim(0), loaded.dim(1)});
  }
  if (loaded.shape() != parameter.value().shape()) {
    throw IoError(str(place, " is ", loaded.shape(), ", expected ", parameter.value().shape()));
  }
  if (!all_finite(loaded)) throw IoError(str(place, " holds NaN or infinite values"));
  parameter.value().copy_from(loaded);
}

void load_buffer(const Buffer& buffer, const WeightFiles& files) {
  const Tensor loaded = files.load(buffer.name);
  const std::string place = str(files.file_of(buffer.name), ": ", buffer.name);
  if (is_floating(loaded.dtype()) != is_floating(buffer.value.dtype())) {
    throw IoError(str(place, " is ", dtype_name(loaded.dtype()), ", expected ",
                      dtype_name(buffer.value.dtype())));
  }
  if (loaded.shape() != buffer.value.shape()) {
    throw IoError(str(place, " is ", loaded.shape(), ", expected ", buffer.value.shape()));
  }
  if (is_floating(loaded.dtype()) && !all_finite(loaded)) {
    throw IoError(str(place, " holds NaN or infinite values"));
  }
  buffer.value.copy_from(loaded);
}

}  // namespace adder

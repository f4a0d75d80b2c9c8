#include "models/weight_table.h"

#include <algorithm>
#include <cmath>

#include "engine/error.h"

namespace adder {

void load_parameter(const Parameter& parameter, const WeightFiles& files) {
  const std::string& name = parameter.name();
  const Tensor loaded = files.load(name);
  const std::string place = str(files.file_of(name), ": ", name);
  if (!is_floating(loaded.dtype())) {
    throw IoError(str(place, " is ", dtype_name(loaded.dtype()), ", expected a floating type"));
  }
  if (loaded.shape() != parameter.value().shape()) {
    throw IoError(str(place, " is ", loaded.shape(), ", expected ", parameter.value().shape()));
  }
  const std::vector<double> values = loaded.to_vector();
  if (!std::all_of(values.begin(), values.end(), [](double v) { return std::isfinite(v); })) {
    throw IoError(str(place, " holds NaN or infinite values"));
  }
  parameter.value().copy_from(loaded);
}

}  // namespace adder

#include "tools/model_directory.h"

#include "engine/io/file.h"
#include "tools/data/sequence_data.h"

namespace adder::tools {

bool holds_sequence_model(const std::string& directory) {
  const std::string path = join_path(directory, "config.json");
  return exists(path) && names_sequence_model(read_file(path));
}

AnyModel load_any_model(const std::string& directory, Dtype dtype) {
  AnyModel any;
  if (holds_sequence_model(directory)) {
    auto model = load_sequence_model(directory);
    any.sequence = model.get();
    any.model = std::move(model);
  } else {
    auto model = Mamba::load(directory, dtype);
    any.mamba = model.get();
    any.model = std::move(model);
  }
  return any;
}

void refuse_sequence_data(const std::string& data, const std::string& model) {
  if (!is_sequence_data(data)) return;
  throw ConfigError(str("data \"", data,
                        "\" is for models that read sequences of numbers (deep S4); ", model,
                        " is a language model"));
}

}  // namespace adder::tools

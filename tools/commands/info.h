// The parts of `adder info`: one for each kind of directory.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace adder::tools {

struct InfoOptions {
  std::string path;
  std::string model;  // an adapter's base model
  bool json = false;
};

using InfoRows = std::vector<std::pair<std::string, std::string>>;

// What a directory with an adapter_config.json holds. Throws what reading it throws.
void show_adapter(const InfoOptions& options);

// Whether `adder train` made this directory.
bool is_run_directory(const std::string& directory);
// What a run trains, how far it is and what it has left. Throws IoError naming the file, and the
// line of a log, that cannot be understood.
void show_run(const InfoOptions& options);

}  // namespace adder::tools

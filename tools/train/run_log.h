// RUN/log.jsonl: one object per line, and the sums behind the line that comes next.
#pragma once

#include <chrono>
#include <cstdint>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

namespace adder::tools {

// Lines are written whole and flushed, so that a run can be watched. What a resumed run needs of
// the log is in state(); the numbers of training itself never depend on it.
class RunLog {
 public:
  // Starts the file with `header`. Throws IoError.
  static RunLog create(const std::string& path, const nlohmann::ordered_json& header);
  // Goes on with a file cut back to the lines that `state` knows of.
  static RunLog resume(const std::string& path, const nlohmann::ordered_json& state);

  void write(const nlohmann::ordered_json& line);  // throws IoError
  nlohmann::ordered_json state() const;

  // Wall seconds of the run, earlier sessions included.
  double seconds() const;

  // Sums since the last logged step.
  double loss_sum = 0;
  std::int64_t loss_count = 0;
  std::int64_t tokens = 0;
  double since = 0;  // seconds() at the last logged step

 private:
  explicit RunLog(const std::string& path);
  std::string path_;
  std::ofstream file_;
  std::int64_t lines_ = 0;
  double seconds_before_ = 0;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace adder::tools

#include "tools/train/run_log.h"

#include "engine/error.h"
#include "engine/io/file.h"

namespace adder::tools {

RunLog::RunLog(const std::string& path) : path_(path) {}

RunLog RunLog::create(const std::string& path, const nlohmann::ordered_json& header) {
  RunLog log(path);
  log.file_.open(path, std::ios::trunc);
  log.write(header);
  return log;
}

RunLog RunLog::resume(const std::string& path, const nlohmann::ordered_json& state) {
  RunLog log(path);
  const auto keep = state.at("lines").get<std::int64_t>();
  const std::string text = read_file(path);
  std::size_t end = 0;
  for (; log.lines_ < keep && end < text.size(); ++log.lines_) {
    const std::size_t newline = text.find('\n', end);
    if (newline == std::string::npos) break;
    end = newline + 1;
  }
  write_file_atomic(path, std::string_view(text).substr(0, end));
  log.file_.open(path, std::ios::app);
  log.seconds_before_ = state.at("seconds").get<double>();
  log.loss_sum = state.at("loss_sum").get<double>();
  log.loss_count = state.at("loss_count").get<std::int64_t>();
  log.tokens = state.at("tokens").get<std::int64_t>();
  log.since = state.at("since").get<double>();
  return log;
}

void RunLog::write(const nlohmann::ordered_json& line) {
  file_ << line.dump() + "\n" << std::flush;
  if (!file_) throw IoError(str(path_, ": cannot write (is the disk full?)"));
  ++lines_;
}

nlohmann::ordered_json RunLog::state() const {
  return {{"lines", lines_},          {"seconds", seconds()}, {"loss_sum", loss_sum},
          {"loss_count", loss_count}, {"tokens", tokens},     {"since", since}};
}

double RunLog::seconds() const {
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start_;
  return seconds_before_ + elapsed.count();
}

}  // namespace adder::tools

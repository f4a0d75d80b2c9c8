#include "tools/report/run_files.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "engine/error.h"
#include "engine/io/file.h"
#include "engine/io/safetensors.h"
#include "peft/adapter.h"
#include "tools/train/checkpoint.h"

namespace adder::tools {

RunCurves read_curves(const std::string& run) {
  const std::string path = join_path(run, "log.jsonl");
  const std::string text = read_file(path);
  RunCurves curves;
  std::size_t begin = 0;
  for (int number = 1; begin < text.size(); ++number) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    try {
      const auto json = nlohmann::json::parse(text.substr(begin, end - begin));
      const auto point = [&json](const char* key) {
        return CurvePoint{json.at("step").get<double>(), json.at(key).get<double>()};
      };
      if (json.contains("eval_loss")) {
        curves.evaluations.push_back(point("eval_loss"));
      } else if (json.contains("step") && json.contains("loss")) {
        const bool warm_up = json.value("phase", "train") == "warm-up";
        (warm_up ? curves.warm_up : curves.train).push_back(point("loss"));
      }
    } catch (const nlohmann::json::exception&) {
      throw IoError(str(path, ":", number, ": not a line of a training log"));
    }
    begin = end + 1;
  }
  return curves;
}

std::vector<LayerMap> read_maps(const std::string& run) {
  const std::string adapter = join_path(run, "adapter");
  if (!is_adapter_directory(adapter)) return {};
  std::optional<SafetensorsFile> state;
  const std::string checkpoint = latest_checkpoint(run);
  if (!checkpoint.empty()) {
    state = SafetensorsFile::open(join_path(checkpoint, "training_state.safetensors"));
  }
  std::vector<LayerMap> maps;
  for (const LayerSelection& selection : SavedAdapter::read(adapter).selections()) {
    LayerMap map;
    map.name = str("Layer ", maps.size() + 1);
    map.channels = selection.num_channels;
    map.states = selection.num_states;
    const std::string scores = str("adapter/", selection.layer, ".A_log.sdt_scores");
    if (state && state->contains(scores)) {
      // The scores are squared displacements.
      for (const double score : state->load(scores).to_vector()) {
        map.strength.push_back(static_cast<float>(std::sqrt(score)));
      }
    } else if (!selection.channel_scores.empty()) {
      for (const float score : selection.channel_scores) {
        map.strength.insert(map.strength.end(), static_cast<std::size_t>(map.states),
                            std::sqrt(score));
      }
    }
    for (std::size_t i = 0; i < selection.channels.size(); ++i) {
      for (const std::int32_t s : selection.states[i]) {
        map.selected.emplace_back(selection.channels[i], s);
      }
    }
    maps.push_back(std::move(map));
  }
  return maps;
}

}  // namespace adder::tools

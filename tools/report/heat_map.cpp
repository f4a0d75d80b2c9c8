// The selected channels and states of every layer as inline SVG.
#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <set>

#include "engine/error.h"
#include "tools/report/html.h"

namespace adder::tools {
namespace {

constexpr double kWidth = 960, kLeft = 40, kRightMargin = 6, kTop = 4;
constexpr int kLevels = 6;

std::string px(double value) {
  return short_number(value, 2);
}

// 1 … kLevels by the share of the layer's largest strength, 0 for none or unknown.
int level(double value, double largest) {
  if (!std::isfinite(value) || value <= 0 || largest <= 0) return 0;
  return std::clamp(static_cast<int>(std::ceil(value / largest * kLevels)), 1, kLevels);
}

std::string layer_caption(const LayerMap& map, std::size_t channels) {
  const std::size_t states = channels == 0 ? 0 : map.selected.size() / channels;
  return str(map.name, ": ", channels, " of ", map.channels, " channels train, with ", states,
             " of ", map.states, " states each");
}

std::string layer_svg(const LayerMap& map, const std::set<std::int32_t>& channels) {
  const double cell_w = (kWidth - kLeft - kRightMargin) / static_cast<double>(map.channels);
  const double cell_h = std::clamp(150.0 / static_cast<double>(map.states), 3.0, 24.0);
  const double bottom = kTop + cell_h * static_cast<double>(map.states);
  const double gap = std::min(0.6, cell_w * 0.15);
  const auto at = [&](std::int64_t channel, std::int64_t state) {
    const auto i = static_cast<std::size_t>(channel * map.states + state);
    return i < map.strength.size() ? double{map.strength[i]} : NAN;
  };
  double largest = 0;
  for (const float value : map.strength) {
    if (std::isfinite(value)) largest = std::max(largest, double{value});
  }
  const std::set<std::pair<std::int32_t, std::int32_t>> selected(map.selected.begin(),
                                                                 map.selected.end());
  // One path per shade keeps the file small.
  std::array<std::string, kLevels + 1> frozen;
  std::array<std::string, kLevels + 1> trained;
  for (std::int32_t channel = 0; channel < map.channels; ++channel) {
    for (std::int32_t state = 0; state < map.states; ++state) {
      const bool trains = selected.contains({channel, state});
      const int shade = level(at(channel, state), largest);
      if (shade == 0 && !trains) continue;
      const std::string cell =
          str("M", px(kLeft + cell_w * channel), " ", px(kTop + cell_h * state), "h",
              px(cell_w - gap), "v", px(cell_h - 0.6), "h-", px(cell_w - gap), "z");
      auto& shades = trains ? trained : frozen;
      // A trained entry of unknown strength is shown all the same.
      shades[static_cast<std::size_t>(trains && largest <= 0 ? kLevels : std::max(shade, 1))] +=
          cell;
    }
  }
  std::string svg = str("<rect class=\"field\" x=\"", kLeft, "\" y=\"", kTop, "\" width=\"",
                        px(cell_w * static_cast<double>(map.channels)), "\" height=\"",
                        px(bottom - kTop), "\"/>\n");
  for (std::size_t i = 1; i <= kLevels; ++i) {
    if (!frozen[i].empty()) svg += str("<path class=\"f", i, "\" d=\"", frozen[i], "\"/>\n");
  }
  for (std::size_t i = 1; i <= kLevels; ++i) {
    if (!trained[i].empty()) svg += str("<path class=\"s", i, "\" d=\"", trained[i], "\"/>\n");
  }
  for (const std::int32_t channel : channels) {
    const double middle = kLeft + cell_w * (channel + 0.5);
    std::string states;
    for (const auto& [c, state] : selected) {
      if (c == channel) states += str(states.empty() ? "" : ", ", state);
    }
    svg += str("<path class=\"pick\" d=\"M", px(middle - 3.5), " ", px(bottom + 8), "L",
               px(middle + 3.5), " ", px(bottom + 8), "L", px(middle), " ", px(bottom + 2.5),
               "z\"/><rect class=\"hover\" x=\"", px(kLeft + cell_w * channel), "\" y=\"", kTop,
               "\" width=\"", px(cell_w), "\" height=\"", px(bottom - kTop + 8),
               "\"><title>Channel ", channel, ", trained states ", states, "</title></rect>\n");
  }
  svg += "<g class=\"axis\" aria-hidden=\"true\">\n";
  const std::int64_t state_step = map.states > 8 ? (map.states + 3) / 4 : 1;
  for (std::int64_t state = 0; state < map.states; state += state_step) {
    svg += str("<text x=\"", kLeft - 5, "\" y=\"",
               px(kTop + cell_h * (static_cast<double>(state) + 0.5) + 3.5),
               "\" text-anchor=\"end\">", state, "</text>\n");
  }
  std::int64_t step = 1;
  for (const std::int64_t wanted : {2, 4, 8, 16, 32, 64, 128, 256, 512}) {
    if (map.channels / step > 14) step = wanted;
  }
  for (std::int64_t channel = 0; channel < map.channels; channel += step) {
    svg += str("<text x=\"", px(kLeft + cell_w * (static_cast<double>(channel) + 0.5)), "\" y=\"",
               px(bottom + 20), "\" text-anchor=\"middle\">", channel, "</text>\n");
  }
  svg += str("<text class=\"label\" transform=\"translate(10 ", px((kTop + bottom) / 2),
             ") rotate(-90)\" text-anchor=\"middle\">state</text>\n<text class=\"label\" x=\"",
             kWidth - kRightMargin, "\" y=\"", px(bottom + 20),
             "\" text-anchor=\"end\">channel</text>\n</g>\n");
  return str("<svg class=\"map\" viewBox=\"0 0 ", kWidth, " ", px(bottom + 25),
             "\" role=\"img\" aria-label=\"", escape_html(layer_caption(map, channels.size())),
             "\">\n", svg, "</svg>\n");
}

std::string ramp(const char* kind, const char* text) {
  std::string svg;
  for (int i = 1; i <= kLevels; ++i) {
    svg +=
        str("<rect class=\"", kind, i, "\" x=\"", (i - 1) * 16, "\" width=\"15\" height=\"12\"/>");
  }
  return str("<li><svg width=\"", kLevels * 16, "\" height=\"12\" aria-hidden=\"true\">", svg,
             "</svg>", text, "</li>\n");
}

}  // namespace

std::string render_maps(const std::vector<LayerMap>& maps) {
  std::string html = "<ul class=\"legend\">\n";
  html += ramp("s", "trained (weak to strong)");
  html += ramp("f", "not trained");
  html +=
      "<li><svg width=\"12\" height=\"12\" aria-hidden=\"true\"><path class=\"pick\" "
      "d=\"M1 10H11L6 2z\"/></svg>trained channel</li>\n</ul>\n";
  std::string lists;
  for (const LayerMap& map : maps) {
    std::map<std::int32_t, std::vector<std::int32_t>> states;
    std::set<std::int32_t> channels;
    for (const auto& [channel, state] : map.selected) {
      channels.insert(channel);
      states[channel].push_back(state);
    }
    html += str("<figure class=\"layer\">\n<figcaption>",
                escape_html(layer_caption(map, channels.size())),
                "</figcaption>\n<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"",
                escape_html(map.name), "\">\n", layer_svg(map, channels), "</div>\n</figure>\n");
    lists += str("<h4>", escape_html(map.name), "</h4>\n<p>");
    for (auto& [channel, list] : states) {
      std::sort(list.begin(), list.end());
      lists += str("<span class=\"entry\"><b>", channel, "</b> (");
      for (std::size_t i = 0; i < list.size(); ++i) lists += str(i ? ", " : "", list[i]);
      lists += ")</span> ";
    }
    lists += "</p>\n";
  }
  return html + str("<details>\n<summary>The same as text: channel (states)</summary>\n", lists,
                    "</details>\n");
}

}  // namespace adder::tools

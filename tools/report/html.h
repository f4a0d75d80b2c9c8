// Pieces that the parts of a report share.
#pragma once

#include <string>
#include <string_view>

#include "tools/report/report.h"

namespace adder::tools {

// `text` for an element's content or a quoted attribute. Bytes that are not valid UTF-8, and
// control characters, become U+FFFD.
std::string escape_html(std::string_view text);

// Up to `decimals` digits after the point, without trailing zeros: "0.25", "12".
std::string short_number(double value, int decimals);
// Always `decimals` digits: "0.250".
std::string fixed_number(double value, int decimals);

std::string render_chart(const LineChart& chart, int index);
std::string render_maps(const std::vector<LayerMap>& maps);
// The style sheet, with the colours of both modes.
std::string_view report_style();

}  // namespace adder::tools

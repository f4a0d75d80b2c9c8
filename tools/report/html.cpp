#include "tools/report/html.h"

#include <cmath>
#include <cstdio>

#include "engine/text/utf8.h"

namespace adder::tools {

std::string escape_html(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const std::size_t length = text::sequence_length(text);
    const auto byte = static_cast<unsigned char>(text[0]);
    if (length == 0 || byte == 0x7F || (byte < 0x20 && byte != '\n' && byte != '\t')) {
      out += "\xEF\xBF\xBD";
      text.remove_prefix(1);
      continue;
    }
    switch (text[0]) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += text.substr(0, length);
    }
    text.remove_prefix(length);
  }
  return out;
}

std::string fixed_number(double value, int decimals) {
  if (!std::isfinite(value)) return "–";
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", decimals, value);
  return text;
}

std::string short_number(double value, int decimals) {
  std::string text = fixed_number(value, decimals);
  if (text.find('.') == std::string::npos) return text;
  while (text.back() == '0') text.pop_back();
  if (text.back() == '.') text.pop_back();
  return text;
}

std::vector<CurvePoint> smoothed(const std::vector<CurvePoint>& points, double weight) {
  std::vector<CurvePoint> result;
  double sum = 0;
  double total = 0;
  for (const CurvePoint& point : points) {
    sum = weight * sum + point.y;
    total = weight * total + 1;
    result.push_back({point.x, sum / total});
  }
  return result;
}

}  // namespace adder::tools

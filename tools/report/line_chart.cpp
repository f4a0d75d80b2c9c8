// Loss curves as inline SVG.
#include <algorithm>
#include <cmath>

#include "engine/error.h"
#include "tools/report/html.h"

namespace adder::tools {
namespace {

constexpr double kWidth = 960, kHeight = 360;
constexpr double kLeft = 58, kRight = 148, kTop = 14, kBottom = 46;

bool drawable(const CurvePoint& p) {
  return std::isfinite(p.x) && std::isfinite(p.y) && p.y > 0;
}

// Where data coordinates lie in the picture.
struct Axes {
  double x_max = 1, log_min = 0, log_max = 1;

  double x(double value) const { return kLeft + value / x_max * (kWidth - kLeft - kRight); }
  double y(double value) const {
    const double share = (std::log10(value) - log_min) / (log_max - log_min);
    return kHeight - kBottom - share * (kHeight - kTop - kBottom);
  }
};

Axes axes_of(const LineChart& chart) {
  double x_max = 0;
  double low = INFINITY;
  double high = 0;
  for (const Curve& curve : chart.curves) {
    for (const auto* points : {&curve.line, &curve.marks}) {
      for (const CurvePoint& p : *points) {
        if (!drawable(p)) continue;
        x_max = std::max(x_max, p.x);
        low = std::min(low, p.y);
        high = std::max(high, p.y);
      }
    }
  }
  if (high <= 0) return {};
  const double margin = std::max(0.04 * std::log10(high / low), 0.02);
  return {std::max(x_max, 1.0), std::log10(low) - margin, std::log10(high) + margin};
}

// 1, 2 and 5 times powers of ten, or only some of these when there would be too many.
std::vector<double> loss_ticks(const Axes& axes) {
  std::vector<double> best;
  for (const std::vector<int>& steps : {std::vector{1, 2, 5}, std::vector{1, 3}, std::vector{1}}) {
    best.clear();
    for (int power = static_cast<int>(std::floor(axes.log_min)); power <= axes.log_max; ++power) {
      for (const int step : steps) {
        const double value = step * std::pow(10.0, power);
        const double position = std::log10(value);
        if (position >= axes.log_min && position <= axes.log_max) best.push_back(value);
      }
    }
    if (best.size() <= 9) break;
  }
  return best;
}

double step_between_ticks(double x_max) {
  const double power = std::pow(10.0, std::floor(std::log10(x_max)));
  for (const double step : {0.1, 0.2, 0.5, 1.0, 2.0}) {
    if (x_max / (step * power) <= 8) return step * power;
  }
  return x_max;
}

std::string px(double value) {
  return short_number(value, 1);
}

std::string draw_axes(const LineChart& chart, const Axes& axes) {
  std::string svg = "<g class=\"axis\" aria-hidden=\"true\">\n";
  const double bottom = kHeight - kBottom;
  for (const double value : loss_ticks(axes)) {
    const std::string y = px(axes.y(value));
    const int decimals = std::max(0, static_cast<int>(-std::floor(std::log10(value) + 1e-9)));
    svg += str("<line class=\"grid\" x1=\"", kLeft, "\" x2=\"", kWidth - kRight, "\" y1=\"", y,
               "\" y2=\"", y, "\"/><text x=\"", kLeft - 8, "\" y=\"", px(axes.y(value) + 4),
               "\" text-anchor=\"end\">", short_number(value, decimals), "</text>\n");
  }
  const double step = step_between_ticks(axes.x_max);
  const int ticks = static_cast<int>(axes.x_max * 1.0001 / step);
  for (int tick = 0; tick <= ticks; ++tick) {
    const double value = tick * step;
    const std::string x = px(axes.x(value));
    svg += str("<line class=\"tick\" x1=\"", x, "\" x2=\"", x, "\" y1=\"", bottom, "\" y2=\"",
               bottom + 5, "\"/><text x=\"", x, "\" y=\"", bottom + 19,
               "\" text-anchor=\"middle\">", short_number(value, 1), "</text>\n");
  }
  svg +=
      str("<line class=\"tick\" x1=\"", kLeft, "\" x2=\"", kWidth - kRight, "\" y1=\"", bottom,
          "\" y2=\"", bottom, "\"/>\n<text class=\"label\" x=\"", (kLeft + kWidth - kRight) / 2,
          "\" y=\"", kHeight - 6, "\" text-anchor=\"middle\">", escape_html(chart.x_label),
          "</text>\n<text class=\"label\" transform=\"translate(13 ", (kTop + bottom) / 2,
          ") rotate(-90)\" text-anchor=\"middle\">", escape_html(chart.y_label), "</text>\n</g>\n");
  return svg;
}

std::string draw_curve(const Curve& curve, const Axes& axes) {
  std::string path;
  bool pen_down = false;
  for (const CurvePoint& p : curve.line) {
    if (!drawable(p)) {
      pen_down = false;
      continue;
    }
    path += str(pen_down ? "L" : "M", px(axes.x(p.x)), " ", px(axes.y(p.y)));
    pen_down = true;
  }
  std::string svg;
  if (!path.empty()) {
    svg += str("<path class=\"line c", curve.colour, curve.dashed ? " dashed" : "", "\" d=\"", path,
               "\"/>\n");
  }
  for (const CurvePoint& p : curve.marks) {
    if (!drawable(p)) continue;
    svg += str("<circle class=\"mark c", curve.colour, "\" cx=\"", px(axes.x(p.x)), "\" cy=\"",
               px(axes.y(p.y)), "\" r=\"4.5\"><title>", escape_html(curve.name), ", step ",
               short_number(p.x, 1), ": validation loss ", short_number(p.y, 4),
               "</title></circle>\n");
  }
  return svg;
}

// Names beside the ends of their curves, moved apart where they would overlap.
std::string draw_labels(const LineChart& chart, const Axes& axes) {
  struct Label {
    const Curve* curve;
    double x, y;
  };
  std::vector<Label> labels;
  for (const Curve& curve : chart.curves) {
    if (curve.name.empty() || curve.dashed) continue;
    const std::vector<CurvePoint>& points = curve.line.empty() ? curve.marks : curve.line;
    if (points.empty() || !drawable(points.back())) continue;
    labels.push_back({&curve, axes.x(points.back().x), axes.y(points.back().y)});
  }
  std::sort(labels.begin(), labels.end(), [](const Label& a, const Label& b) { return a.y < b.y; });
  const double gap = 17;
  const double lowest = kHeight - kBottom;
  for (std::size_t i = 1; i < labels.size(); ++i) {
    labels[i].y = std::max(labels[i].y, labels[i - 1].y + gap);
  }
  for (std::size_t i = labels.size(); i-- > 0;) {
    const double limit = i + 1 < labels.size() ? labels[i + 1].y - gap : lowest;
    labels[i].y = std::min(labels[i].y, limit);
  }
  std::string svg;
  for (const Label& label : labels) {
    svg += str("<text class=\"name t", label.curve->colour, "\" x=\"", px(label.x + 9), "\" y=\"",
               px(label.y + 4), "\" aria-hidden=\"true\">", escape_html(label.curve->name),
               "</text>\n");
  }
  return svg;
}

std::string legend(const LineChart& chart) {
  std::string html = "<ul class=\"legend\">\n";
  for (const Curve& curve : chart.curves) {
    if (curve.name.empty()) continue;
    html += str("<li><svg width=\"34\" height=\"12\" aria-hidden=\"true\"><path class=\"line c",
                curve.colour, curve.dashed ? " dashed" : "", "\" d=\"M2 6H32\"/>",
                curve.marks.empty() ? ""
                                    : str("<circle class=\"mark c", curve.colour,
                                          "\" cx=\"17\" cy=\"6\" r=\"4\"/>"),
                "</svg>", escape_html(curve.name), "</li>\n");
  }
  return html + "</ul>\n";
}

// What the picture shows, for those who do not see it.
std::string description(const LineChart& chart) {
  std::string text;
  for (const Curve& curve : chart.curves) {
    if (curve.name.empty() || curve.line.empty()) continue;
    text += str(curve.name, ": training loss from ", short_number(curve.line.front().y, 3), " to ",
                short_number(curve.line.back().y, 3), " at step ",
                short_number(curve.line.back().x, 1));
    if (!curve.marks.empty()) {
      text += str(", last validation loss ", short_number(curve.marks.back().y, 4));
    }
    text += ". ";
  }
  return text;
}

}  // namespace

std::string render_chart(const LineChart& chart, int index) {
  const Axes axes = axes_of(chart);
  std::string html = str("<figure>\n<figcaption><h3>", escape_html(chart.title), "</h3><p>",
                         escape_html(chart.caption), "</p></figcaption>\n", legend(chart),
                         "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"",
                         escape_html(chart.title), "\">\n<svg class=\"chart\" viewBox=\"0 0 ",
                         kWidth, " ", kHeight, "\" role=\"img\" aria-labelledby=\"chart", index,
                         "-title chart", index, "-desc\">\n<title id=\"chart", index, "-title\">",
                         escape_html(chart.title), "</title>\n<desc id=\"chart", index, "-desc\">",
                         escape_html(description(chart)), "</desc>\n");
  html += draw_axes(chart, axes);
  for (const Curve& curve : chart.curves) html += draw_curve(curve, axes);
  html += draw_labels(chart, axes);
  return html + "</svg>\n</div>\n</figure>\n";
}

}  // namespace adder::tools

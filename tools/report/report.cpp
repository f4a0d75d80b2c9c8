#include "tools/report/report.h"

#include <algorithm>

#include "engine/error.h"
#include "tools/console.h"
#include "tools/report/html.h"

namespace adder::tools {
namespace {

std::string section(const std::string& title, const std::string& caption,
                    const std::string& content) {
  return str("<section>\n<h2>", escape_html(title), "</h2>\n",
             caption.empty() ? "" : str("<p>", escape_html(caption), "</p>\n"), content,
             "</section>\n");
}

std::string colour_class(int colour) {
  return colour < 0 ? "" : str("c", colour);
}

std::string results_table(const Report& report) {
  std::string html = str(
      "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"",
      escape_html(report.results_title),
      "\">\n<table>\n<thead><tr><th scope=\"col\">Method</th><th scope=\"col\">Trained weights</th>"
      "<th scope=\"col\">Share</th><th scope=\"col\">Loss</th>"
      "<th scope=\"col\">Exact match</th><th scope=\"col\">Seconds</th></tr></thead>\n<tbody>\n");
  for (const ResultRow& row : report.results) {
    const double share =
        row.total > 0 ? 100.0 * static_cast<double>(row.trainable) / static_cast<double>(row.total)
                      : 0;
    const std::string percent = fixed_number(100 * row.exact_match, 1);
    html += str("<tr><th scope=\"row\"><span class=\"swatch ", colour_class(row.colour),
                "\"></span>", escape_html(row.method), "<span class=\"what\">",
                escape_html(row.trains), "</span></th><td>", grouped(row.trainable), "</td><td>",
                fixed_number(share, row.trainable == 0 ? 0 : 2), " %</td><td>",
                fixed_number(row.loss, 4), "</td><td class=\"score\"><b>", percent,
                " %</b><span class=\"bar\" aria-hidden=\"true\"><i class=\"",
                colour_class(row.colour), "\" style=\"width:", percent, "%\"></i></span></td><td>",
                row.trainable == 0 ? "–" : fixed_number(row.seconds, 1), "</td></tr>\n");
  }
  return html + "</tbody>\n</table>\n</div>\n";
}

// The text with what follows its first difference from `target` marked. Cuts between characters.
std::string compared(const std::string& text, const std::string& target) {
  std::size_t same = 0;
  while (same < text.size() && same < target.size() && text[same] == target[same]) ++same;
  const auto inside = [&](std::size_t i) {
    return i < text.size() && (static_cast<unsigned char>(text[i]) & 0xC0) == 0x80;
  };
  while (same > 0 && inside(same)) --same;
  const std::string rest = text.substr(same);
  return escape_html(text.substr(0, same)) +
         (rest.empty() ? "" : str("<mark>", escape_html(rest), "</mark>"));
}

std::string samples(const Report& report) {
  std::string html;
  for (const SampleOutput& sample : report.samples) {
    html += str("<div class=\"sample\"><dl>\n<dt>Record</dt><dd><code class=\"text\">",
                escape_html(sample.input), "</code></dd>\n<dt>Wanted</dt><dd class=\"text\">",
                escape_html(sample.target), "</dd>\n");
    for (const auto& [method, output] : sample.outputs) {
      const bool right = output == sample.target;
      html += str("<dt>", escape_html(method), "</dt><dd class=\"text\">",
                  right ? escape_html(output) : compared(output, sample.target),
                  right ? "<span class=\"tag right\">✓ exact</span>"
                        : "<span class=\"tag wrong\">✗ differs</span>",
                  "</dd>\n");
    }
    html += "</dl></div>\n";
  }
  return html;
}

std::string pairs_table(const std::string& title, const Report::Pairs& pairs) {
  std::string html = str("<div><h3>", escape_html(title), "</h3><table><tbody>\n");
  for (const auto& [key, value] : pairs) {
    html += str("<tr><th scope=\"row\">", escape_html(key), "</th><td>", escape_html(value),
                "</td></tr>\n");
  }
  return html + "</tbody></table></div>\n";
}

}  // namespace

std::string render_report(const Report& report) {
  std::string html =
      str("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
          "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>",
          escape_html(report.title), "</title>\n<style>", report_style(),
          "</style>\n</head>\n<body>\n<main>\n<header>\n<p class=\"kicker\">",
          escape_html(report.title), "</p>\n<h1>", escape_html(report.headline), "</h1>\n");
  for (const std::string& paragraph : report.summary) {
    html += str("<p>", escape_html(paragraph), "</p>\n");
  }
  html += "</header>\n";
  html += section(report.results_title, report.results_caption, results_table(report));
  std::string charts;
  for (std::size_t i = 0; i < report.charts.size(); ++i) {
    charts += render_chart(report.charts[i], static_cast<int>(i));
  }
  if (!charts.empty()) html += section("Loss curves", "", charts);
  if (!report.maps.empty()) {
    html += section("Selected channels and states", report.maps_caption, render_maps(report.maps));
  }
  if (!report.samples.empty()) {
    html += section("Sample outputs", report.samples_caption, samples(report));
  }
  std::string settings = "<div class=\"pairs\">\n";
  for (const auto& [title, pairs] : report.configuration) settings += pairs_table(title, pairs);
  settings += pairs_table("Wall time", report.timing) + "</div>\n";
  html += section("Configuration and timing", "", settings);
  return html +
         "<footer>Written by adder. This file is "
         "self-contained.</footer>\n</main>\n</body>\n</html>\n";
}

}  // namespace adder::tools

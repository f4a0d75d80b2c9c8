#include <algorithm>
#include <cmath>
#include <doctest/doctest.h>
#include <set>
#include <string>
#include <vector>

#include "engine/error.h"
#include "engine/io/file.h"
#include "tests/support/temp_directory.h"
#include "tools/report/html.h"
#include "tools/report/report.h"
#include "tools/report/run_files.h"

namespace adder::tools {
namespace {

const std::string kHostile = "<script>alert(\"x\")</script> & 'y' \x01\xFF";

Report sample_report() {
  Report report;
  report.title = "Title " + kHostile;
  report.headline = "Headline " + kHostile;
  report.summary = {"Summary " + kHostile};
  report.results_title = "Results " + kHostile;
  report.results_caption = kHostile;
  report.results = {{.method = "None " + kHostile, .trains = kHostile, .total = 100, .loss = 2},
                    {.method = "Some",
                     .trains = "few",
                     .colour = 2,
                     .trainable = 5,
                     .total = 100,
                     .loss = NAN,
                     .exact_match = 0.5,
                     .seconds = 3}};
  LineChart chart;
  chart.title = kHostile;
  chart.caption = kHostile;
  chart.x_label = chart.y_label = kHostile;
  chart.curves = {{.name = kHostile,
                   .colour = 1,
                   .line = {{1, 2}, {2, 0.5}, {3, NAN}, {4, 0}, {5, 0.1}},
                   .marks = {{5, 0.2}}},
                  {.name = "dashed", .colour = 2, .dashed = true, .line = {{1, 1}}, .marks = {}}};
  report.charts = {chart, {}};
  LayerMap map{.name = kHostile, .channels = 6, .states = 4, .strength = {}, .selected = {}};
  for (int i = 0; i < 24; ++i) map.strength.push_back(i == 3 ? NAN : static_cast<float>(i));
  map.selected = {{1, 0}, {1, 2}, {5, 3}, {5, 0}};
  report.maps = {map};
  report.samples = {{kHostile, "wanted " + kHostile, {{kHostile, "wanted <b>"}, {"M", "é"}}}};
  report.configuration = {{kHostile, {{kHostile, kHostile}}}};
  report.timing = {{"all", "1 s"}};
  return report;
}

// Every element that is opened is closed, in order; attributes' quotes are balanced.
void check_well_formed(const std::string& html) {
  const std::set<std::string> void_elements = {"meta", "!DOCTYPE", "br", "img"};
  std::vector<std::string> open;
  std::size_t at = 0;
  while ((at = html.find('<', at)) != std::string::npos) {
    const std::size_t end = html.find('>', at);
    REQUIRE(end != std::string::npos);
    std::string tag = html.substr(at + 1, end - at - 1);
    at = end + 1;
    const auto quotes = std::count(tag.begin(), tag.end(), '"');
    CHECK_MESSAGE(quotes % 2 == 0, tag);
    if (tag[0] == '/') {
      REQUIRE_MESSAGE(!open.empty(), tag);
      CHECK(open.back() == tag.substr(1));
      open.pop_back();
      continue;
    }
    const bool closed = tag.back() == '/';
    tag = tag.substr(0, tag.find_first_of(" /"));
    if (!closed && !void_elements.contains(tag)) open.push_back(tag);
    if (tag == "style") at = html.find("</style>", at);
  }
  CHECK(open.empty());
}

std::size_t count_of(const std::string& text, const std::string& part) {
  std::size_t count = 0;
  for (std::size_t at = 0; (at = text.find(part, at)) != std::string::npos; ++at) ++count;
  return count;
}

}  // namespace

TEST_CASE("report: text is escaped and made valid") {
  CHECK(escape_html("<a href='x'>\"&\"</a>") ==
        "&lt;a href=&#39;x&#39;&gt;&quot;&amp;&quot;&lt;/a&gt;");
  CHECK(escape_html("caf\xC3\xA9\n\t") == "caf\xC3\xA9\n\t");
  CHECK(escape_html("a\xFF\x01") == "a\xEF\xBF\xBD\xEF\xBF\xBD");
}

TEST_CASE("report: numbers") {
  CHECK(short_number(0.25, 4) == "0.25");
  CHECK(short_number(100, 2) == "100");
  CHECK(short_number(100, 0) == "100");
  CHECK(fixed_number(1.0 / 3, 3) == "0.333");
  CHECK(fixed_number(NAN, 3) == "–");
}

TEST_CASE("report: a running mean starts unbiased and follows the values") {
  const auto result = smoothed({{1, 4}, {2, 0}, {3, 0}}, 0.5);
  REQUIRE(result.size() == 3);
  CHECK(result[0].y == doctest::Approx(4));
  CHECK(result[1].y == doctest::Approx(2.0 / 1.5));
  CHECK(result[2].y == doctest::Approx(1.0 / 1.75));
  CHECK(smoothed({}, 0.5).empty());
}

TEST_CASE("report: well formed, self-contained, nothing unescaped") {
  const std::string html = render_report(sample_report());
  check_well_formed(html);
  CHECK(html.find("<script") == std::string::npos);
  CHECK(html.find('\xFF') == std::string::npos);
  CHECK(html.find("nan") == std::string::npos);
  CHECK(html.find("http") == std::string::npos);
  CHECK(html.find("src=") == std::string::npos);
  CHECK(html.find("url(") == std::string::npos);
  CHECK(html.find("@import") == std::string::npos);
  CHECK(count_of(html, "<svg") == count_of(html, "</svg>"));
  CHECK(count_of(html, "role=\"img\"") == 3);
  CHECK(html.find("<title id=\"chart0-title\">") != std::string::npos);
  CHECK(html.find("prefers-color-scheme: dark") != std::string::npos);
}

TEST_CASE("report: results are the numbers given") {
  const std::string html = render_report(sample_report());
  CHECK(html.find("5.00 %") != std::string::npos);
  CHECK(html.find("50.0 %") != std::string::npos);
  CHECK(html.find("2.0000") != std::string::npos);
}

TEST_CASE("report: an exact output is marked as such, the difference of another is shown") {
  Report report;
  report.samples = {{"in", "Same text", {{"good", "Same text"}, {"bad", "Same tent"}}}};
  const std::string html = render_report(report);
  CHECK(html.find("Same text<span class=\"tag right\">") != std::string::npos);
  CHECK(html.find("Same te<mark>nt</mark><span class=\"tag wrong\">") != std::string::npos);
}

TEST_CASE("report: the map lists what is selected") {
  const std::string html = render_report(sample_report());
  CHECK(html.find("2 of 6 channels train, with 2 of 4 states each") != std::string::npos);
  CHECK(html.find("<title>Channel 1, trained states 0, 2</title>") != std::string::npos);
  CHECK(html.find("<title>Channel 5, trained states 0, 3</title>") != std::string::npos);
  CHECK(html.find("<b>5</b> (0, 3)") != std::string::npos);
}

TEST_CASE("report: empty data does no harm") {
  check_well_formed(render_report({}));
  LineChart flat;
  flat.curves = {{.name = "flat", .line = {{0, 1}, {1, 1}}, .marks = {}}};
  const std::string html = render_chart(flat, 0);
  CHECK(html.find("inf") == std::string::npos);
  CHECK(html.find("nan") == std::string::npos);
}

TEST_CASE("report: curves come from a training log, a bad line is named") {
  const test::TempDirectory directory;
  const std::string& run = directory.path();
  const std::string path = join_path(run, "log.jsonl");
  write_file_atomic(path,
                    "{\"config\": {}}\n"
                    "{\"phase\": \"warm-up\", \"step\": 2, \"loss\": 3.5}\n"
                    "{\"phase\": \"selection\", \"warm_up_steps\": 2}\n"
                    "{\"phase\": \"train\", \"step\": 1, \"loss\": 2.5}\n"
                    "{\"phase\": \"eval\", \"step\": 1, \"eval_loss\": 2.25}\n");
  const RunCurves curves = read_curves(run);
  REQUIRE(curves.warm_up.size() == 1);
  CHECK(curves.warm_up[0].x == 2);
  CHECK(curves.warm_up[0].y == 3.5);
  REQUIRE(curves.train.size() == 1);
  CHECK(curves.train[0].y == 2.5);
  REQUIRE(curves.evaluations.size() == 1);
  CHECK(curves.evaluations[0].y == 2.25);
  write_file_atomic(path, "{\"config\": {}}\n{\"step\": \n");
  try {
    read_curves(run);
    FAIL("no error for a broken line");
  } catch (const IoError& error) {
    CHECK(std::string(error.what()).find("log.jsonl:2") != std::string::npos);
  }
  CHECK(read_maps(run).empty());
}

}  // namespace adder::tools

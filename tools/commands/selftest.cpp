// adder selftest: the operations' own cases on this machine.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <set>

#include "autograd/op_cases.h"
#include "engine/device_runtime.h"
#include "engine/text/suggest.h"
#include "tools/commands/commands.h"
#include "tools/commands/common.h"
#include "tools/console.h"
#include "tools/exit_codes.h"

namespace adder::tools {
namespace {

constexpr double kGradientTolerance = 1e-7;
constexpr std::uint64_t kSeed = 7;

struct Options {
  std::string op;
  std::string device = "cpu";
  int threads = 0;
  bool json = false;
};

struct Row {
  std::string op, name;
  double gradient = -1;  // worst error of the float64 gradient; negative: not checked
  double float32 = 0;    // worst error of float32 against float64
  double tolerance = 0;
  double seconds = 0;
  bool passed = false;
};

// Float32 on the device against float64 on the CPU; on the CPU also the gradients in float64.
Row check(const OpCase& op_case, Device device) {
  Row row{op_case.op, op_case.name, -1, 0, op_case.tolerance_f32, 0, true};
  const auto start = std::chrono::steady_clock::now();
  if (!op_case.benchmark && device.is_cpu()) {
    row.gradient = gradcheck(op_case, kSeed).worst;
    row.passed = row.gradient <= kGradientTolerance;  // false for NaN
  }
  const OpResult exact = run_case(op_case, make_case_inputs(op_case, Dtype::f64, kSeed), kSeed);
  std::vector<Tensor> inputs = make_case_inputs(op_case, Dtype::f32, kSeed);
  for (Tensor& input : inputs) input = input.to(device);
  const OpResult single = run_case(op_case, inputs, kSeed);
  const auto compare = [&](const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
    for (std::size_t i = 0; i < a.size(); ++i) {
      const double error = relative_error(a[i], b[i]);
      if (!(error <= row.float32)) row.float32 = error;
      row.passed = row.passed && error <= row.tolerance;
    }
  };
  compare(single.outputs, exact.outputs);
  compare(single.gradients, exact.gradients);
  row.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return row;
}

std::string table_line(const std::vector<std::string>& cells) {
  const std::size_t widths[] = {18, 34, 12, 12, 12, 0};
  std::string line;
  for (std::size_t i = 0; i < cells.size(); ++i) {
    line += cells[i];
    if (cells[i].size() < widths[i]) line.append(widths[i] - cells[i].size(), ' ');
    if (i + 1 < cells.size()) line += ' ';
  }
  return line + "\n";
}

int run(const Options& options) {
  const Device device = choose_device(options.device, options.threads);
  std::vector<OpCase> cases = all_op_cases();
  if (!options.op.empty()) {
    std::set<std::string> unique;
    for (const OpCase& op_case : cases) unique.insert(op_case.op);
    if (!unique.contains(options.op)) {
      const std::vector<std::string> names(unique.begin(), unique.end());
      throw ConfigError(
          str("selftest: unknown operation \"", options.op, "\"", did_you_mean(options.op, names)));
    }
    std::erase_if(cases, [&](const OpCase& op_case) { return op_case.op != options.op; });
  }
  const InterruptScope interrupt;
  Status status;
  if (!device.is_cpu() && runtime_of(device).emulated) {
    status.message("the device is emulated: cases of realistic size are left out");
    std::erase_if(cases, [](const OpCase& op_case) { return op_case.benchmark; });
  }
  std::vector<Row> rows;
  for (const OpCase& op_case : cases) {
    if (interrupt.flag()) return kExitInterrupted;
    status.update(str("checking ", op_case.op, " ", op_case.name));
    rows.push_back(check(op_case, device));
  }
  status.clear();
  const auto failed =
      std::count_if(rows.begin(), rows.end(), [](const Row& r) { return !r.passed; });
  if (options.json) {
    OrderedJson json;
    json["cases"] = OrderedJson::array();
    for (const Row& row : rows) {
      OrderedJson item;
      item["op"] = row.op;
      item["case"] = row.name;
      item["gradient_error"] = row.gradient < 0 ? OrderedJson() : OrderedJson(row.gradient);
      item["float32_error"] = row.float32;
      item["float32_tolerance"] = row.tolerance;
      item["passed"] = row.passed;
      json["cases"].push_back(item);
    }
    json["passed"] = static_cast<std::int64_t>(rows.size()) - failed;
    json["failed"] = failed;
    print_json(json);
  } else {
    print(table_line({"operation", "case", "gradient", "float32", "allowed", ""}));
    for (const Row& row : rows) {
      print(table_line({row.op, row.name, row.gradient < 0 ? "-" : number_text(row.gradient),
                        number_text(row.float32), number_text(row.tolerance),
                        row.passed ? "ok" : "FAILED"}));
    }
    print(str(rows.size() - static_cast<std::size_t>(failed), " passed, ", failed, " failed\n"));
  }
  if (failed == 0) return kExitOk;
  throw NumericError(str("selftest: ", failed, " of ", rows.size(), " cases failed"));
}

}  // namespace

Command add_selftest(CLI::App& parent) {
  auto options = std::make_shared<Options>();
  CLI::App* app = parent.add_subcommand("selftest", "Check every operation on this machine");
  app->add_option("--op", options->op, "only this operation");
  add_machine_options(*app, options->device, options->threads);
  app->add_flag("--json", options->json, "print one JSON object");
  app->footer("Example:\n  adder selftest --op selective_scan");
  return {app, [options] { return run(*options); }};
}

}  // namespace adder::tools

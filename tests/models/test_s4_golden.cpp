// The S4 layers against numbers that others computed: the standard-library reference's example, and
// PyTorch's forward passes and gradients of the official equations.
#include <doctest/doctest.h>
#include <fstream>
#include <nlohmann/json.hpp>

#include "autograd/op_cases.h"
#include "autograd/ops.h"
#include "autograd/s4_ops.h"
#include "models/s4_dplr.h"
#include "models/s4_init.h"
#include "tests/support/golden.h"

using namespace adder;
using namespace adder::test;
using nlohmann::json;

namespace {

const Dtype kTypes[] = {Dtype::f64, Dtype::f32};

double tolerance(Dtype dtype) {
  return dtype == Dtype::f64 ? 1e-12 : 2e-5;
}

json example() {
  std::ifstream file(golden_path("s4_example.json"));
  REQUIRE(file);
  return json::parse(file);
}

void flatten(const json& value, std::vector<double>& to) {
  if (value.is_number()) {
    to.push_back(value.get<double>());
  } else {
    for (const json& each : value) flatten(each, to);
  }
}

Tensor tensor(const json& value, Shape shape, Dtype dtype = Dtype::f64) {
  std::vector<double> values;
  flatten(value, values);
  REQUIRE(static_cast<std::int64_t>(values.size()) == shape.numel());
  return Tensor::from(shape, values).to(dtype);
}

// |actual - expected| / |expected| in the Euclidean norm, whatever the shapes of as many elements.
double error(const Tensor& actual, const Tensor& expected) {
  REQUIRE(actual.numel() == expected.numel());
  return relative_error(actual.contiguous().reshape({-1}), expected.contiguous().reshape({-1}));
}

// exp of a parameter's negative real parts, and plus or minus its imaginary parts, of (.., 2).
Tensor part(const Tensor& pairs, int which, double sign) {
  const Tensor values = pairs.select(pairs.rank() - 1, which).contiguous().clone();
  values.scale_(sign);
  return values;
}

// y = 2 Re C x + D u step by step, u (B, H, L).
Tensor by_steps(const S4Modes& modes, const Tensor& C, const Tensor& D, const Tensor& u,
                const Tensor& state) {
  const Tensor y = Tensor::empty({u.dim(0), C.dim(0), u.dim(1), u.dim(2)}, u.dtype());
  for (std::int64_t t = 0; t < u.dim(2); ++t) {
    const Tensor now = Tensor::empty({u.dim(0), C.dim(0), u.dim(1)}, u.dtype());
    kernel::s4_step(
        {}, {u.select(2, t).contiguous(), modes.p.value(), modes.b.value(), C, D, state, now});
    y.select(3, t).copy_from(now);
  }
  return y;
}

}  // namespace

TEST_CASE("the deep-S4 layer of the example: kernel, states, outputs, gradients, sparse updates") {
  const json a = example()["A_deep_s4_peft_layer"];
  const json& params = a["params"];
  const std::int64_t B = a["batch"];
  const std::int64_t H = a["H"];
  const std::int64_t N = a["N"];
  const std::int64_t L = a["L"];
  for (const Dtype dtype : kTypes) {
    CAPTURE(dtype_name(dtype));
    const double bound = tolerance(dtype);
    const auto leaf = [&](const json& value, Shape shape) {
      return Var::leaf(tensor(value, shape, dtype));
    };
    const Var log_A_real = leaf(params["log_A_real"], {H, N});
    const Var A_imag = leaf(params["A_imag"], {H, N});
    const Var log_dt = leaf(params["log_dt"], {H});
    const Var C = leaf(params["C"], {1, H, N, 2});
    const Var D = leaf(params["D"], {1, H});
    const Var W = leaf(params["W"], {H, H});
    const Var bias = leaf(params["b"], {H});
    const Var u = leaf(a["u"], {B, H, L});
    const Tensor target = tensor(a["target"], {B, H, L});
    for (const bool scan : {false, true}) {
      CAPTURE(scan);
      Tape tape;
      const S4Modes modes = s4_discretize({log_A_real, A_imag, log_dt, {}}, {});
      const Var K = s4_kernel(modes, C, L);
      CHECK(error(K.value(), tensor(a["kernel"], {H, L})) <= bound);
      const Tensor q = modes.p.value().clone();
      for (std::int64_t i = 0; i < q.numel(); i += 2) q.data<double>()[i] += 1;
      CHECK(error(q, tensor(a["dA"], {H, N, 2})) <= bound);
      CHECK(error(modes.b.value(), tensor(a["dB"], {H, N, 2})) <= bound);

      Var y;
      if (scan) {
        const S4ScanResult result = s4_scan(u, modes, C, D);
        CHECK(error(result.x_last.value(), tensor(a["final_state"], {B, H, N, 2})) <= bound);
        y = result.y;
      } else {
        y = s4_convolve(u, K, D);
      }
      CHECK(error(y.value(), tensor(a["y_ssm_plus_D"], {B, H, L})) <= bound);
      CHECK(error(y.value(), tensor(a["y_recurrent"], {B, H, L})) <= bound);
      const Var z = linear(transpose(reshape(y, {B, H, L}), 1, 2), W, bias);  // (B, L, H)
      const Tensor z_bhl = z.value().transpose(1, 2).contiguous();
      CHECK(error(z_bhl, tensor(a["pre_relu"], {B, H, L})) <= bound);

      // The rectifier and the squared error, by hand.
      const auto count = static_cast<double>(B * H * L);
      const Tensor out = z_bhl.to(Dtype::f64).clone();
      const Tensor dz = Tensor::empty({B, H, L}, Dtype::f64);
      double loss = 0;
      for (std::int64_t i = 0; i < out.numel(); ++i) {
        double& value = out.data<double>()[i];
        value = value > 0 ? value : 0;
        const double gap = value - target.data<double>()[i];
        loss += gap * gap / count;
        dz.data<double>()[i] = value > 0 ? 2 * gap / count : 0;
      }
      CHECK(error(out, tensor(a["out"], {B, H, L})) <= bound);
      CHECK(std::abs(loss - a["mse"].get<double>()) <= bound * a["mse"].get<double>());
      tape.backward(std::vector<Var>{z}, {dz.transpose(1, 2).contiguous().to(dtype)});
      const json& g = a["grads"];
      const double gradient_bound = dtype == Dtype::f64 ? 1e-12 : 2e-5;
      const auto check = [&](const char* name, const Var& variable, const json& expected) {
        CAPTURE(name);
        CHECK(error(variable.grad(), tensor(expected, variable.shape())) <= gradient_bound);
        variable.slot()->clear();
      };
      check("b", bias, g["b"]);
      check("W", W, g["W"]);
      check("D", D, g["D"]);
      check("u", u, g["u"]);
      check("C", C, g["C"]);
      check("log_A_real", log_A_real, g["log_A_real"]);
      check("A_imag", A_imag, g["A_imag"]);
      check("log_dt", log_dt, g["log_dt"]);
    }

    // The gradient of the kernel itself.
    {
      Tape tape;
      const Var K = Var::leaf(tensor(a["kernel"], {1, H, L}, dtype));
      const Var y = s4_convolve(Var(u.value()), K, Var(D.value()));
      const Var z =
          linear(transpose(reshape(y, {B, H, L}), 1, 2), Var(W.value()), Var(bias.value()));
      const Tensor dz = Tensor::empty({B, L, H}, Dtype::f64);
      for (std::int64_t b = 0; b < B; ++b) {
        for (std::int64_t t = 0; t < L; ++t) {
          for (std::int64_t h = 0; h < H; ++h) {
            const double value = a["pre_relu"][b][h][t];
            const double gap = value - target.item((b * H + h) * L + t);
            dz.data<double>()[(b * L + t) * H + h] =
                value > 0 ? 2 * gap / static_cast<double>(B * H * L) : 0;
          }
        }
      }
      tape.backward(std::vector<Var>{z}, {dz.to(dtype)});
      CHECK(error(K.grad(), tensor(a["grads"]["K"], {H, L})) <= bound);
    }

    // Displacements of selected entries, and a state whose C is zero.
    const auto displaced = [&](const Tensor& base, const json& deltas, std::int64_t width) {
      const Tensor value = base.to(Dtype::f64).clone();
      const json& sdt = a["sdt"];
      for (std::size_t i = 0; i < sdt["update_channels"].size(); ++i) {
        const std::int64_t h = sdt["update_channels"][i];
        for (std::size_t j = 0; j < sdt["update_states"][i].size(); ++j) {
          const std::int64_t n = sdt["update_states"][i][j];
          std::vector<double> delta;
          flatten(deltas[i][j], delta);
          for (std::int64_t k = 0; k < width; ++k) {
            value.data<double>()[(h * N + n) * width + k] += delta[static_cast<std::size_t>(k)];
          }
        }
      }
      return value.to(dtype);
    };
    const json& sdt = a["sdt"];
    const S4Modes moved = s4_discretize({displaced(log_A_real.value(), sdt["dlog_A_real"], 1),
                                         displaced(A_imag.value(), sdt["dA_imag"], 1),
                                         log_dt.value(),
                                         {}},
                                        {});
    const Var K = s4_kernel(moved, displaced(C.value(), sdt["dC"], 2), L);
    CHECK(error(K.value(), tensor(sdt["kernel"], {H, L})) <= bound);
    const Var y = s4_convolve(u.value(), K, D.value());
    const Tensor z = linear(Var(y.value().reshape({B, H, L}).transpose(1, 2).contiguous()),
                            W.value(), bias.value())
                         .value();
    const Tensor out = z.transpose(1, 2).contiguous().to(Dtype::f64);
    for (std::int64_t i = 0; i < out.numel(); ++i) {
      out.data<double>()[i] = std::max(out.data<double>()[i], 0.0);
    }
    CHECK(error(out, tensor(sdt["out"], {B, H, L})) <= bound);
    const Tensor zeroed = C.value().clone();
    zeroed.select(1, 1).select(1, 3).fill(0);
    const S4Modes modes =
        s4_discretize({log_A_real.value(), A_imag.value(), log_dt.value(), {}}, {});
    CHECK(error(s4_kernel(modes, zeroed, L).value(), tensor(a["zeroed_state"]["kernel"], {H, L})) <=
          bound);
  }
}

TEST_CASE("the official diagonal layer of the example: zoh, bilinear, dss, both directions") {
  const json b = example()["B_official_diag"];
  for (const Dtype dtype : kTypes) {
    for (const char* which : {"h0", "h1"}) {
      const json& e = b[which];
      const auto L = static_cast<std::int64_t>(e["u"].size());
      const auto N = static_cast<std::int64_t>(e["A"].size());
      const Tensor A = tensor(e["A"], {1, N, 2}, dtype);
      const Tensor B = tensor(e["B"], {1, N, 2}, dtype);
      const Tensor C = tensor(e["C"], {1, 1, N, 2}, dtype);
      const Tensor u = tensor(e["u"], {1, 1, L}, dtype);
      const Tensor dt = tensor(e["dt"], {1}, dtype);
      for (const auto& [name, method] : {std::pair{"zoh", S4Method::zoh},
                                         {"bilinear", S4Method::bilinear},
                                         {"dss", S4Method::dss}}) {
        CAPTURE(dtype_name(dtype));
        CAPTURE(which);
        CAPTURE(name);
        const S4Options options{.method = method,
                                .real = S4Transform::none,
                                .dt = S4Transform::none,
                                .imag_sign = -1,
                                .length = L};
        const S4Modes modes = s4_discretize({part(A, 0, -1), part(A, 1, -1), dt, B}, options);
        const Var K = s4_kernel(modes, C, L);
        const std::string suffix = std::string("_") + name;
        CHECK(error(K.value(), tensor(e["K" + suffix], {L})) <= tolerance(dtype));
        const Tensor y = tensor(e["y" + suffix], {L});
        CHECK(error(s4_convolve(u, K, {}).value(), y) <= tolerance(dtype));
        if (method == S4Method::dss) continue;
        const Tensor state = tensor(e["final_state" + suffix], {N, 2});
        const S4ScanResult scan = s4_scan(u, modes, C, {});
        CHECK(error(scan.y.value(), y) <= tolerance(dtype));
        CHECK(error(scan.x_last.value(), state) <= tolerance(dtype));
        const Tensor x = Tensor::zeros({1, 1, N, 2}, dtype);
        CHECK(error(by_steps(modes, C, {}, u, x), y) <= tolerance(dtype));
        CHECK(error(x, state) <= tolerance(dtype));
      }
    }
    const json& two = b["bidirectional"];
    const auto L = static_cast<std::int64_t>(two["u"].size());
    const Tensor K = Tensor::empty({2, 1, L}, dtype);
    K.slice(0, 0, 1).copy_from(tensor(two["k_fwd"], {1, 1, L}, dtype));
    K.slice(0, 1, 2).copy_from(tensor(two["k_bwd"], {1, 1, L}, dtype));
    const Tensor y = s4_convolve(tensor(two["u"], {1, 1, L}, dtype), K, {}, true).value();
    CHECK(error(y, tensor(two["y"], {L})) <= tolerance(dtype));
  }
}

TEST_CASE("the low-rank layer of the example: HiPPO, stored C, dense system, kernel, steps") {
  const json c = example()["C_dplr_legs"];
  const std::int64_t M = 4;
  const HippoSystem hippo = hippo_system(HippoMeasure::legs, M);
  CHECK(error(hippo.A, tensor(c["hippo_A"], {M, M})) <= 1e-12);
  CHECK(error(hippo.B, tensor(c["hippo_B"], {M})) <= 1e-12);
  const S4Nplr legs = s4_nplr(HippoMeasure::legs, M, 1);
  CHECK(error(legs.A, tensor(c["Lambda"], {2, 2})) <= 1e-12);
  CHECK(error(legs.B, tensor(c["B"], {2, 2})) <= 1e-12);
  CHECK(error(legs.P, tensor(c["P"], {2, 2})) <= 1e-12);
  // The eigenvalue 0 of the Fourier matrix is compared beside pi.
  CHECK(error(s4_nplr(HippoMeasure::legt, M, 2).A, tensor(c["eig_legt"], {2, 2})) <= 1e-12);
  CHECK(error(s4_nplr(HippoMeasure::fourier, M, 1).A, tensor(c["eig_fout"], {2, 2})) <= 1e-12);
  for (const Dtype dtype : kTypes) {
    for (const char* which : {"h0", "h1"}) {
      CAPTURE(dtype_name(dtype));
      CAPTURE(which);
      const double bound = tolerance(dtype);
      const json& e = c[which];
      const auto L = static_cast<std::int64_t>(e["u"].size());
      const S4Options options{.method = S4Method::bilinear,
                              .real = S4Transform::none,
                              .dt = S4Transform::none,
                              .imag_sign = -1};
      const S4DplrSystem system{part(legs.A, 0, -1).reshape({1, 2}).to(dtype),
                                part(legs.A, 1, -1).reshape({1, 2}).to(dtype),
                                tensor(e["dt"], {1}, dtype),
                                legs.B.reshape({1, 2, 2}).to(dtype),
                                legs.P.reshape({1, 1, 2, 2}).to(dtype),
                                options};
      const Tensor C = tensor(e["C"], {1, 1, 2, 2}, dtype);
      const Tensor stored = s4_dplr_store(system, C, L);
      CHECK(error(stored, tensor(e["C_tilde"], {2, 2})) <= bound);
      const S4DplrDense dense = s4_dplr_dense(system, 0);
      CHECK(error(dense.A, tensor(e["dA"], {4, 4, 2})) <= bound);
      CHECK(error(dense.B, tensor(e["dB"], {4, 2})) <= bound);
      const Var K = s4_dplr_kernel({system.A_real, system.A_imag, system.dt, system.B, system.P},
                                   stored, options, L, L);
      CHECK(error(K.value(), tensor(e["K"], {L})) <= bound);
      const Tensor u = tensor(e["u"], {1, 1, L}, dtype);
      CHECK(error(s4_convolve(u, K, {}).value(), tensor(e["y"], {L})) <= bound);

      CHECK(error(s4_dplr_restore(system, stored, L), C) <= (dtype == Dtype::f64 ? 1e-11 : 1e-4));
      CHECK(error(s4_dplr_double(system, stored, L), s4_dplr_store(system, C, 2 * L)) <= bound);
      S4DplrStepArgs step = s4_dplr_step_coefficients(system, C);
      step.s = Tensor::zeros({1, 1, 2, 2}, dtype);
      step.scratch = Tensor::empty({2, 1, 1, 2, 2}, Dtype::f64);
      const Tensor y = Tensor::empty({L}, dtype);
      for (std::int64_t t = 0; t < L; ++t) {
        step.u = u.select(2, t).contiguous();
        step.y = Tensor::empty({1, 1, 1}, dtype);
        kernel::s4_dplr_step({}, step);
        y.slice(0, t, t + 1).copy_from(step.y.reshape({1}));
      }
      CHECK(error(y, tensor(e["y_recurrent"], {L})) <= bound);
    }
  }
}

TEST_CASE("kernel, output and every gradient equal PyTorch's") {
  const SafetensorsFile file = SafetensorsFile::open(golden_path("s4.safetensors"));
  for (const Dtype dtype : kTypes) {
    for (const std::string name : {"zoh", "bilinear", "long", "legs", "legt"}) {
      CAPTURE(dtype_name(dtype));
      CAPTURE(name);
      const bool low_rank = name == "legs" || name == "legt";
      const auto load = [&](const std::string& key) {
        return file.load(str(name, "/", key)).to(dtype);
      };
      const auto leaf = [&](const std::string& key) { return Var::leaf(load(key)); };
      const Var A_real = leaf("A_real");
      const Var A_imag = leaf("A_imag");
      const Var dt = leaf("dt");
      const Var B = leaf("B");
      const Var C = leaf(low_rank ? "C_stored" : "C");
      const Var D = leaf("D");
      const Var u = leaf("u");
      const std::int64_t L = u.dim(2);
      Tape tape;
      Var K;
      Var P;
      const S4Options options{
          .method = name == "zoh" || name == "long" ? S4Method::zoh : S4Method::bilinear,
          .imag_sign = name == "zoh" || name == "long" ? 1.0 : -1.0};
      if (low_rank) {
        P = leaf("P");
        K = s4_dplr_kernel({A_real, A_imag, dt, B, P}, C, options, L, L);
      } else {
        const S4Modes modes = s4_discretize({A_real, A_imag, dt, B}, options);
        K = s4_kernel(modes, C, L);
        const S4Modes fixed{modes.log_q.value(), modes.p.value(), modes.b.value()};
        const Tensor scanned = s4_scan(u.value(), fixed, C.value(), D.value()).y.value();
        CHECK(error(scanned, load("y")) <= tolerance(dtype));
      }
      CHECK(error(K.value(), file.load(name + "/K")) <= tolerance(dtype));
      const Var y = s4_convolve(u, K, D);
      CHECK(error(y.value(), file.load(name + "/y")) <= tolerance(dtype));
      tape.backward(std::vector<Var>{y}, {load("w").reshape(y.shape())});
      for (const auto& [key, variable] : {std::pair<std::string, Var>{"A_real", A_real},
                                          {"A_imag", A_imag},
                                          {"dt", dt},
                                          {"B", B},
                                          {low_rank ? "C_stored" : "C", C},
                                          {"D", D},
                                          {"u", u},
                                          {"P", P}}) {
        if (!variable.defined()) continue;
        CAPTURE(key);
        const Tensor expected = file.load(name + "/grad/" + key);
        CHECK(error(variable.grad(), expected) <= (dtype == Dtype::f64 ? 1e-10 : 5e-5));
      }
      if (!low_rank) continue;
      const S4DplrSystem system{A_real.value(), A_imag.value(), dt.value(),
                                B.value(),      P.value(),      options};
      const Tensor stored = s4_dplr_store(system, load("C"), L);
      CHECK(error(stored, file.load(name + "/C_stored")) <= 1e-6);  // which was rounded
      for (std::int64_t h = 0; h < dt.dim(0); ++h) {
        const S4DplrDense dense = s4_dplr_dense(system, h);
        CHECK(error(dense.A, file.load(name + "/Ad").select(0, h)) <= tolerance(dtype));
        CHECK(error(dense.B, file.load(name + "/Bd").select(0, h)) <= tolerance(dtype));
      }
    }
  }
}

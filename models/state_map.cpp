#include "models/state_map.h"

namespace adder {
namespace {

// Real or imaginary part (channels, states) of a complex matrix (channels, states, 2).
Var part(const Var& x, std::int64_t which) {
  return reshape(slice(x, 2, which, which + 1), {x.dim(0), x.dim(1)});
}

Var complex_product(const Var& a, const Var& b) {
  const Var ar = part(a, 0);
  const Var ai = part(a, 1);
  const Var br = part(b, 0);
  const Var bi = part(b, 1);
  const Shape column{a.dim(0), b.dim(1), 1};
  const Var re = reshape(sub(matmul(ar, br), matmul(ai, bi)), column);
  const Var im = reshape(add(matmul(ar, bi), matmul(ai, br)), column);
  return concat_last({re, im});
}

}  // namespace

std::int64_t StateMap::rows() const {
  return base->value().numel() / (states() * (is_complex() ? 2 : 1));
}

Var StateMap::operator()() const {
  Var value = base->var();
  for (const StateBranch& branch : branches) {
    const Var product = is_complex() ? complex_product(branch.U->var(), branch.V->var())
                                     : matmul(branch.U->var(), branch.V->var());
    const Var shaped = product.shape() == value.shape() ? product : reshape(product, value.shape());
    value = add(value, branch.scale == 1 ? shaped : scale(shaped, branch.scale));
  }
  return value;
}

Tensor StateMap::merged() const {
  const Tape::Pause pause;
  return (*this)().value().clone();
}

}  // namespace adder

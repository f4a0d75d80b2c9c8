#include "autograd/tape.h"

#include "engine/error.h"

namespace adder {
namespace {
thread_local Tape* current_tape = nullptr;
}

Tape::Tape() : previous_(current_tape) {
  current_tape = this;
}

Tape::~Tape() {
  current_tape = previous_;
}

Tape::Pause::Pause() : previous_(current_tape) {
  current_tape = nullptr;
}

Tape::Pause::~Pause() {
  current_tape = previous_;
}

bool Tape::needs_grad(std::initializer_list<const Var*> inputs) {
  if (current_tape == nullptr) return false;
  for (const Var* input : inputs) {
    if (input->requires_grad()) return true;
  }
  return false;
}

bool Tape::recording() {
  return current_tape != nullptr;
}

void Tape::record(const char* name, std::function<void()> backward) {
  current_tape->steps_.push_back({name, std::move(backward)});
}

void Tape::run() {
  const Pause pause;  // gradients of gradients are not recorded
  while (!steps_.empty()) {
    const Step step = std::move(steps_.back());
    steps_.pop_back();
    step.backward();
  }
}

void Tape::backward(const Var& loss, double seed) {
  if (loss.value().numel() != 1) {
    throw ShapeError(str("backward: the loss is ", loss.shape(), ", expected one element"));
  }
  if (loss.requires_grad()) {
    const bool first = !loss.grad().defined();
    loss.slot()->accumulate(Tensor::full(loss.shape(), seed, loss.dtype(), loss.value().device()));
    if (first) loss.slot()->set_known_seed(Tensor::full({}, seed, loss.dtype()).item());
  }
  run();
}

void Tape::backward(const std::vector<Var>& outputs, const std::vector<Tensor>& gradients) {
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    if (outputs[i].requires_grad() && gradients[i].defined()) {
      outputs[i].slot()->accumulate(gradients[i]);
    }
  }
  run();
}

std::vector<Var> recompute(const std::function<std::vector<Var>(const std::vector<Var>&)>& function,
                           const std::vector<Var>& inputs) {
  if (current_tape == nullptr) return function(inputs);
  std::vector<Var> results;
  {
    const Tape::Pause pause;
    results = function(inputs);
  }
  // Which outputs depend on a trainable tensor is not known without recording, so all of them get a
  // slot; the second run finds out.
  std::vector<Var> outputs;
  std::vector<SlotPtr> slots;
  for (const Var& result : results) {
    outputs.push_back(Var::leaf(result.value()));
    slots.push_back(outputs.back().slot());
  }
  Tape::record("recompute", [function, inputs, slots] {
    std::vector<Tensor> gradients;
    for (const SlotPtr& slot : slots) gradients.push_back(slot->take());
    std::vector<Var> leaves;
    for (const Var& input : inputs) {
      leaves.push_back(input.requires_grad() ? Var::leaf(input.value()) : input);
    }
    Tape tape;
    const std::vector<Var> again = function(leaves);
    tape.backward(again, gradients);
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      if (!inputs[i].requires_grad()) continue;
      const Tensor gradient = leaves[i].slot()->take();
      if (gradient.defined()) inputs[i].slot()->accumulate(gradient);
    }
  });
  return outputs;
}

}  // namespace adder

#include <cstdlib>
#include <numeric>

#include "tests/simt/internal.h"

namespace simt {
namespace {

Order from_environment() {
  const char* text = std::getenv("ADDER_SIMT_ORDER");
  return text == nullptr || *text == '\0' ? Order{} : parse_order(text);
}

struct State {
  Order order = from_environment();
  std::uint64_t random = order.seed;
};

State& state() {
  static State instance;
  return instance;
}

}  // namespace

void set_order(Order order) {
  state() = {order, order.seed};
}
Order order() {
  return state().order;
}

std::string order_name(Order order) {
  switch (order.kind) {
    case Order::Kind::forward:
      return "forward";
    case Order::Kind::reverse:
      return "reverse";
    case Order::Kind::random:
      break;
  }
  return "random:" + std::to_string(order.seed);
}

Order parse_order(const std::string& text) {
  if (text == "forward") return {Order::Kind::forward, 0};
  if (text == "reverse") return {Order::Kind::reverse, 0};
  const std::string random = "random:";
  if (text.rfind(random, 0) == 0 && text.size() > random.size() &&
      text.find_first_not_of("0123456789", random.size()) == std::string::npos) {
    return {Order::Kind::random, std::stoull(text.substr(random.size()))};
  }
  throw std::invalid_argument("ADDER_SIMT_ORDER: " + text +
                              " is not forward, reverse or random:SEED");
}

std::vector<Order> all_orders() {
  return {{Order::Kind::forward, 0},
          {Order::Kind::reverse, 0},
          {Order::Kind::random, 1},
          {Order::Kind::random, 2},
          {Order::Kind::random, 3}};
}

std::uint64_t next_random() {
  std::uint64_t z = (state().random += 0x9e3779b97f4a7c15ULL);
  z = (z ^ (z >> 30U)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27U)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31U);
}

void next_turns(std::vector<unsigned>& turns, unsigned count) {
  const Order::Kind kind = state().order.kind;
  if (turns.size() != count) {
    turns.resize(count);
    if (kind == Order::Kind::reverse) {
      std::iota(turns.rbegin(), turns.rend(), 0U);
    } else {
      std::iota(turns.begin(), turns.end(), 0U);
    }
  }
  if (kind != Order::Kind::random) return;
  for (unsigned left = count; left > 1; --left) {
    const std::uint64_t pick = ((next_random() >> 32U) * left) >> 32U;
    std::swap(turns[left - 1], turns[pick]);
  }
}

}  // namespace simt

// How a test steers the emulator. Nothing here exists under nvcc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace simt {

// A kernel did what hardware does not forgive, or forgives only sometimes. Thrown out of the
// launch, or in queued mode out of the call that ran the queue; the block's other threads are
// unwound first.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// In which order the threads of a block, and the blocks of a grid, get their turns.
struct Order {
  enum class Kind : std::uint8_t { forward, reverse, random };
  Kind kind = Kind::forward;
  std::uint64_t seed = 0;  // of random
};

// Process-wide; the first value comes from ADDER_SIMT_ORDER=forward|reverse|random:SEED. Setting it
// also restarts the random numbers, so that a test is reproducible by itself.
void set_order(Order order);
Order order();
std::string order_name(Order order);
Order parse_order(const std::string& text);  // throws std::invalid_argument

// What a kernel test goes through: forward, reverse and three random orders.
std::vector<Order> all_orders();

// Calls test(order) in each of them, and restores the order that was set.
template <typename Test>
void in_all_orders(Test&& test) {
  struct Restore {
    Order before = order();
    ~Restore() { set_order(before); }
  } restore;
  for (const Order each : all_orders()) {
    set_order(each);
    test(each);
  }
}

// Queued mode: work of a stream waits until a synchronisation needs it, and then runs, with what it
// depends on and nothing else. Off: work runs at once. The first value is ADDER_SIMT_ASYNC=1's.
void set_queued(bool queued);
bool queued();

// Device memory: its size, to test running out of it, and what is allocated now. The first size is
// ADDER_SIMT_MEMORY's bytes, or 4 GiB.
void set_device_memory(std::size_t bytes);
std::size_t device_bytes_in_use();

// Under ASan, device memory is poisoned whenever no kernel or copy runs, so that host code that
// dereferences a device pointer is reported. On by default; ADDER_SIMT_GUARD=0 turns it off.
void set_host_guard(bool on);

// Number of fiber resumptions so far, to measure what they cost.
std::uint64_t switches();

}  // namespace simt

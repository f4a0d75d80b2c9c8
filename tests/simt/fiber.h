// Fibers: functions with stacks of their own that hand control to and fro on one OS thread.
#pragma once

#include <cstddef>

namespace simt {

// Runs job(argument) each time it is resumed after having finished: a fiber outlives the threads it
// emulates, because creating one (a stack, and under ASan a fake stack) costs far more than a
// switch.
class Fiber {
 public:
  using Job = void (*)(void* argument);
  Fiber(Job job, void* argument, unsigned number);
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  void resume();   // from the scheduler: runs the fiber until it suspends or its job ends
  void suspend();  // from the fiber itself: back to where resume() was called

 private:
  [[noreturn]] static void main();
  void switch_in();
  void switch_out();

  Job job_;
  void* argument_;
  char* mapping_ = nullptr;  // a guard page, then the stack
  void* context_ = nullptr;  // where the fiber goes on
  void* fake_stack_ = nullptr;
};

}  // namespace simt

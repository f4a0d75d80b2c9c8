#include "tests/simt/fiber.h"

#include <cstdint>
#include <cstring>
#include <new>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/simt/sanitizer.h"

#if !defined(__x86_64__) || defined(SIMT_UCONTEXT)
#include <ucontext.h>
#endif

namespace simt {
namespace {

// ASan's frames are several times larger.
constexpr std::size_t kStackBytes = (kAddressSanitizer ? 256 : 128) * std::size_t{1024};

std::size_t page_size() {
  static const auto size = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return size;
}

// The scheduler's side of the switch, and the fiber that is starting or running.
struct Host {
  void* context = nullptr;
  void* fake_stack = nullptr;
  const void* stack_bottom = nullptr;
  std::size_t stack_bytes = 0;
};
Host host;
Fiber* starting = nullptr;

}  // namespace

// --- the switch itself ---------------------------------------------------------------------------
#if defined(__x86_64__) && !defined(SIMT_UCONTEXT)

// Saves what the System V ABI lets a function keep across a call, and swaps stacks. The rounding
// mode is not among it: kernels do not change it. longjmp would do as well, but ASan intercepts it
// and unpoisons the whole stack each time, which is slow and blinds it to overruns in frames.
extern "C" void simt_switch(void** save, void* load);
asm(R"(
.text
.p2align 4
.globl simt_switch
.hidden simt_switch
.type simt_switch,@function
simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size simt_switch,.-simt_switch
)");

namespace {

// A stack as simt_switch leaves one: six registers, the address to return to, and a zero where that
// function's own return address would be, so that backtraces end there.
void* fresh_context(char* /*bottom*/, char* top, void (*entry)()) {
  auto* slot = reinterpret_cast<std::uintptr_t*>(reinterpret_cast<std::uintptr_t>(top) & ~15UL);
  *--slot = 0;
  *--slot = reinterpret_cast<std::uintptr_t>(entry);
  for (int i = 0; i < 6; ++i) *--slot = 0;
  return slot;
}
void drop_context(void* /*context*/) {}
void* new_host_context() {
  return nullptr;
}
void jump(void** save, void* load) {
  simt_switch(save, load);
}

}  // namespace
#else

// Everywhere else: correct, and slower by a system call for the signal mask.
namespace {

void* fresh_context(char* bottom, char* top, void (*entry)()) {
  auto* context = new ucontext_t;
  getcontext(context);
  context->uc_stack.ss_sp = bottom;
  context->uc_stack.ss_size = static_cast<std::size_t>(top - bottom);
  context->uc_link = nullptr;
  makecontext(context, entry, 0);
  return context;
}
void drop_context(void* context) {
  delete static_cast<ucontext_t*>(context);
}
void* new_host_context() {
  return new ucontext_t;
}
void jump(void** save, void* load) {
  swapcontext(static_cast<ucontext_t*>(*save), static_cast<ucontext_t*>(load));
}

}  // namespace
#endif

// --- fibers --------------------------------------------------------------------------------------
Fiber::Fiber(Job job, void* argument, unsigned number) : job_(job), argument_(argument) {
  void* memory = mmap(nullptr, page_size() + kStackBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  mapping_ = static_cast<char*>(memory);
  mprotect(mapping_, page_size(), PROT_NONE);
  // Stacks that all begin at the same offset in a page fight over the same few cache sets.
  const std::size_t colour = (number * 5 % 64) * std::size_t{64};
  char* bottom = mapping_ + page_size();
  context_ = fresh_context(bottom, bottom + kStackBytes - colour, &Fiber::main);
}

Fiber::~Fiber() {
  drop_context(context_);
  munmap(mapping_, page_size() + kStackBytes);
}

void Fiber::resume() {
  starting = this;
  switch_in();
}

void Fiber::suspend() {
  switch_out();
}

SIMT_NO_ADDRESS_SANITIZER void Fiber::switch_in() {
  static void* const host_context = new_host_context();
  if (host.context == nullptr) host.context = host_context;
  start_switch(&host.fake_stack, mapping_ + page_size(), kStackBytes);
  jump(&host.context, context_);
  finish_switch(host.fake_stack, nullptr, nullptr);
}

SIMT_NO_ADDRESS_SANITIZER void Fiber::switch_out() {
  start_switch(&fake_stack_, host.stack_bottom, host.stack_bytes);
  jump(&context_, host.context);
  // The OS thread that resumes may be another one than before.
  finish_switch(fake_stack_, &host.stack_bottom, &host.stack_bytes);
}

SIMT_NO_ADDRESS_SANITIZER void Fiber::main() {
  finish_switch(nullptr, &host.stack_bottom, &host.stack_bytes);
  Fiber* const self = starting;
  for (;;) {
    self->job_(self->argument_);
    self->switch_out();
  }
}

}  // namespace simt

#include "tests/simt/race.h"

#include <array>
#include <cstdio>
#include <cstring>
#include <dlfcn.h>
#include <memory>
#include <string>
#include <unordered_map>

#include "tests/simt/machine.h"

namespace simt {
namespace {

constexpr std::size_t kPage = 4096;

struct Access {
  Actor actor;
  Origin origin;
  bool made = false;
  bool atomic = false;
};

// Of one byte: the last write, the last read, and the last read by another warp than that. Further
// reads are forgotten, so some races go unseen in one order of threads; none is reported in error.
struct Cell {
  Access write, read, other_read;
};
using Page = std::array<Cell, kPage>;

bool instrumented = false;
bool in_atomic = false;
std::unordered_map<std::uintptr_t, std::unique_ptr<Page>>& pages() {
  static auto* instance = new std::unordered_map<std::uintptr_t, std::unique_ptr<Page>>;
  return *instance;
}
std::uintptr_t last_number = 0;
Page* last_page = nullptr;

Cell& cell_of(std::uintptr_t address) {
  const std::uintptr_t number = address / kPage;
  if (last_page == nullptr || number != last_number) {
    auto& page = pages()[number];
    if (page == nullptr) page = std::make_unique<Page>();
    last_number = number;
    last_page = page.get();
  }
  return (*last_page)[address % kPage];
}

bool same_warp(const Actor& a, const Actor& b) {
  return a.block == b.block && a.thread / 32 == b.thread / 32;
}

// Whether nothing orders the two: other blocks are never ordered, threads of a block by a barrier,
// lanes of a warp also by a warp_sync (a shuffle is none for memory).
bool races(const Access& earlier, const Access& now) {
  if (!earlier.made || (earlier.atomic && now.atomic)) return false;
  const Actor& a = earlier.actor;
  const Actor& b = now.actor;
  if (a.block != b.block) return true;
  if (a.thread == b.thread || a.barriers != b.barriers) return false;
  return !same_warp(a, b) || a.warp_syncs == b.warp_syncs;
}

// "file.cu:12" where the program has line numbers and binutils are at hand, else an offset.
std::string line_of(const Origin& origin) {
  if (origin.code == nullptr) return text(origin.site);
  const void* const code = origin.code;
  Dl_info info{};
  if (dladdr(code, &info) == 0 || info.dli_fname == nullptr) return "?";
  const auto offset = static_cast<const char*>(code) - static_cast<const char*>(info.dli_fbase) - 1;
  std::array<char, 512> text{};
  std::snprintf(text.data(), text.size(), "addr2line -s -e '%s' 0x%zx 2>/dev/null", info.dli_fname,
                static_cast<std::size_t>(offset));
  std::string line;
  if (FILE* pipe = popen(text.data(), "r")) {
    if (std::fgets(text.data(), static_cast<int>(text.size()), pipe) != nullptr) line = text.data();
    pclose(pipe);
  }
  line = line.substr(0, line.find_first_of(" \n"));
  if (!line.empty() && line[0] != '?') return line;
  std::snprintf(text.data(), text.size(), "code offset 0x%zx", static_cast<std::size_t>(offset));
  return text.data();
}

void report(std::uintptr_t address, bool write, const Access& now, const Access& earlier,
            bool earlier_write) {
  const auto shared = reinterpret_cast<std::uintptr_t>(shared_begin());
  const bool in_shared = address - shared < shared_size();
  const std::string where = in_shared
                                ? "byte " + std::to_string(address - shared) + " of shared memory"
                                : "device memory";
  const char* does = now.atomic ? "updates " : write ? "writes " : "reads ";
  const char* did = earlier.atomic ? "updated, " : earlier_write ? "wrote, " : "read, ";
  fail_later(does + where + ", " + line_of(now.origin), earlier.actor,
             did + line_of(earlier.origin) + ",");
}

}  // namespace

void forget_accesses() {
  pages().clear();
  last_page = nullptr;
}

void forget_accesses_of_shared(const void* memory, std::size_t bytes) {
  if (!instrumented) return;
  const auto begin = reinterpret_cast<std::uintptr_t>(memory);
  for (std::size_t i = 0; i < bytes; ++i) cell_of(begin + i) = {};
}

void note_access(const void* pointer, std::size_t bytes, bool write, const Origin& origin) {
  Access now;
  if (!instrumented || !acting(now.actor)) return;
  // Most accesses are to the fiber's own stack.
  const auto address = reinterpret_cast<std::uintptr_t>(pointer);
  const auto frame = reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0));
  if (address - frame + 65536 < 2 * 65536) return;
  const auto shared = reinterpret_cast<std::uintptr_t>(shared_begin());
  if (address - shared >= shared_size() && memory_kind(pointer) != MemoryKind::device) return;
  now.origin = origin;
  now.made = true;
  now.atomic = in_atomic;
  for (std::size_t i = 0; i < bytes; ++i) {
    Cell& cell = cell_of(address + i);
    if (races(cell.write, now)) return report(address + i, write, now, cell.write, true);
    if (!write) {
      if (cell.read.made && !same_warp(cell.read.actor, now.actor)) {
        cell.other_read = cell.read;
      }
      cell.read = now;
      continue;
    }
    for (const Access* read : {&cell.read, &cell.other_read}) {
      if (races(*read, now)) return report(address + i, write, now, *read, false);
    }
    cell.write = now;
  }
}

void begin_atomic() {
  in_atomic = true;
}
void end_atomic() {
  in_atomic = false;
}

}  // namespace simt

// In a program that is under ThreadSanitizer itself these are its own.
#ifndef __SANITIZE_THREAD__

#define SIMT_CODE                   \
  simt::Origin {                    \
    __builtin_return_address(0), {} \
  }
#define SIMT_HOOKS(bytes)                          \
  void __tsan_read##bytes(void* p) {               \
    simt::note_access(p, bytes, false, SIMT_CODE); \
  }                                                \
  void __tsan_write##bytes(void* p) {              \
    simt::note_access(p, bytes, true, SIMT_CODE);  \
  }                                                \
  void __tsan_unaligned_read##bytes(void* p) {     \
    simt::note_access(p, bytes, false, SIMT_CODE); \
  }                                                \
  void __tsan_unaligned_write##bytes(void* p) {    \
    simt::note_access(p, bytes, true, SIMT_CODE);  \
  }

extern "C" {
void __tsan_init() {
  simt::instrumented = true;
}
void __tsan_func_entry(void* /*caller*/) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void** /*object*/, void* /*table*/) {}
void __tsan_vptr_read(void** /*object*/) {}
void __tsan_read_range(void* p, std::size_t bytes) {
  simt::note_access(p, bytes, false, SIMT_CODE);
}
void __tsan_write_range(void* p, std::size_t bytes) {
  simt::note_access(p, bytes, true, SIMT_CODE);
}
SIMT_HOOKS(1)
SIMT_HOOKS(2)
SIMT_HOOKS(4)
SIMT_HOOKS(8)
SIMT_HOOKS(16)
// The count of a shared_ptr, in host code beside the kernels. They have no other atomics; the
// linker would say so.
int __tsan_atomic32_fetch_add(volatile int* p, int value, int /*order*/) {
  return __atomic_fetch_add(p, value, __ATOMIC_SEQ_CST);
}
// What clang puts in the place of block moves.
void* __tsan_memcpy(void* to, const void* from, std::size_t bytes) {
  simt::note_access(from, bytes, false, SIMT_CODE);
  simt::note_access(to, bytes, true, SIMT_CODE);
  return std::memcpy(to, from, bytes);
}
void* __tsan_memmove(void* to, const void* from, std::size_t bytes) {
  simt::note_access(from, bytes, false, SIMT_CODE);
  simt::note_access(to, bytes, true, SIMT_CODE);
  return std::memmove(to, from, bytes);
}
void* __tsan_memset(void* to, int value, std::size_t bytes) {
  simt::note_access(to, bytes, true, SIMT_CODE);
  return std::memset(to, value, bytes);
}
}

#endif

// What the emulator tells AddressSanitizer; nothing of it remains in other builds.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#define SIMT_WITH_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SIMT_WITH_ASAN 1
#endif
#endif

#ifdef SIMT_WITH_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define SIMT_NO_ADDRESS_SANITIZER __attribute__((no_sanitize("address")))
#else
#define SIMT_NO_ADDRESS_SANITIZER
#endif

namespace simt {

#ifdef SIMT_WITH_ASAN
inline constexpr bool kAddressSanitizer = true;
inline void start_switch(void** fake_stack, const void* bottom, std::size_t bytes) {
  __sanitizer_start_switch_fiber(fake_stack, bottom, bytes);
}
inline void finish_switch(void* fake_stack, const void** bottom, std::size_t* bytes) {
  __sanitizer_finish_switch_fiber(fake_stack, bottom, bytes);
}
inline void poison(const void* memory, std::size_t bytes) {
  __asan_poison_memory_region(memory, bytes);
}
inline void unpoison(const void* memory, std::size_t bytes) {
  __asan_unpoison_memory_region(memory, bytes);
}
#else
inline constexpr bool kAddressSanitizer = false;
inline void start_switch(void** /*fake_stack*/, const void* /*bottom*/, std::size_t /*bytes*/) {}
inline void finish_switch(void* /*fake_stack*/, const void** /*bottom*/, std::size_t* /*bytes*/) {}
inline void poison(const void* /*memory*/, std::size_t /*bytes*/) {}
inline void unpoison(const void* /*memory*/, std::size_t /*bytes*/) {}
#endif

}  // namespace simt

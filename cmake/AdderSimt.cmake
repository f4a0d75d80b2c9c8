# The SIMT emulator: what lets kernels be compiled by the host's compiler and run without a GPU
# (docs/simt.md). It needs nothing of the library but a header.
if(NOT TARGET adder_simt)
  file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/simt/*.cpp)
  list(FILTER sources EXCLUDE REGEX "/(test_[^/]*|support)\\.cpp$")
  add_library(adder_simt STATIC EXCLUDE_FROM_ALL ${sources})
  adder_compile_settings(adder_simt -O2)
  target_include_directories(adder_simt BEFORE PUBLIC ${PROJECT_SOURCE_DIR}/tests/simt/include
    PUBLIC ${PROJECT_SOURCE_DIR})
  target_compile_features(adder_simt PUBLIC cxx_std_20)
  target_link_libraries(adder_simt PRIVATE ${CMAKE_DL_LIBS})
  # Kernels say `#pragma unroll`.
  target_compile_options(adder_simt PUBLIC -Wno-unknown-pragmas)
  set_target_properties(adder_simt PROPERTIES POSITION_INDEPENDENT_CODE ON)
endif()

# Makes `target` compile these .cu files as C++, and everything of it against the emulator in the
# CUDA Toolkit's place.
function(adder_emulate target)
  set_source_files_properties(${ARGN} PROPERTIES LANGUAGE CXX)
  target_sources(${target} PRIVATE ${ARGN})
  target_link_libraries(${target} PRIVATE adder_simt)
endfunction()

# The same with the race detector: only the kernels are instrumented, and ThreadSanitizer is not
# linked, because the emulator has functions of its own where the compiler calls it.
function(adder_emulate_with_races target)
  set(ADDER_SANITIZE "")  # of the build: it would instrument the same accesses
  set_source_files_properties(${ARGN} PROPERTIES LANGUAGE CXX)
  add_library(${target}_kernels OBJECT ${ARGN})
  adder_compile_settings(${target}_kernels -O1)
  target_compile_options(${target}_kernels PRIVATE -fsanitize=thread -g1)
  target_link_libraries(${target}_kernels PRIVATE adder_simt)
  target_link_libraries(${target} PRIVATE ${target}_kernels adder_simt)
endfunction()

# Compiler settings shared by every target of the project. `optimization` (-O1, -O2) is what a release
# build uses; only the kernels gain from -O3, which makes the rest slow to compile.
function(adder_compile_settings target optimization)
  set(nvcc_options "")
  set(warnings -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual)
  if(ADDER_WERROR)
    list(APPEND warnings -Werror)
    list(APPEND nvcc_options -Werror=all-warnings)
  endif()
  if(ADDER_NATIVE)
    list(APPEND warnings -march=native)
  endif()
  target_compile_options(${target} PRIVATE "$<$<COMPILE_LANGUAGE:CXX>:${warnings}>"
    "$<$<COMPILE_LANGUAGE:CUDA>:${nvcc_options}>")
  # errno and floating-point traps are never looked at; giving them up lets loops vectorise without
  # changing a result.
  target_compile_options(${target} PRIVATE
    "$<$<COMPILE_LANGUAGE:CXX>:-fno-math-errno;-fno-trapping-math>"
    "$<$<AND:$<COMPILE_LANGUAGE:CXX>,$<CONFIG:Release>>:${optimization}>")
  if(NOT TARGET OpenMP::OpenMP_CXX)
    target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-fopenmp-simd>)
  endif()
  if(ADDER_SANITIZE)
    target_compile_options(${target} PRIVATE -fsanitize=${ADDER_SANITIZE} -fno-sanitize-recover=all
      -fno-omit-frame-pointer)
    target_link_options(${target} PUBLIC -fsanitize=${ADDER_SANITIZE})
  endif()
  if(ADDER_COVERAGE)
    target_compile_options(${target} PRIVATE --coverage -O1)
    target_link_options(${target} PUBLIC --coverage)
  endif()
endfunction()

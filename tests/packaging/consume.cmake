# Builds and runs examples/finetune_sdt against the library, WAY "installed" (find_package in a
# prefix of its own) or "subdirectory" (add_subdirectory of the sources).
function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output
    WORKING_DIRECTORY ${WORK_DIR})
  if(result)
    string(JOIN " " command ${ARGN})
    message(FATAL_ERROR "${command}\n${output}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

file(REMOVE_RECURSE ${WORK_DIR})
file(MAKE_DIRECTORY ${WORK_DIR})
set(example ${SOURCE_DIR}/examples/finetune_sdt)
set(settings -G ${GENERATOR} -DCMAKE_CXX_COMPILER=${COMPILER} -DCMAKE_CXX_COMPILER_LAUNCHER=${LAUNCHER})
if(WAY STREQUAL "installed")
  run(${CMAKE_COMMAND} --install ${BUILD_DIR} --prefix ${WORK_DIR}/prefix)
  # What the example includes must come from the prefix alone, so it is built from a copy.
  file(COPY ${example} DESTINATION ${WORK_DIR})
  run(${CMAKE_COMMAND} -S ${WORK_DIR}/finetune_sdt -B ${WORK_DIR}/build ${settings}
    -DCMAKE_BUILD_TYPE=Release -DCMAKE_PREFIX_PATH=${WORK_DIR}/prefix)
else()
  file(WRITE ${WORK_DIR}/CMakeLists.txt "cmake_minimum_required(VERSION 3.22)
project(consumer LANGUAGES CXX)
add_subdirectory(${SOURCE_DIR} adder)
add_executable(finetune_sdt ${example}/main.cpp)
target_link_libraries(finetune_sdt PRIVATE adder::adder)
")
  # Unoptimised: a second build of the whole library need not be fast, only soon done.
  run(${CMAKE_COMMAND} -S ${WORK_DIR} -B ${WORK_DIR}/build ${settings} -DCMAKE_BUILD_TYPE=Debug
    -DADDER_CUDA=${ADDER_CUDA}
    -DCMAKE_CXX_FLAGS_DEBUG=-O0)
endif()
cmake_host_system_information(RESULT cores QUERY NUMBER_OF_LOGICAL_CORES)
run(${CMAKE_COMMAND} --build ${WORK_DIR}/build --target finetune_sdt -j ${cores})
run(${WORK_DIR}/build/finetune_sdt ${WORK_DIR}/adapter)
foreach(file adapter_config.json adapter_model.safetensors)
  if(NOT EXISTS ${WORK_DIR}/adapter/${file})
    message(FATAL_ERROR "the example wrote no ${WORK_DIR}/adapter/${file}")
  endif()
endforeach()
string(REGEX MATCHALL "loss [0-9.]+" losses "${output}")
string(REPLACE "loss " "" losses "${losses}")
list(POP_FRONT losses first)
list(POP_BACK losses last)
if(NOT "${last}" LESS "${first}")
  message(FATAL_ERROR "the example's loss went from '${first}' to '${last}'")
endif()

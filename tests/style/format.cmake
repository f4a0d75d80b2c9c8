cmake_minimum_required(VERSION 3.22)
# Every source is as .clang-format lays it out.
set(files "")
foreach(folder engine cuda autograd models peft tools tests bench examples)
  file(GLOB_RECURSE found ${SOURCE_DIR}/${folder}/*.h ${SOURCE_DIR}/${folder}/*.cpp
    ${SOURCE_DIR}/${folder}/*.cu ${SOURCE_DIR}/${folder}/*.cuh)
  list(APPEND files ${found})
endforeach()
execute_process(COMMAND ${CLANG_FORMAT} --dry-run -Werror ${files} RESULT_VARIABLE result
  ERROR_VARIABLE output WORKING_DIRECTORY ${SOURCE_DIR})
if(result)
  message(FATAL_ERROR "clang-format would change:\n${output}")
endif()

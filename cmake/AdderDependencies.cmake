# Third-party libraries, all from the system's packages; nothing is downloaded. Each is private to one
# folder or source file (docs/design.md says which and why).

# Targets that find_package() makes belong to this directory; a project that takes Adder in with
# add_subdirectory() links the archive elsewhere and needs to see them there.
macro(adder_find package target)
  if(NOT TARGET ${target})
    find_package(${package} ${ARGN})
    if(TARGET ${target})
      set_property(TARGET ${target} PROPERTY IMPORTED_GLOBAL TRUE)
    endif()
  endif()
endmacro()

find_package(PkgConfig REQUIRED)
adder_find(OpenMP OpenMP::OpenMP_CXX COMPONENTS CXX)
adder_find(Threads Threads::Threads REQUIRED)
adder_find(Eigen3 Eigen3::Eigen REQUIRED NO_MODULE)
adder_find(nlohmann_json nlohmann_json::nlohmann_json REQUIRED)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET GLOBAL libpcre2-8)
pkg_check_modules(UTF8PROC REQUIRED IMPORTED_TARGET GLOBAL libutf8proc)

# The fast sgemm: what is installed, best first as measured in bench/results/.
find_library(ADDER_ONEDNN_LIBRARY dnnl)
find_path(ADDER_ONEDNN_INCLUDE dnnl.h)
find_library(ADDER_BLIS_LIBRARY blis PATH_SUFFIXES blis-openmp)
find_path(ADDER_BLIS_INCLUDE blis.h PATH_SUFFIXES blis-openmp)
find_library(ADDER_OPENBLAS_LIBRARY openblas)
find_path(ADDER_OPENBLAS_INCLUDE openblas_config.h PATH_SUFFIXES openblas-pthread)
mark_as_advanced(ADDER_ONEDNN_LIBRARY ADDER_ONEDNN_INCLUDE ADDER_BLIS_LIBRARY ADDER_BLIS_INCLUDE
  ADDER_OPENBLAS_LIBRARY ADDER_OPENBLAS_INCLUDE)
set(ADDER_SGEMM_FOUND "")
foreach(candidate ONEDNN BLIS OPENBLAS)
  if(ADDER_${candidate}_LIBRARY AND ADDER_${candidate}_INCLUDE)
    list(APPEND ADDER_SGEMM_FOUND ${candidate})
  endif()
endforeach()
list(APPEND ADDER_SGEMM_FOUND EIGEN)
if(ADDER_SGEMM STREQUAL "AUTO")
  list(GET ADDER_SGEMM_FOUND 0 ADDER_SGEMM_CHOSEN)
elseif(ADDER_SGEMM IN_LIST ADDER_SGEMM_FOUND)
  set(ADDER_SGEMM_CHOSEN ${ADDER_SGEMM})
else()
  message(FATAL_ERROR "ADDER_SGEMM=${ADDER_SGEMM} is not installed; there are: ${ADDER_SGEMM_FOUND}")
endif()
message(STATUS "adder: matrix products by ${ADDER_SGEMM_CHOSEN}")

# What adder and the benchmark of each matrix product library link; Eigen and nlohmann-json are
# headers, needed to compile the archive but not to use it.
set(ADDER_LIBRARY_DEPENDENCIES PkgConfig::PCRE2 PkgConfig::UTF8PROC
  Threads::Threads)
if(TARGET OpenMP::OpenMP_CXX)
  list(APPEND ADDER_LIBRARY_DEPENDENCIES OpenMP::OpenMP_CXX)
else()
  message(STATUS "adder: the compiler has no OpenMP, so kernels run on one thread")
endif()

# Gives a target one of the matrix product libraries.
function(adder_use_sgemm target choice)
  target_compile_definitions(${target} PRIVATE ADDER_SGEMM_${choice}=1)
  target_include_directories(${target} SYSTEM PRIVATE
    $<TARGET_PROPERTY:Eigen3::Eigen,INTERFACE_INCLUDE_DIRECTORIES>)
  if(NOT choice STREQUAL "EIGEN")
    target_include_directories(${target} SYSTEM PRIVATE ${ADDER_${choice}_INCLUDE})
    target_link_libraries(${target} PRIVATE ${ADDER_${choice}_LIBRARY})
  endif()
endfunction()

# khorus_kernels(variable source...): has nvcc make an image of a .cu file, with machine code for each
# generation of GPUs that this nvcc knows of those below, and code for later ones to compile.
#
# Nothing of CUDA is linked: the image goes into a library by kernels/image.cc. Sets `variable` to
# the image's path, or to nothing, with a reason in KHORUS_KERNELS_MISSING, where nvcc is missing or
# cannot compile here.
set(KHORUS_GPU_GENERATIONS 80 90 100 120)

function(khorus_kernels variable source)
  set(${variable} "" PARENT_SCOPE)
  find_program(KHORUS_NVCC nvcc PATHS /usr/local/cuda/bin)
  mark_as_advanced(KHORUS_NVCC)
  if(NOT KHORUS_NVCC)
    set(KHORUS_KERNELS_MISSING "nvcc not found" PARENT_SCOPE)
    return()
  endif()
  set(flags -std=c++20 -O3 --expt-relaxed-constexpr "-I${PROJECT_SOURCE_DIR}"
            "-I${PROJECT_SOURCE_DIR}/core/include")
  # Its host compiler may be too new for it: ask once.
  if(NOT KHORUS_NVCC_WORKS STREQUAL KHORUS_NVCC)
    set(trial "${CMAKE_CURRENT_BINARY_DIR}/nvcc_trial.cu")
    file(WRITE "${trial}" "#include <cstdint>\n__global__ void trial(uint32_t* to) { *to = 1; }\n")
    execute_process(COMMAND "${KHORUS_NVCC}" ${flags} -fatbin -o "${trial}.fatbin" "${trial}"
                    RESULT_VARIABLE failed OUTPUT_QUIET ERROR_QUIET)
    if(failed)
      set(KHORUS_KERNELS_MISSING "${KHORUS_NVCC} does not compile C++20 here" PARENT_SCOPE)
      return()
    endif()
    set(KHORUS_NVCC_WORKS "${KHORUS_NVCC}" CACHE INTERNAL "the nvcc that has compiled something")
  endif()

  execute_process(COMMAND "${KHORUS_NVCC}" --list-gpu-code OUTPUT_VARIABLE known)
  set(codes "")
  foreach(generation IN LISTS KHORUS_GPU_GENERATIONS)
    if(known MATCHES "sm_${generation}[ \r\n]")
      list(APPEND flags -gencode "arch=compute_${generation},code=sm_${generation}")
      list(APPEND codes ${generation})
    endif()
  endforeach()
  if(NOT codes)
    set(KHORUS_KERNELS_MISSING "${KHORUS_NVCC} knows none of compute ${KHORUS_GPU_GENERATIONS}"
        PARENT_SCOPE)
    return()
  endif()
  list(GET codes 0 oldest)
  list(APPEND flags -gencode "arch=compute_${oldest},code=compute_${oldest}")
  if(KHORUS_WARNINGS_AS_ERRORS)
    list(APPEND flags -Werror all-warnings)
  endif()

  list(JOIN codes ", " written)
  get_filename_component(name "${source}" NAME_WE)
  get_filename_component(folder "${source}" ABSOLUTE)
  get_filename_component(folder "${folder}" DIRECTORY)
  file(GLOB headers CONFIGURE_DEPENDS "${folder}/*.h")
  set(image "${CMAKE_CURRENT_BINARY_DIR}/${name}.fatbin")
  add_custom_command(OUTPUT "${image}"
    COMMAND "${KHORUS_NVCC}" ${flags} -Xfatbin -compress-all --threads 2 -fatbin -o "${image}"
            "${CMAKE_CURRENT_SOURCE_DIR}/${source}"
    DEPENDS "${source}" ${headers} "${PROJECT_SOURCE_DIR}/core/base/adasum_element.h"
            "${PROJECT_SOURCE_DIR}/core/base/scale_element.h"
    COMMENT "Compiling kernels for GPUs of compute ${written}" VERBATIM)
  set(${variable} "${image}" PARENT_SCOPE)
endfunction()

# khorus_find_nccl(candidates...): finds the headers of NCCL and of CUDA's driver: those inside the
# `nvidia` packages that come with torch in one of the candidate Pythons, else a toolkit's.
#
# Only nccl.h and cuda.h are needed, and nothing is linked (backends/nccl/library.h). Sets in the
# caller's scope
#   KHORUS_NCCL_INCLUDE_DIRS  the two folders, or empty
#   KHORUS_NCCL_LIBRARY_DIR   where NCCL lies beside those headers, or empty
function(khorus_find_nccl)
  set(nccl "")
  set(cuda "")
  foreach(candidate IN LISTS ARGN)
    execute_process(
      COMMAND "${candidate}" -c
              "import importlib.util as u; s = u.find_spec('nvidia'); print(next(iter(s.submodule_search_locations)) if s else '')"
      OUTPUT_VARIABLE root ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
    if(NOT root)
      continue()
    endif()
    file(GLOB nccl_headers "${root}/nccl/include/nccl.h")
    file(GLOB cuda_headers "${root}/*/include/cuda.h")
    if(nccl_headers AND cuda_headers)
      list(GET nccl_headers 0 nccl)
      list(GET cuda_headers 0 cuda)
      break()
    endif()
  endforeach()
  if(NOT nccl)
    find_file(KHORUS_NCCL_H nccl.h PATHS /usr/local/cuda/include)
    find_file(KHORUS_CUDA_H cuda.h PATHS /usr/local/cuda/include)
    mark_as_advanced(KHORUS_NCCL_H KHORUS_CUDA_H)
    if(KHORUS_NCCL_H AND KHORUS_CUDA_H)
      set(nccl "${KHORUS_NCCL_H}")
      set(cuda "${KHORUS_CUDA_H}")
    endif()
  endif()
  set(directories "")
  set(library_dir "")
  if(nccl)
    get_filename_component(nccl_dir "${nccl}" DIRECTORY)
    get_filename_component(cuda_dir "${cuda}" DIRECTORY)
    set(directories "${nccl_dir}" "${cuda_dir}")
    get_filename_component(beside "${nccl_dir}/../lib" ABSOLUTE)
    if(EXISTS "${beside}/libnccl.so.2")
      set(library_dir "${beside}")
    endif()
  endif()
  set(KHORUS_NCCL_INCLUDE_DIRS "${directories}" PARENT_SCOPE)
  set(KHORUS_NCCL_LIBRARY_DIR "${library_dir}" PARENT_SCOPE)
endfunction()

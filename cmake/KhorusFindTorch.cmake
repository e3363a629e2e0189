# khorus_find_torch(candidates...): finds the libtorch that comes inside a Python's `torch` package.
#
# Used by the build and, installed beside KhorusConfig.cmake, by projects that ask for the component
# `torch`. It does not call find_package(Torch): that enables the CUDA language when a toolkit is
# near and fails with CMake 3.25. We need headers, two libraries and the C++ ABI flag, so we read
# those from the package's folder. Only libtorch_cpu and libc10 are linked: a program without a GPU
# then starts in half the time, and one build serves CPU and CUDA wheels of torch alike (a program
# that wants a GPU loads libtorch_cuda at run time).
#
# Sets in the caller's scope
#   KHORUS_TORCH_PYTHON   the Python that has torch, or empty
#   KHORUS_TORCH_ROOT     the folder of its torch package, or empty
#   KHORUS_TORCH_VERSION  for instance 2.15.0
#   KHORUS_TORCH_REASON   one phrase: why there is none
# and makes the imported target khorus_libtorch when it succeeds.
function(khorus_find_torch)
  set(root "")
  set(python "")
  set(reason "no Python was found")
  foreach(candidate IN LISTS ARGN)
    if(NOT candidate)
      continue()
    endif()
    # find_spec locates the package without importing it: a tenth of a second instead of several.
    execute_process(
      COMMAND "${candidate}" -c
              "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '')"
      OUTPUT_VARIABLE found ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE status)
    if(NOT status EQUAL 0)
      set(reason "${candidate} does not run")
    elseif(NOT found OR NOT EXISTS "${found}/lib/libtorch_cpu.so")
      set(reason "${candidate} has no package torch with libtorch")
    else()
      set(root "${found}")
      set(python "${candidate}")
      break()
    endif()
  endforeach()

  set(version "")
  if(root)
    if(EXISTS "${root}/version.py")
      file(STRINGS "${root}/version.py" line REGEX "^__version__ = " LIMIT_COUNT 1)
      string(REGEX MATCH "[0-9]+\\.[0-9]+(\\.[0-9]+)?" version "${line}")
    endif()
    if(NOT TARGET khorus_libtorch)
      khorus_make_libtorch_target("${root}")
    endif()
  endif()
  set(KHORUS_TORCH_ROOT "${root}" PARENT_SCOPE)
  set(KHORUS_TORCH_PYTHON "${python}" PARENT_SCOPE)
  set(KHORUS_TORCH_VERSION "${version}" PARENT_SCOPE)
  set(KHORUS_TORCH_REASON "${reason}" PARENT_SCOPE)
endfunction()

# The target: torch's headers are system headers, so our warnings do not apply to them.
function(khorus_make_libtorch_target root)
  # Wheels before 2.6 were built with the old C++ ABI and say so here; later ones say nothing.
  set(abi 1)
  if(EXISTS "${root}/share/cmake/Torch/TorchConfig.cmake")
    file(STRINGS "${root}/share/cmake/Torch/TorchConfig.cmake" line
         REGEX "_GLIBCXX_USE_CXX11_ABI=[01]" LIMIT_COUNT 1)
    if(line MATCHES "_GLIBCXX_USE_CXX11_ABI=([01])")
      set(abi "${CMAKE_MATCH_1}")
    endif()
  endif()
  # CUDA wheels need libraries of sibling packages. The linker must take those and not the ones of a
  # toolkit, which may be older and miss symbols.
  file(GLOB siblings LIST_DIRECTORIES true "${root}/../nvidia/*/lib")
  set(link_options "-Wl,-rpath-link,${root}/lib" "-Wl,--allow-shlib-undefined")
  foreach(directory IN LISTS siblings)
    list(APPEND link_options "-Wl,-rpath-link,${directory}")
  endforeach()

  add_library(khorus_libtorch INTERFACE IMPORTED GLOBAL)
  set_target_properties(khorus_libtorch PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES "${root}/include;${root}/include/torch/csrc/api/include"
    INTERFACE_COMPILE_DEFINITIONS
      "_GLIBCXX_USE_CXX11_ABI=${abi};USE_DISTRIBUTED;USE_C10D_GLOO"
    INTERFACE_COMPILE_FEATURES "cxx_std_20"
    INTERFACE_LINK_OPTIONS "${link_options}"
    INTERFACE_LINK_LIBRARIES "${root}/lib/libtorch_cpu.so;${root}/lib/libc10.so")
endfunction()

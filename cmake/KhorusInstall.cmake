# The install tree: bin/khorusrun, lib/libkhorus.so, lib/khorus/ with the backend plugins, headers
# in include/khorus, and lib/cmake/Khorus for find_package(Khorus [COMPONENTS core torch]).
#
# The tree can be moved: libraries find each other by $ORIGIN, the package file by its own place.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(khorus_cmake_dir "${CMAKE_INSTALL_LIBDIR}/cmake/Khorus")
set(khorus_plugin_dir "${CMAKE_INSTALL_LIBDIR}/khorus")

# A shared library that users link: exported as Khorus::<name>.
function(khorus_install_library target exported_name component)
  set_target_properties(${target} PROPERTIES
    EXPORT_NAME ${exported_name} INSTALL_RPATH "$ORIGIN")
  # Folders of the source tree are right while building and wrong once installed.
  get_target_property(directories ${target} INTERFACE_INCLUDE_DIRECTORIES)
  if(directories)
    list(TRANSFORM directories REPLACE "^(/.*)$" "$<BUILD_INTERFACE:\\1>")
  else()
    set(directories "")
  endif()
  set_target_properties(${target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES
    "${directories};$<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>")
  add_library(Khorus::${exported_name} ALIAS ${target})
  install(TARGETS ${target} EXPORT Khorus_${component}
    LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
  install(EXPORT Khorus_${component} FILE Khorus_${component}.cmake NAMESPACE Khorus::
    DESTINATION "${khorus_cmake_dir}")
endfunction()

if(TARGET khorus)
  khorus_install_library(khorus khorus core)
  install(DIRECTORY "${PROJECT_SOURCE_DIR}/core/include/khorus"
    DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}" FILES_MATCHING PATTERN "*.h")
endif()
if(TARGET khorus_torch)
  khorus_install_library(khorus_torch torch torch)
  install(DIRECTORY "${PROJECT_SOURCE_DIR}/torch_plugin/include/khorus"
    DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}" FILES_MATCHING PATTERN "*.h")
endif()
if(TARGET khorusrun)
  set_target_properties(khorusrun PROPERTIES INSTALL_RPATH "$ORIGIN/../${CMAKE_INSTALL_LIBDIR}")
  install(TARGETS khorusrun RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}")
endif()
get_property(khorus_backends GLOBAL PROPERTY KHORUS_BACKENDS)
if(NOT KHORUS_STATIC_BACKENDS)
  foreach(backend IN LISTS khorus_backends)
    set_target_properties(khorus_backend_${backend} PROPERTIES INSTALL_RPATH "$ORIGIN/..")
    install(TARGETS khorus_backend_${backend} LIBRARY DESTINATION "${khorus_plugin_dir}")
  endforeach()
endif()

# The wheel: the same tree, inside the package.
if(SKBUILD AND TARGET khorus_python)
  install(TARGETS khorus_python LIBRARY DESTINATION .)
endif()

# What a user runs, without the tests: `make train` builds this alone.
add_custom_target(khorus_programs)
foreach(part khorus khorus_torch khorus_python khorusrun train_lm train_lstm_lm train_image
             pipeline_lm allreduce_hello)
  if(TARGET ${part})
    add_dependencies(khorus_programs ${part})
  endif()
endforeach()
foreach(backend IN LISTS khorus_backends)
  add_dependencies(khorus_programs khorus_backend_${backend})
endforeach()

configure_package_config_file("${CMAKE_CURRENT_LIST_DIR}/KhorusConfig.cmake.in"
  "${CMAKE_BINARY_DIR}/cmake/KhorusConfig.cmake" INSTALL_DESTINATION "${khorus_cmake_dir}")
write_basic_package_version_file("${CMAKE_BINARY_DIR}/cmake/KhorusConfigVersion.cmake"
  COMPATIBILITY SameMinorVersion)
install(FILES "${CMAKE_BINARY_DIR}/cmake/KhorusConfig.cmake"
  "${CMAKE_BINARY_DIR}/cmake/KhorusConfigVersion.cmake"
  "${CMAKE_CURRENT_LIST_DIR}/KhorusFindTorch.cmake" DESTINATION "${khorus_cmake_dir}")

# Compiler settings and the functions that make layers, tests and backends.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/bin")
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/lib")
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE RelWithDebInfo CACHE STRING "Build type" FORCE)
endif()

find_program(KHORUS_CCACHE ccache)
if(KHORUS_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_C_COMPILER_LAUNCHER "${KHORUS_CCACHE}")
  set(CMAKE_CXX_COMPILER_LAUNCHER "${KHORUS_CCACHE}")
endif()

find_package(Threads REQUIRED)

# Warnings for our own targets. -Wrestrict of g++ 12 warns of what it has inlined from std::string
# itself (GCC bug 105651), so it stays off there.
add_library(khorus_warnings INTERFACE)
target_compile_options(khorus_warnings INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wshadow -Wconversion>
  $<$<AND:$<CXX_COMPILER_ID:GNU>,$<VERSION_LESS:$<CXX_COMPILER_VERSION>,13>>:-Wno-restrict>
  $<$<BOOL:${KHORUS_WARNINGS_AS_ERRORS}>:-Werror>)
if(KHORUS_SANITIZE)
  # What a sanitizer adds to the code makes g++ guess wrongly about initialisation.
  target_compile_options(khorus_warnings INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-Wno-maybe-uninitialized>)
  # -g1: a report needs functions and lines only; the whole of -g fills gigabytes.
  add_compile_options(-fsanitize=${KHORUS_SANITIZE} -fno-omit-frame-pointer
                      -fno-sanitize-recover=all -g1)
  add_link_options(-fsanitize=${KHORUS_SANITIZE})
endif()

# khorus_layer(name SOURCES ... DEPENDS other layers LIBRARIES other targets)
function(khorus_layer name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS;LIBRARIES" ${ARGN})
  add_library(khorus_${name} STATIC ${ARG_SOURCES})
  target_include_directories(khorus_${name} PUBLIC
    "${PROJECT_SOURCE_DIR}" "${PROJECT_SOURCE_DIR}/core/include")
  list(TRANSFORM ARG_DEPENDS PREPEND khorus_)
  target_link_libraries(khorus_${name} PUBLIC ${ARG_DEPENDS} Threads::Threads ${ARG_LIBRARIES}
                        PRIVATE khorus_warnings)
endfunction()

# khorus_add_test(name COMMAND ... PROPERTIES ...): add_test and set_tests_properties. The name begins
# with the build folder's in sanitized builds: where ctest runs several folders as one (.ci/test-all),
# it gives a property to every test of that name, whichever folder it is in.
function(khorus_add_test name)
  cmake_parse_arguments(PARSE_ARGV 1 ARG "" "" "COMMAND;PROPERTIES")
  if(KHORUS_SANITIZE)
    cmake_path(GET CMAKE_BINARY_DIR FILENAME folder)
    string(PREPEND name "${folder}.")
  endif()
  add_test(NAME ${name} COMMAND ${ARG_COMMAND})
  set_tests_properties(${name} PROPERTIES ${ARG_PROPERTIES})
endfunction()

# khorus_test(name SOURCES ... LIBRARIES ... LABELS ... [TIMEOUT seconds] [PROCESSORS number]
# [ENVIRONMENT ...]): one GoogleTest program, registered with ctest as one test.
function(khorus_test name)
  cmake_parse_arguments(ARG "" "PROCESSORS;TIMEOUT" "SOURCES;LIBRARIES;LABELS;ENVIRONMENT" ${ARGN})
  find_package(GTest REQUIRED)
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_LIBRARIES} GTest::gtest GTest::gmock
                        GTest::gtest_main khorus_warnings)
  # GoogleTest's macros inlined at -O3 make g++ 12 guess wrongly about initialisation.
  target_compile_options(${name} PRIVATE
    $<$<AND:$<CXX_COMPILER_ID:GNU>,$<VERSION_LESS:$<CXX_COMPILER_VERSION>,13>>:-Wno-maybe-uninitialized>)
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  if(NOT ARG_PROCESSORS)
    set(ARG_PROCESSORS 2)
  endif()
  set(environment "")
  if(ARG_ENVIRONMENT)
    string(REPLACE ";" "\\;" one "${ARG_ENVIRONMENT}")
    set(environment ENVIRONMENT "${one}")
  endif()
  khorus_add_test(${name} COMMAND ${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS "${ARG_LABELS}"
                  PROCESSORS ${ARG_PROCESSORS} ${environment})
endfunction()

# Chooses the Python of this build and decides whether the libtorch plugin is built.
#
# Reads   KHORUS_TORCH (AUTO, ON, OFF), KHORUS_PYTHON, KHORUS_SANITIZE
# Sets    KHORUS_WITH_TORCH, and Python3_EXECUTABLE: the Python that tests and tools use
# Makes   khorus_libtorch, when torch is there
#
# Without KHORUS_PYTHON the candidates are, in order: an active virtual environment, .venv in the
# source tree (make deps puts torch there), python3 and the system's python3. The first with torch
# is taken; if none has it, the first that is there.
include(KhorusFindTorch)
set_property(CACHE KHORUS_TORCH PROPERTY STRINGS AUTO ON OFF)

set(khorus_pythons "")
if(KHORUS_PYTHON)
  set(khorus_pythons "${KHORUS_PYTHON}")
else()
  foreach(environment "$ENV{VIRTUAL_ENV}" "${PROJECT_SOURCE_DIR}/.venv")
    if(environment AND EXISTS "${environment}/bin/python")
      list(APPEND khorus_pythons "${environment}/bin/python")
    endif()
  endforeach()
  find_program(KHORUS_PYTHON_ON_PATH python3)
  if(KHORUS_PYTHON_ON_PATH)
    list(APPEND khorus_pythons "${KHORUS_PYTHON_ON_PATH}")
  endif()
  if(EXISTS "/usr/bin/python3")
    list(APPEND khorus_pythons "/usr/bin/python3")
  endif()
endif()

set(KHORUS_WITH_TORCH OFF)
if(KHORUS_TORCH STREQUAL "OFF")
  set(KHORUS_TORCH_REASON "KHORUS_TORCH is OFF")
elseif(KHORUS_SANITIZE AND KHORUS_TORCH STREQUAL "AUTO")
  set(KHORUS_TORCH_REASON "sanitized builds go without torch")
else()
  khorus_find_torch(${khorus_pythons})
  if(KHORUS_TORCH_ROOT)
    set(KHORUS_WITH_TORCH ON)
  endif()
endif()

if(NOT Python3_EXECUTABLE)
  if(KHORUS_TORCH_PYTHON)
    set(Python3_EXECUTABLE "${KHORUS_TORCH_PYTHON}")
  elseif(khorus_pythons)
    list(GET khorus_pythons 0 Python3_EXECUTABLE)
  endif()
endif()

if(KHORUS_WITH_TORCH)
  message(STATUS "torch plugin: torch ${KHORUS_TORCH_VERSION} of ${KHORUS_TORCH_PYTHON}")
elseif(KHORUS_TORCH STREQUAL "ON")
  message(FATAL_ERROR "torch plugin: KHORUS_TORCH is ON but ${KHORUS_TORCH_REASON}. "
                      "Run `make deps`, or give -DKHORUS_PYTHON=<a Python with torch>.")
else()
  message(STATUS "torch plugin: not built (${KHORUS_TORCH_REASON})")
endif()

#pragma once

#include <nanobind/nanobind.h>

#include <new>

#include "runtime/allocation.h"

namespace cutwork {

// What `make` gives without the GIL. Where memory runs out a MemoryError says so in a sentence.
template <class F>
auto without_gil(const F& make) {
  const char* said = "not enough memory: close other programs, or take fewer sequences, fewer bits or a smaller model";
  try {
    nanobind::gil_scoped_release release;
    return make();
  } catch (const OutOfMemory& error) {
    PyErr_SetString(PyExc_MemoryError, error.what());
  } catch (const std::bad_alloc&) {
    PyErr_SetString(PyExc_MemoryError, said);
  }
  throw nanobind::python_error();
}

}  // namespace cutwork

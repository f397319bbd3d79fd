// What each part adds to the module.
#pragma once

#include <nanobind/nanobind.h>

void bind_bandwidth(nanobind::module_& m);
void bind_costs(nanobind::module_& m);
void bind_kernels(nanobind::module_& m);
void bind_runtime(nanobind::module_& m);

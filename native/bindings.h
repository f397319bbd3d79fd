// What each part adds to the module.
#pragma once

#include <nanobind/nanobind.h>

#include <optional>
#include <string>

#include "kernels/linear.h"

// The named instruction set, or the one in use. Raises ValueError for one that this processor does not have.
cutwork::Isa parse_supported(const std::optional<std::string>& isa);

void bind_bandwidth(nanobind::module_& m);
void bind_costs(nanobind::module_& m);
void bind_kernels(nanobind::module_& m);
void bind_logits(nanobind::module_& m);
void bind_runtime(nanobind::module_& m);

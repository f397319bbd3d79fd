// What each part adds to the module.
#pragma once

#include <nanobind/nanobind.h>

#include <optional>
#include <string>

#include "kernels/isa.h"

// The named instruction set, or the one in use. Raises ValueError for one that this process cannot run.
const cutwork::Isa& isa_or_chosen(const std::optional<std::string>& isa);

void bind_bandwidth(nanobind::module_& m);
void bind_costs(nanobind::module_& m);
void bind_executor(nanobind::module_& m);
void bind_logits(nanobind::module_& m);
void bind_weight(nanobind::module_& m);

// Which instruction sets this process can run.
#pragma once

#include <vector>

#include "kernels/kernels.h"

namespace cutwork {

// The sets of this build that the processor and its operating system can run, the one to prefer first. The order is
// that of CMakeLists.txt.
const std::vector<const Isa*>& available_isas();

bool isa_supported(const Isa& isa);

// The first of available_isas() that the system lets this process use, or the one that CUTWORK_ISA names. Throws
// std::invalid_argument if it names no other.
const Isa& chosen_isa();

// By name. Both throw std::invalid_argument: for a set that is not in this build; or for one that is not available
// or that the system does not let this process use.
const Isa& find_isa(const char* name);
const Isa& find_available_isa(const char* name);

// Of the set, if the processor has what that needs too; or null.
const BfloatAttention* bfloat_attention(const Isa& isa);

}  // namespace cutwork

// Which kernel family multiplies a weight.
#pragma once

#include <cstdint>

#include "kernels/linear.h"

namespace cutwork {

// The family for a whole weight: the rows that a call multiplies must not matter, lest results change with the number
// of threads.
Family choose_family(const LinearKernels& kernels, const Weight& weight, int64_t tokens);

const char* family_name(Family family);
Family parse_family(const char* name);  // throws std::invalid_argument for an unknown name

}  // namespace cutwork

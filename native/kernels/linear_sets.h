// One table of kernels per instruction set, each defined in the file of that set.
#pragma once

#include "kernels/linear.h"

namespace cutwork {

extern const LinearKernels kLinearScalar;
#ifdef CUTWORK_X86
extern const LinearKernels kLinearAvx2;
extern const LinearKernels kLinearAvx512f;
extern const LinearKernels kLinearAvx512;
#endif

}  // namespace cutwork

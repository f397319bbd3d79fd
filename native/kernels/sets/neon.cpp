// NEON, which every 64-bit ARM processor has.
#include <arm_neon.h>

#include "kernels/set.h"

namespace cutwork {
namespace {

#include "kernels/neon_set.inc"

}  // namespace

namespace sets {
extern const Isa neon;
constinit const Isa neon = {.name = "neon", .needs = kCompiledFor, .kernels = kKernels};
}  // namespace sets

}  // namespace cutwork

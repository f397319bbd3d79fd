// NEON with the dot product of bytes: Neoverse N1, Apple M1 and later.
#include <arm_neon.h>

#include "kernels/set.h"

namespace cutwork {
// Of sets/neonbf16.cpp, for processors that have its instructions too.
extern const BfloatAttention neonbf16;

namespace {

#include "kernels/neon_set.inc"

}  // namespace

namespace sets {
extern const Isa neondot;
constinit const Isa neondot = {
    .name = "neondot", .needs = kCompiledFor, .kernels = kKernels, .bfloat_attention = &neonbf16};
}  // namespace sets

}  // namespace cutwork

// NEON with products of matrices of bytes too: Neoverse V1 and N2, Apple M2 and later.
#include <arm_neon.h>

#include "kernels/set.h"

namespace cutwork {
// Of sets/neonbf16.cpp, for processors that have its instructions too.
extern const BfloatAttention neonbf16;

namespace {

#include "kernels/neon_set.inc"

}  // namespace

namespace sets {
extern const Isa neoni8mm;
constinit const Isa neoni8mm = {
    .name = "neoni8mm", .needs = kCompiledFor, .kernels = kKernels, .bfloat_attention = &neonbf16};
}  // namespace sets

}  // namespace cutwork

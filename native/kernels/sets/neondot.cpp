// NEON with the dot product of bytes: Neoverse N1, Apple M1 and later.
#include <arm_neon.h>

#include "kernels/set.h"

namespace cutwork {
// Of sets/neonbf16.cpp, for processors that have its instructions too.
extern const BfloatAttention neonbf16;

namespace {

#include "kernels/common.inc"
#include "kernels/neon.inc"

namespace int4 {
#include "kernels/int4/ops/neon.inc"
}  // namespace int4

namespace linear {
#include "kernels/linear/no_spmm_rows.inc"
#include "kernels/linear/ops/neon.inc"
}  // namespace linear

namespace slots {
#include "kernels/slots/ops/neon.inc"
using Op = NeonSlots;
}  // namespace slots

namespace floats {
#include "kernels/floats/neon.inc"
}  // namespace floats

namespace attention {
using namespace floats;
#include "kernels/attention/float_dots.inc"
using BfloatDots = FloatDots<uint16_t>;
using CodeDots = FloatDots<int8_t>;
}  // namespace attention

#include "kernels/set.inc"

constexpr Kernels with_bfloats(Kernels kernels) {
  kernels.bfloat_attention = &neonbf16;
  return kernels;
}

}  // namespace

namespace sets {
extern const Isa neondot;
constinit const Isa neondot = {.name = "neondot", .needs = kCompiledFor, .kernels = with_bfloats(kKernels)};
}  // namespace sets

}  // namespace cutwork

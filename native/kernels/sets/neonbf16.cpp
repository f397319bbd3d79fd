// What NEON gains where it multiplies bfloat16 in pairs (Neoverse V1 and N2, Apple M2 and later): a part of the sets
// neondot and neoni8mm, for some of their processors.
#include <arm_neon.h>

#include "kernels/set.h"

namespace cutwork {
namespace {

#include "kernels/quantize.inc"

namespace floats {
#include "kernels/floats/neon.inc"
#include "kernels/floats/neon_bfloats.inc"
}  // namespace floats

namespace attention {
using namespace floats;
#include "kernels/attention/pair_dots.inc"
using BfloatDots = PairDots;
using CodeDots = FloatDots<int8_t>;
#include "kernels/attention/attention.inc"
}  // namespace attention

}  // namespace

extern const BfloatAttention neonbf16;
constinit const BfloatAttention neonbf16 = {.needs = kCompiledFor, .cached = attention::kAttention, .step = {}};

}  // namespace cutwork

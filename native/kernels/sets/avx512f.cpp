// AVX-512 without VNNI and VBMI2: the F, BW, DQ and VL of Skylake-X.
#include <immintrin.h>

#include "kernels/set.h"

namespace cutwork {
namespace {

#include "kernels/common.inc"
#include "kernels/products/maddubs512.inc"
#include "kernels/shuffles.inc"

namespace int4 {
#include "kernels/int4/ops/avx512f.inc"
}  // namespace int4

namespace linear {
#include "kernels/linear/no_spmm_rows.inc"
#include "kernels/linear/ops/avx512f.inc"
}  // namespace linear

namespace slots {
#include "kernels/slots/ops/avx512_common.inc"
using Op = Slots512;
}  // namespace slots

namespace floats {
#include "kernels/floats/avx512.inc"
}  // namespace floats

namespace attention {
using namespace floats;
#include "kernels/attention/float_dots.inc"
using BfloatDots = FloatDots<uint16_t>;
using CodeDots = FloatDots<int8_t>;
}  // namespace attention

#include "kernels/set.inc"

}  // namespace

namespace sets {
extern const Isa avx512f;
constinit const Isa avx512f = {.name = "avx512f", .needs = kCompiledFor, .kernels = kKernels};
}  // namespace sets

}  // namespace cutwork

// AVX-512 with VBMI, VBMI2, VNNI and VPOPCNTDQ, as Ice Lake and Zen 4 have it.
#include <immintrin.h>

#include "kernels/set.h"

namespace cutwork {
// Of sets/avx512bf16.cpp, for processors that have its instructions too.
extern const BfloatAttention avx512bf16;

namespace {

#include "kernels/common.inc"
#include "kernels/products/dpbusd512.inc"

namespace int4 {
#include "kernels/int4/ops/avx512.inc"
}  // namespace int4

namespace linear {
#include "kernels/linear/ops/avx512.inc"
#include "kernels/linear/spmm_rows.inc"
}  // namespace linear

namespace slots {
#include "kernels/slots/ops/avx512.inc"
}  // namespace slots

namespace floats {
#include "kernels/floats/avx512.inc"
}  // namespace floats

namespace attention {
using namespace floats;
#include "kernels/attention/byte_dots.inc"
using BfloatDots = FloatDots<uint16_t>;
using CodeDots = ByteDots;
}  // namespace attention

#include "kernels/set.inc"

}  // namespace

namespace sets {
extern const Isa avx512;
constinit const Isa avx512 = {
    .name = "avx512", .needs = kCompiledFor, .kernels = kKernels, .bfloat_attention = &avx512bf16};
}  // namespace sets

}  // namespace cutwork

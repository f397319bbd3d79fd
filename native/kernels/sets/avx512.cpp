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
using I4 = Expanding;
}  // namespace int4

namespace linear {
#include "kernels/linear/ops/avx512.inc"
struct I8 : Bytes {
  using Masked = I8;
  using Panels = I8;
};
}  // namespace linear

namespace slots {
#include "kernels/slots/ops/avx512.inc"
using Op = BlockSlots;
}  // namespace slots

#include "kernels/avx512_set.inc"

}  // namespace

namespace sets {
extern const Isa avx512;
constinit const Isa avx512 = {
    .name = "avx512", .needs = kCompiledFor, .kernels = kKernels, .bfloat_attention = &avx512bf16};
}  // namespace sets

}  // namespace cutwork

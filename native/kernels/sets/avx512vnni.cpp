// AVX-512 with VNNI and without VBMI2: Cascade Lake and Cooper Lake.
#include <immintrin.h>

#include "kernels/set.h"

namespace cutwork {
namespace {

#include "kernels/common.inc"
#include "kernels/products/dpbusd512.inc"
#include "kernels/shuffles.inc"

namespace int4 {
#include "kernels/int4/ops/avx512vnni.inc"
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
extern const Isa avx512vnni;
constinit const Isa avx512vnni = {.name = "avx512vnni", .needs = kCompiledFor, .kernels = kKernels};
}  // namespace sets

}  // namespace cutwork

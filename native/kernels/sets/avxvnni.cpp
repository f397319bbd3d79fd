// AVX2 with FMA and AVX-VNNI, the dot product of bytes of 256-bit registers: Alder Lake and later, Zen 5.
#include <immintrin.h>

#include "kernels/set.h"

namespace cutwork {
namespace {

#include "kernels/common.inc"
#include "kernels/products/dpbusd.inc"
#include "kernels/shuffles.inc"

namespace int4 {
#include "kernels/int4/ops/avxvnni.inc"
}  // namespace int4

namespace linear {
#include "kernels/linear/no_spmm_rows.inc"
#include "kernels/linear/ops/avx2.inc"
}  // namespace linear

namespace slots {
#include "kernels/slots/ops/avx2.inc"
using Op = Slots256;
}  // namespace slots

namespace floats {
#include "kernels/floats/avx2.inc"
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
extern const Isa avxvnni;
constinit const Isa avxvnni = {.name = "avxvnni", .needs = kCompiledFor, .kernels = kKernels};
}  // namespace sets

}  // namespace cutwork

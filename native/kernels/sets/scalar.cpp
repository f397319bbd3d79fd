// Plain C++, for every processor.
#include "kernels/set.h"

namespace cutwork {
namespace {

#include "kernels/common.inc"

namespace int4 {
#include "kernels/int4/ops/generic.inc"
using I4 = GenericI4;
}  // namespace int4

namespace linear {
#include "kernels/linear/ops/generic.inc"

using F32 = GenericF32;
using Bf16 = GenericBf16;
using I8 = GenericI8;
#include "kernels/linear/no_spmm_rows.inc"
}  // namespace linear

namespace slots {
#include "kernels/slots/ops/generic.inc"
using Op = GenericSlots;
}  // namespace slots

namespace floats {
#include "kernels/floats/generic.inc"
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
extern const Isa scalar;
constinit const Isa scalar = {.name = "scalar", .needs = kCompiledFor, .kernels = kKernels};
}  // namespace sets

}  // namespace cutwork

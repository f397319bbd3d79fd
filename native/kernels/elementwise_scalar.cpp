#include "kernels/elementwise.h"

namespace cutwork {
namespace {
#include "kernels/elementwise.inc"
}  // namespace

extern const ElementwiseKernels elementwise_scalar;
const ElementwiseKernels elementwise_scalar = {rms_norm, rope, gated, finish, embed};

}  // namespace cutwork

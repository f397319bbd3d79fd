#include "kernels/elementwise.h"

namespace cutwork {
namespace {
#include "kernels/elementwise.inc"
}  // namespace

extern const ElementwiseKernels elementwise_scalar;
const ElementwiseKernels elementwise_scalar = {rms_norm, layer_norm, rope, gated, clip, finish, embed};

}  // namespace cutwork

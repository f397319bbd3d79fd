#include <immintrin.h>

#include "kernels/elementwise.h"

namespace cutwork {
namespace {
#include "kernels/elementwise.inc"
#include "kernels/elementwise_logits.inc"
}  // namespace

extern const ElementwiseKernels elementwise_avx2;
const ElementwiseKernels elementwise_avx2 = {rms_norm, layer_norm, rope,        gated,         clip,
                                             finish,   embed,      log_sum_exp, largest_places};

}  // namespace cutwork

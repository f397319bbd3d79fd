#include "kernels/elementwise.h"

namespace cutwork {

extern const ElementwiseKernels elementwise_scalar, elementwise_avx2, elementwise_avx512;

const ElementwiseKernels& elementwise_kernels([[maybe_unused]] Isa isa) {
#ifdef CUTWORK_X86
  if (isa >= Isa::avx512f) return elementwise_avx512;
  if (isa == Isa::avx2) return elementwise_avx2;
#endif
  return elementwise_scalar;
}

}  // namespace cutwork

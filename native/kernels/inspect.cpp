#include "kernels/inspect.h"

namespace cutwork {

extern const InspectKernels inspect_scalar, inspect_avx2, inspect_avx512;

const InspectKernels& inspect_kernels([[maybe_unused]] Isa isa) {
#ifdef CUTWORK_X86
  if (isa >= Isa::avx512f) return inspect_avx512;
  if (isa == Isa::avx2) return inspect_avx2;
#endif
  return inspect_scalar;
}

}  // namespace cutwork

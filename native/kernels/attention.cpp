#include "kernels/attention.h"

namespace cutwork {

extern const AttentionKernels attention_scalar, attention_avx2, attention_avx512f, attention_avx512;

const AttentionKernels& attention_kernels([[maybe_unused]] Isa isa) {
#ifdef CUTWORK_X86
  if (isa == Isa::avx512) return attention_avx512;
  if (isa == Isa::avx512f) return attention_avx512f;
  if (isa == Isa::avx2) return attention_avx2;
#endif
  return attention_scalar;
}

}  // namespace cutwork

#include <immintrin.h>

#include <type_traits>

#include "kernels/attention.h"

namespace cutwork {
namespace {
#include "kernels/attention.inc"
}  // namespace

extern const AttentionKernels attention_avx512f;
const AttentionKernels attention_avx512f = {scratch_bytes, attend, attend_segments, finish, weigh, append};

}  // namespace cutwork

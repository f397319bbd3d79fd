#include <immintrin.h>

#include <type_traits>

#include "kernels/attention.h"

namespace cutwork {
namespace {
#include "kernels/attention.inc"
}  // namespace

extern const AttentionKernels attention_avx512;
const AttentionKernels attention_avx512 = {scratch_bytes, attend, attend_segments, finish, weigh, append};

}  // namespace cutwork

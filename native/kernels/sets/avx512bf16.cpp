// What AVX-512 gains where it multiplies bfloat16 in pairs: a part of the set avx512, for some of its processors.
#include <immintrin.h>

#include "kernels/set.h"

namespace cutwork {
namespace {

namespace floats {
#include "kernels/floats/avx512.inc"
}  // namespace floats

namespace attention {
using namespace floats;
#include "kernels/attention/pairs.inc"
}  // namespace attention

}  // namespace

extern const PairAttention pairs_avx512bf16;
constinit const PairAttention pairs_avx512bf16 = {.needs = kCompiledFor,
                                                  .scratch_bytes = attention::scratch_bytes,
                                                  .attend = attention::attend,
                                                  .append = attention::append};

}  // namespace cutwork

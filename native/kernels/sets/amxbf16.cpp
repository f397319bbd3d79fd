// What AMX gains where it multiplies matrices of bfloat16, too: a part of the set amx, as all of its processors do.
#include <immintrin.h>

#include "kernels/set.h"

namespace cutwork {
namespace {

#include "kernels/quantize.inc"

namespace floats {
#include "kernels/floats/avx512.inc"
#include "kernels/floats/avx512_bfloats.inc"
}  // namespace floats

namespace attention {
using namespace floats;
#include "kernels/attention/byte_dots.inc"
#include "kernels/attention/tile_dots.inc"
using BfloatDots = TileDots;
using CodeDots = ByteDots;
#include "kernels/attention/attention.inc"
}  // namespace attention

namespace pairs {
using namespace attention;
#include "kernels/attention/pairs.inc"
}  // namespace pairs

}  // namespace

extern const BfloatAttention amxbf16;
constinit const BfloatAttention amxbf16 = {
    .needs = kCompiledFor,
    .cached = attention::kAttention,
    .step = {.scratch_bytes = pairs::scratch_bytes, .attend = pairs::attend, .append = pairs::append}};

}  // namespace cutwork

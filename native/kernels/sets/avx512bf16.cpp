// What AVX-512 gains where it multiplies bfloat16 in pairs: a part of the set avx512, for some of its processors.
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
#include "kernels/attention/pair_dots.inc"
using BfloatDots = PairDots;
using CodeDots = ByteDots;
#include "kernels/attention/attention.inc"
}  // namespace attention

namespace step {
using namespace attention;
#include "kernels/attention/step.inc"
#include "kernels/attention/step_pairs.inc"
}  // namespace step

}  // namespace

extern const BfloatAttention avx512bf16;
constinit const BfloatAttention avx512bf16 = {.needs = kCompiledFor,
                                              .cached = attention::kAttention,
                                              .step = {.scratch_bytes = step::scratch_bytes_as<step::PairProducts>,
                                                       .attend = step::attend_as<step::PairProducts>,
                                                       .append = step::append}};

}  // namespace cutwork

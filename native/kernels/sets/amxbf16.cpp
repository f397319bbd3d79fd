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

namespace step {
using namespace attention;
#include "kernels/attention/step.inc"
#include "kernels/attention/step_pairs.inc"
#include "kernels/attention/step_tiles.inc"

size_t scratch_bytes(const CacheLayout& cache, int64_t rows) {
  return TileProducts::fits(cache) ? scratch_bytes_as<TileProducts>(cache, rows)
                                   : scratch_bytes_as<PairProducts>(cache, rows);
}

void attend(const AttentionTile& tile, void* scratch) {
  if (TileProducts::fits(tile.cache)) return attend_as<TileProducts>(tile, scratch);
  attend_as<PairProducts>(tile, scratch);
}
}  // namespace step

}  // namespace

extern const BfloatAttention amxbf16;
constinit const BfloatAttention amxbf16 = {
    .needs = kCompiledFor,
    .cached = attention::kAttention,
    .step = {.scratch_bytes = step::scratch_bytes, .attend = step::attend, .append = step::append}};

}  // namespace cutwork

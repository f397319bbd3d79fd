// The same as avx512, and products of matrices of bytes: AMX, as Sapphire Rapids and later Xeons have it.
#include <immintrin.h>

#include "kernels/set.h"

namespace cutwork {
// Of sets/amxbf16.cpp, for processors that have its instructions too.
extern const BfloatAttention amxbf16;

namespace {

#include "kernels/common.inc"
#include "kernels/products/dpbusd512.inc"
#include "kernels/products/tiles.inc"

namespace int4 {
#include "kernels/int4/ops/avx512.inc"

struct I4 : Expanding {
  using Tiles = cutwork::Tiles<false>;
  static constexpr int kPanelTiles = 16;  // 256 KiB of panel stay in the L2 cache
  static void add_exact(float* sums, const int32_t* exact, Sums scales) {
    const __m512 products = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_load_si512(exact)), scales);
    _mm512_store_ps(sums, _mm512_add_ps(_mm512_load_ps(sums), products));
  }
};
}  // namespace int4

namespace linear {
#include "kernels/linear/ops/avx512.inc"

struct TilePanels : Bytes {
  using Tiles = cutwork::Tiles<true>;
  static constexpr int kPanelTiles = 16, kGemmTokens = Tiles::kTokens;
  static constexpr int64_t kPanelCols = 1024;  // 32 KiB of two tiles stay in the L1 cache
};

struct I8 : Bytes {
  using Masked = I8;
  using Panels = TilePanels;
};
}  // namespace linear

namespace slots {
#include "kernels/slots/ops/avx512.inc"

struct Op : BlockSlots {
  using Tiles = cutwork::Tiles<true>;
};
}  // namespace slots

#include "kernels/avx512_set.inc"

}  // namespace

namespace sets {
extern const Isa amx;
constinit const Isa amx = {.name = "amx", .needs = kCompiledFor, .kernels = kKernels, .bfloat_attention = &amxbf16};
}  // namespace sets

}  // namespace cutwork

// Int4 kernels for AVX-512 with VNNI and VBMI2. Everything here has internal linkage.
#include <immintrin.h>

#include "kernels/int4.h"

namespace cutwork {
namespace {

struct Op {
  using Word = __m512i;
  using Acc = __m512i;
  using Sums = __m512;
  using Factor = __m512i;
  static constexpr int kGemvTokens = 16;
  template <int T>
  static constexpr int kChains = T == 1   ? 4
                                 : T <= 4 ? 2
                                          : 1;
  static constexpr int kPanelTiles = 3, kGemmTokens = 8;

  static __m512i low_halves(__m512i bytes) { return _mm512_and_si512(bytes, _mm512_set1_epi8(15)); }
  static __m512i high_halves(__m512i bytes) { return low_halves(_mm512_srli_epi16(bytes, 4)); }
  static void load(const uint8_t* bytes, Word& even, Word& odd) {
    const __m512i both = _mm512_loadu_si512(bytes);
    even = low_halves(both);
    odd = high_halves(both);
  }
  // Merging into a register of eights, the code of zero, neither waits for the register's old value nor costs anything.
  template <bool Odd>
  static Word expand(const uint64_t* mask, const uint8_t*& bytes) {
    const __m512i both = _mm512_loadu_si512(bytes);
    const __mmask64 places = _load_mask64(reinterpret_cast<__mmask64*>(const_cast<uint64_t*>(mask)));
    bytes += _mm_popcnt_u64(*mask);
    return _mm512_mask_expand_epi8(_mm512_set1_epi8(8), places, Odd ? high_halves(both) : low_halves(both));
  }
  static Acc mac(Acc acc, Word word, Factor factor) { return _mm512_dpbusd_epi32(acc, word, factor); }
  static void flush(Acc&) {}
  static Acc add(Acc a, Acc b) { return _mm512_add_epi32(a, b); }

  static Sums add_scaled(Sums sums, Acc acc, int32_t correction, Sums scales) {
    return add_scaled_epi32(sums, acc, correction, scales);
  }

#include "kernels/int4_avx512.inc"
};

#include "kernels/int4_gemm.inc"

}  // namespace

const Int4Kernels kInt4Avx512 = {input_bytes, prepare, gemm_scratch_bytes, gemv<Op>, gemm, Op::kGemvTokens};

}  // namespace cutwork

// Int4 kernels for AVX-512 without VNNI and VBMI2. Everything here has internal linkage.
#include <immintrin.h>

#include "kernels/int4.h"

namespace cutwork {
namespace {

#include "kernels/shuffles.inc"

// vpmaddubsw adds up two products of at most 15 * 127: the eight words of a run fit in 16 bits.
struct Op {
  using Word = __m512i;
  struct Acc {
    __m512i sum, part;
  };
  using Sums = __m512;
  using Factor = __m512i;
  static constexpr int kGemvTokens = 4;
  template <int T>
  static constexpr int kChains = T == 1 ? 2 : 1;
  static constexpr int kPanelTiles = 1, kGemmTokens = 8;

  static __m512i low_halves(__m512i bytes) { return _mm512_and_si512(bytes, _mm512_set1_epi8(15)); }
  static void load(const uint8_t* bytes, Word& even, Word& odd) {
    const __m512i both = _mm512_loadu_si512(bytes);
    even = low_halves(both);
    odd = low_halves(_mm512_srli_epi16(both, 4));
  }
  template <bool Odd>
  static __m128i expand16(const uint64_t* mask, int byte, const uint8_t*& bytes) {
    const uint8_t low = mask_byte(mask, byte), high = mask_byte(mask, byte + 1);
    const uint8_t* next = bytes + _mm_popcnt_u32(low);
    const __m128i both = _mm_unpacklo_epi64(load8(bytes), load8(next));
    const __m128i codes = _mm_and_si128(Odd ? _mm_srli_epi16(both, 4) : both, _mm_set1_epi8(15));
    bytes = next + _mm_popcnt_u32(high);
    return _mm_shuffle_epi8(_mm_sub_epi8(codes, _mm_set1_epi8(8)), shuffle_of(low, high));
  }
  template <bool Odd>
  static Word expand(const uint64_t* mask, const uint8_t*& bytes) {
    __m128i parts[4];
    for (int i = 0; i < 4; ++i) parts[i] = expand16<Odd>(mask, 2 * i, bytes);
    const __m256i low = _mm256_set_m128i(parts[1], parts[0]), high = _mm256_set_m128i(parts[3], parts[2]);
    return _mm512_add_epi8(_mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1), _mm512_set1_epi8(8));
  }
  static Acc mac(const Acc& acc, Word word, Factor factor) {
    return {acc.sum, _mm512_add_epi16(acc.part, _mm512_maddubs_epi16(word, factor))};
  }
  static void flush(Acc& acc) {
    acc.sum = _mm512_add_epi32(acc.sum, _mm512_madd_epi16(acc.part, _mm512_set1_epi16(1)));
    acc.part = _mm512_setzero_si512();
  }
  static Acc add(const Acc& a, const Acc& b) { return {_mm512_add_epi32(a.sum, b.sum), a.part}; }
  static Sums add_scaled(Sums sums, const Acc& acc, int32_t correction, Sums scales) {
    return add_scaled_epi32(sums, acc.sum, correction, scales);
  }

#include "kernels/int4_avx512.inc"
};

#include "kernels/int4_gemm.inc"

}  // namespace

const Int4Kernels kInt4Avx512f = {input_bytes, prepare, gemm_scratch_bytes, gemv<Op>, gemm, Op::kGemvTokens};

}  // namespace cutwork

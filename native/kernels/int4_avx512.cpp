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
  static Factor splat(const int8_t* x) {
    int32_t four;
    __builtin_memcpy(&four, x, sizeof four);
    return _mm512_set1_epi32(four);
  }
  static Acc mac(Acc acc, Word word, Factor factor) { return _mm512_dpbusd_epi32(acc, word, factor); }
  static Acc mac(Acc acc, Word word, const int8_t* x) { return mac(acc, word, splat(x)); }
  static void flush(Acc&) {}
  static Acc add(Acc a, Acc b) { return _mm512_add_epi32(a, b); }

  static Sums scales(const Weight& weight, int64_t i);
  static Sums add_scaled(Sums sums, Acc acc, int32_t correction, Sums scales) {
    const __m512 exact = _mm512_cvtepi32_ps(_mm512_sub_epi32(acc, _mm512_set1_epi32(correction)));
    return _mm512_add_ps(sums, _mm512_mul_ps(exact, scales));
  }
  static Sums load_sums(const float* from) { return _mm512_load_ps(from); }
  static void store(float* y, Sums sums, float factor, int64_t count) {
    const auto rows = static_cast<__mmask16>((1u << count) - 1);
    _mm512_mask_storeu_ps(y, rows, _mm512_mul_ps(sums, _mm512_set1_ps(factor)));
  }
  static void put(char* line, Word word) { _mm512_store_si512(line, word); }
  static Word get(const char* line) { return _mm512_load_si512(line); }
};

#include "kernels/int4_gemm.inc"

Op::Sums Op::scales(const Weight& weight, int64_t i) {
  if (weight.scale_type == ScaleType::f32) return _mm512_loadu_ps(static_cast<const float*>(weight.scales) + i);
  const __m256i halves =
      _mm256_loadu_si256(reinterpret_cast<const __m256i*>(static_cast<const uint16_t*>(weight.scales) + i));
  if (weight.scale_type == ScaleType::f16) return _mm512_cvtph_ps(halves);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

}  // namespace

const Int4Kernels kInt4Avx512 = {input_bytes, prepare, gemm_scratch_bytes, gemv<Op>, gemm, Op::kGemvTokens};

}  // namespace cutwork

// Int4 kernels for AVX2. Everything here has internal linkage.
#include <immintrin.h>

#include "kernels/int4.h"

namespace cutwork {
namespace {

#include "kernels/shuffles.inc"

// vpmaddubsw adds up two products of at most 15 * 127: the eight words of a run fit in 16 bits.
struct Op {
  struct Word {
    __m256i rows[2];
  };
  struct Acc {
    __m256i sum[2], part[2];
  };
  struct Sums {
    __m256 rows[2];
  };
  using Factor = __m256i;
  static constexpr int kGemvTokens = 2;
  template <int>
  static constexpr int kChains = 1;
  static constexpr int kPanelTiles = 1, kGemmTokens = 4;

  static __m256i low_halves(__m256i bytes) { return _mm256_and_si256(bytes, _mm256_set1_epi8(15)); }
  static void load(const uint8_t* bytes, Word& even, Word& odd) {
    for (int i = 0; i < 2; ++i) {
      const __m256i both = load32(bytes + 32 * i);
      even.rows[i] = low_halves(both);
      odd.rows[i] = low_halves(_mm256_srli_epi16(both, 4));
    }
  }
  template <bool Odd>
  static Word expand(const uint64_t* mask, const uint8_t*& bytes) {
    Word word;
    for (int i = 0; i < 2; ++i) {
      __m128i halves[2];
      for (int h = 0; h < 2; ++h) {
        const uint8_t low = mask_byte(mask, 4 * i + 2 * h), high = mask_byte(mask, 4 * i + 2 * h + 1);
        const uint8_t* next = bytes + _mm_popcnt_u32(low);
        const __m128i both = _mm_unpacklo_epi64(load8(bytes), load8(next));
        const __m128i codes = _mm_and_si128(Odd ? _mm_srli_epi16(both, 4) : both, _mm_set1_epi8(15));
        bytes = next + _mm_popcnt_u32(high);
        halves[h] = _mm_shuffle_epi8(_mm_sub_epi8(codes, _mm_set1_epi8(8)), shuffle_of(low, high));
      }
      word.rows[i] = _mm256_add_epi8(_mm256_set_m128i(halves[1], halves[0]), _mm256_set1_epi8(8));
    }
    return word;
  }
  static Factor splat(const int8_t* x) {
    int32_t four;
    __builtin_memcpy(&four, x, sizeof four);
    return _mm256_set1_epi32(four);
  }
  static Acc mac(Acc acc, const Word& word, Factor factor) {
    for (int i = 0; i < 2; ++i) acc.part[i] = _mm256_add_epi16(acc.part[i], _mm256_maddubs_epi16(word.rows[i], factor));
    return acc;
  }
  static Acc mac(const Acc& acc, const Word& word, const int8_t* x) { return mac(acc, word, splat(x)); }
  static void flush(Acc& acc) {
    for (int i = 0; i < 2; ++i) {
      acc.sum[i] = _mm256_add_epi32(acc.sum[i], _mm256_madd_epi16(acc.part[i], _mm256_set1_epi16(1)));
      acc.part[i] = _mm256_setzero_si256();
    }
  }
  static Acc add(Acc a, const Acc& b) {
    for (int i = 0; i < 2; ++i) a.sum[i] = _mm256_add_epi32(a.sum[i], b.sum[i]);
    return a;
  }

  static Sums scales(const Weight& weight, int64_t i);
  static Sums add_scaled(Sums sums, const Acc& acc, int32_t correction, const Sums& scales) {
    for (int i = 0; i < 2; ++i) {
      const __m256 exact = _mm256_cvtepi32_ps(_mm256_sub_epi32(acc.sum[i], _mm256_set1_epi32(correction)));
      sums.rows[i] = _mm256_add_ps(sums.rows[i], _mm256_mul_ps(exact, scales.rows[i]));
    }
    return sums;
  }
  static Sums load_sums(const float* from) { return {{_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}}; }
  static void store(float* y, const Sums& sums, float factor, int64_t count) {
    float out[kRowTile];
    float* to = count == kRowTile ? y : out;
    for (int i = 0; i < 2; ++i) _mm256_storeu_ps(to + 8 * i, _mm256_mul_ps(sums.rows[i], _mm256_set1_ps(factor)));
    if (count < kRowTile) __builtin_memcpy(y, out, static_cast<size_t>(count) * sizeof(float));
  }
  static void put(char* line, const Word& word) {
    for (int i = 0; i < 2; ++i) _mm256_store_si256(reinterpret_cast<__m256i*>(line + 32 * i), word.rows[i]);
  }
  static Word get(const char* line) { return {{load32(line), load32(line + 32)}}; }
};

#include "kernels/int4_gemm.inc"

Op::Sums Op::scales(const Weight& weight, int64_t i) {
  Sums sums;
  for (int h = 0; h < 2; ++h, i += 8) {
    if (weight.scale_type == ScaleType::f32) {
      sums.rows[h] = _mm256_loadu_ps(static_cast<const float*>(weight.scales) + i);
      continue;
    }
    const __m128i halves = load16(static_cast<const uint16_t*>(weight.scales) + i);
    sums.rows[h] = weight.scale_type == ScaleType::f16
                       ? _mm256_cvtph_ps(halves)
                       : _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
  }
  return sums;
}

}  // namespace

const Int4Kernels kInt4Avx2 = {input_bytes, prepare, gemm_scratch_bytes, gemv<Op>, gemm, Op::kGemvTokens};

}  // namespace cutwork

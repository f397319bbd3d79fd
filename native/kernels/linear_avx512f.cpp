// Kernels for AVX-512 without VNNI and VBMI2: the F, BW, DQ and VL of Skylake-X. Everything here has internal linkage.
#include <immintrin.h>

#include <type_traits>

#include "kernels/int4.h"
#include "kernels/linear.h"
#include "kernels/linear_sets.h"

namespace cutwork {
namespace {

constexpr const Int4Kernels& kInt4 = kInt4Avx512f;
constexpr int kCodeBias = 0;
constexpr int64_t kDeinterleave = 1;

#include "kernels/avx512_floats.inc"
#include "kernels/input.inc"
#include "kernels/shuffles.inc"

// The places of the columns first + j for each bit j of the word, in order.
template <class Columns>
void put_places(uint64_t word, int64_t, int64_t first, typename Columns::Place* out) {
  constexpr int64_t kStep = Columns::kLines * kLine / Columns::kPlaceBytes;
  for (; word != 0; word &= word - 1)
    *out++ = static_cast<typename Columns::Place>((first + Columns::kTable.place[__builtin_ctzll(word)]) * kStep);
}

// Weights as magnitudes and the mask of the negative ones. |w| * (x with w's sign) sums to at most 2 * 127 * 127 in 16
// bits, so vpmaddubsw never saturates and the products are exact.
struct Codes {
  __m512i magnitudes;
  __mmask64 negative;
};

__m512i add_products(__m512i acc, const Codes& w, __m512i x) {
  const __m512i signed_x = _mm512_mask_sub_epi8(x, w.negative, _mm512_setzero_si512(), x);
  const __m512i pairs = _mm512_maddubs_epi16(w.magnitudes, signed_x);
  return _mm512_add_epi32(acc, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}

struct I8Words;

struct I8 {
  using Masked = I8Words;
  using Value = int8_t;
  using InputValue = int8_t;
  using Sum = int32_t;
  using Raw = __m512i;
  using Chunk = Codes;
  using Acc = __m512i;
  static constexpr bool kQuantized = true;
  static constexpr int64_t kCols = 64;
  static constexpr int kGemvTokens = 4;

  static Chunk with_magnitudes(__m512i codes) { return {_mm512_abs_epi8(codes), _mm512_movepi8_mask(codes)}; }
  static __m128i expand16(const uint64_t* word, int byte, const Value*& values) {
    const uint8_t low = mask_byte(word, byte), high = mask_byte(word, byte + 1);
    const Value* next = values + _mm_popcnt_u32(low);
    const __m128i packed = _mm_unpacklo_epi64(load8(values), load8(next));
    values = next + _mm_popcnt_u32(high);
    return _mm_shuffle_epi8(packed, shuffle_of(low, high));
  }
  static Raw expand_raw(const uint64_t* word, int, const Value*& values) {
    __m128i parts[4];
    for (int i = 0; i < 4; ++i) parts[i] = expand16(word, 2 * i, values);
    const __m256i low = _mm256_set_m128i(parts[1], parts[0]), high = _mm256_set_m128i(parts[3], parts[2]);
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
  }
  static Raw load_raw(const Value* values, int64_t valid) {
    if (valid >= kCols) return _mm512_loadu_si512(values);
    return _mm512_maskz_loadu_epi8((uint64_t{1} << valid) - 1, values);
  }
  static Chunk expand(const uint64_t* word, int c, const Value*& values) {
    return with_magnitudes(expand_raw(word, c, values));
  }
  static Chunk load(const Value* values, int64_t valid) { return with_magnitudes(load_raw(values, valid)); }
  static Acc dot(Acc acc, const Chunk& w, const InputValue* x) { return add_products(acc, w, _mm512_loadu_si512(x)); }
  static Acc add(Acc a, Acc b) { return _mm512_add_epi32(a, b); }
  static void sum4(const Acc* acc, int stride, Sum* out) { sum4_epi32(acc, stride, out); }

  using PanelAcc = __m512i;
  using Lane = Codes;
  using Factor = __m512i;
  static constexpr int64_t kDepth = 4;
  static constexpr int kPanelTiles = 2, kGemmTokens = 8, kVectors = 1;
  static constexpr int64_t kPanelCols = 2048;

  template <class Line>
  static void write_lines(const Raw (&raws)[kRawRows], Line* lines) {
    write_all(raws, lines);
  }
  static Lane lane(const char* line, int) { return with_magnitudes(_mm512_load_si512(line)); }
  static Factor splat(const InputValue* x) {
    int32_t four;
    __builtin_memcpy(&four, x, sizeof four);
    return _mm512_set1_epi32(four);
  }
  static PanelAcc mac(PanelAcc acc, const Lane& w, Factor x) { return add_products(acc, w, x); }
  static PanelAcc load_sum(const Sum* from) { return _mm512_load_si512(from); }
  static void store_sum(PanelAcc acc, Sum* to) { _mm512_store_si512(to, acc); }
  static constexpr bool kDeinterleaved = false;
  static constexpr int kSharedRows = 4;
  static Lane weight_lane(const void* codes) { return with_magnitudes(splat(static_cast<const InputValue*>(codes))); }
  static Factor tokens(const char* line, int) { return _mm512_load_si512(line); }
  static PanelAcc add_sums(PanelAcc a, PanelAcc b) { return _mm512_add_epi32(a, b); }
};

// Whole words, for gemv.
struct I8Words : I8 {
  static constexpr int64_t kReadBefore = kExpandReadsBefore;
  static Chunk expand(const uint64_t* word, int, const Value*& values) {
    const Expanded w = expand_word(word, values);
    return with_magnitudes(_mm512_inserti64x4(_mm512_castsi256_si512(w.low), w.high, 1));
  }
  static Acc dot(Acc acc, const Chunk& w, const InputValue* x) {
    const __m512i natural = _mm512_loadu_si512(x);
    return add_products(acc, w, _mm512_alignr_epi64(natural, natural, 1));
  }
};

// Widened before they are expanded, for there is no expansion of 16-bit elements.
struct Bf16 : Floats {
  using Masked = Bf16;
  using Value = uint16_t;
  using Raw = __m512i;
  using Chunk = __m512;
  static constexpr int64_t kCols = 16;
  static constexpr bool kDeinterleaved = false;

  static Raw widen(__m256i bits) { return _mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16); }
  static Raw expand_raw(const uint64_t* word, int c, const Value*& values) {
    const uint16_t mask = mask_part<uint16_t>(word, c);
    const Raw packed = widen(load32(values));
    values += _mm_popcnt_u32(mask);
    return _mm512_mask_expand_epi32(opaque_zero(), mask, packed);
  }
  static Raw load_raw(const Value* values, int64_t valid) {
    if (valid >= kCols) return widen(load32(values));
    return widen(_mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << valid) - 1), values));
  }
  static Chunk expand(const uint64_t* word, int c, const Value*& values) {
    return _mm512_castsi512_ps(expand_raw(word, c, values));
  }
  static Chunk load(const Value* values, int64_t valid) { return _mm512_castsi512_ps(load_raw(values, valid)); }
  static Acc dot(Acc acc, Chunk w, const InputValue* x) { return _mm512_fmadd_ps(w, _mm512_loadu_ps(x), acc); }
  static void put_values(const Value* values, int64_t count, float* out) {
    for (int64_t i = 0; i < count; i += 16) _mm512_storeu_si512(out + i, widen(load32(values + i)));
  }
  template <class Line>
  static void write_lines(const Raw (&raws)[kRawRows], Line* lines) {
    write_all(raws, lines);
  }
};

#include "kernels/multiply.inc"

}  // namespace

const LinearKernels kLinearAvx512f = {input_bytes,   prepare,  rearranged_bytes, rearrange_input,   has,
                                      scratch_bytes, multiply, gemv_tokens,      RowLanes::plan_all};

}  // namespace cutwork

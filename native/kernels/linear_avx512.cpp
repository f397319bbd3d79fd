// Kernels for AVX-512 with VNNI and VBMI2. Everything here has internal linkage: no other file may end up running it.
#include <immintrin.h>

#include <cstddef>
#include <type_traits>

#include "kernels/int4.h"
#include "kernels/linear.h"
#include "kernels/linear_sets.h"

namespace cutwork {
namespace {

constexpr const Int4Kernels& kInt4 = kInt4Avx512;
constexpr int kCodeBias = 128;  // vpdpbusd multiplies unsigned inputs by signed weights
constexpr int64_t kDeinterleave = 32;

#include "kernels/avx512_floats.inc"
#include "kernels/input.inc"

// The places of the columns first + j for each of the `count` bits j of the word, in order; writes up to 64 in all.
template <class Columns>
void put_places(uint64_t word, int64_t count, int64_t first, typename Columns::Place* out) {
  const __m512i columns = _mm512_mask_compress_epi8(opaque_zero(), word, _mm512_load_si512(Columns::kTable.place));
  if constexpr (sizeof(typename Columns::Place) == 1) {
    static_assert(Columns::kPlaceBytes == Columns::kLines * kLine);
    _mm512_storeu_si512(out, _mm512_add_epi8(columns, _mm512_set1_epi8(static_cast<char>(first))));
  } else {
    constexpr unsigned kShift = __builtin_ctzll(Columns::kLines * kLine / Columns::kPlaceBytes);
    static_assert(Columns::kLikely == 32);
    const __m512i base = _mm512_set1_epi16(static_cast<int16_t>(first << kShift));
    const auto place = [&](__m256i some) {
      return _mm512_add_epi16(_mm512_slli_epi16(_mm512_cvtepu8_epi16(some), kShift), base);
    };
    _mm512_storeu_si512(out, place(_mm512_castsi512_si256(columns)));
    if (__builtin_expect(count > Columns::kLikely, 0))
      _mm512_storeu_si512(out + 32, place(_mm512_extracti64x4_epi64(columns, 1)));
  }
}

struct I8 {
  using Masked = I8;
  using Value = int8_t;
  using InputValue = uint8_t;
  using Sum = int32_t;
  using Raw = __m512i;
  using Chunk = __m512i;
  using Acc = __m512i;
  static constexpr bool kQuantized = true;
  static constexpr int64_t kCols = 64;
  static constexpr int kGemvTokens = 6;

  static Raw expand_raw(const uint64_t* word, int, const Value*& values) {
    const auto mask = mask_part<__mmask64>(word, 0);
    const __m512i packed = _mm512_loadu_si512(values);
    values += _mm_popcnt_u64(*word);
    return _mm512_mask_expand_epi8(opaque_zero(), mask, packed);
  }
  static Raw load_raw(const Value* values, int64_t valid) {
    if (valid >= kCols) return _mm512_loadu_si512(values);
    return _mm512_maskz_loadu_epi8((uint64_t{1} << valid) - 1, values);
  }
  static Chunk expand(const uint64_t* word, int c, const Value*& values) { return expand_raw(word, c, values); }
  static Chunk load(const Value* values, int64_t valid) { return load_raw(values, valid); }
  static Acc dot(Acc acc, Chunk w, const InputValue* x) { return _mm512_dpbusd_epi32(acc, _mm512_loadu_si512(x), w); }
  static void sum4(const Acc* acc, int stride, Sum* out) { sum4_epi32(acc, stride, out); }
  static Acc add(Acc a, Acc b) { return _mm512_add_epi32(a, b); }

  using PanelAcc = __m512i;
  using Lane = __m512i;
  using Factor = __m512i;
  static constexpr int64_t kDepth = 4;
  static constexpr int kPanelTiles = 3, kGemmTokens = 8, kVectors = 1;
  static constexpr int64_t kPanelCols = 2048;

  template <class Line>
  static void write_lines(const Raw (&raws)[kRawRows], Line* lines) {
    write_all(raws, lines);
  }
  static Lane lane(const char* line, int) { return _mm512_load_si512(line); }
  static Factor splat(const InputValue* x) {
    int32_t four;
    __builtin_memcpy(&four, x, sizeof four);
    return _mm512_set1_epi32(four);
  }
  static PanelAcc mac(PanelAcc acc, Lane w, Factor x) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(x), "v"(w));  // gcc copies the sums around the intrinsic
    return acc;
  }
  static PanelAcc load_sum(const Sum* from) { return _mm512_load_si512(from); }
  static void store_sum(PanelAcc acc, Sum* to) { _mm512_store_si512(to, acc); }
  static constexpr bool kDeinterleaved = false;
  static constexpr int kSharedRows = 4;
  static Lane weight_lane(const void* codes) { return splat(static_cast<const InputValue*>(codes)); }
  static Factor tokens(const char* line, int) { return _mm512_load_si512(line); }
  static PanelAcc add_sums(PanelAcc a, PanelAcc b) { return _mm512_add_epi32(a, b); }
};

// 32 columns: the evens and the odds, which is how the input is stored.
struct Bf16 : Floats {
  using Masked = Bf16;
  using Value = uint16_t;
  using Raw = __m512i;
  struct Chunk {
    __m512 even, odd;
  };
  static constexpr int64_t kCols = 32;

  static Raw expand_raw(const uint64_t* word, int c, const Value*& values) {
    const uint32_t mask = mask_part<uint32_t>(word, c);
    const __m512i packed = _mm512_loadu_si512(values);
    values += _mm_popcnt_u32(mask);
    return _mm512_mask_expand_epi16(opaque_zero(), mask, packed);
  }
  static Raw load_raw(const Value* values, int64_t valid) {
    if (valid >= kCols) return _mm512_loadu_si512(values);
    return _mm512_maskz_loadu_epi16(static_cast<__mmask32>((uint64_t{1} << valid) - 1), values);
  }
  static Chunk widen(Raw pairs) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)),
            _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xffff0000u))))};
  }
  static Chunk expand(const uint64_t* word, int c, const Value*& values) { return widen(expand_raw(word, c, values)); }
  static Chunk load(const Value* values, int64_t valid) { return widen(load_raw(values, valid)); }
  static Acc dot(Acc acc, Chunk w, const InputValue* x) {
    return _mm512_fmadd_ps(w.odd, _mm512_loadu_ps(x + 16), _mm512_fmadd_ps(w.even, _mm512_loadu_ps(x), acc));
  }
  static constexpr bool kDeinterleaved = true;
  static void put_values(const Value* values, int64_t count, float* out) {
    for (int64_t i = 0; i < count; i += 32) {
      const __m512i some = _mm512_loadu_si512(values + i);
      const __m256i halves[] = {_mm512_castsi512_si256(some), _mm512_extracti64x4_epi64(some, 1)};
      for (int64_t h = 0; h < 2; ++h)
        _mm512_storeu_si512(out + i + 16 * h, _mm512_slli_epi32(_mm512_cvtepu16_epi32(halves[h]), 16));
    }
  }
  template <class Line>
  static void write_lines(const Raw (&raws)[kRawRows], Line* lines) {
#pragma GCC unroll 16
    for (int i = 0; i < kRawRows; ++i) {
      const Chunk pair = widen(raws[i]);
      _mm512_store_ps(lines[i], pair.even);
      _mm512_store_ps(lines[kRawRows + i], pair.odd);
    }
  }
};

#include "kernels/multiply.inc"

}  // namespace

const LinearKernels kLinearAvx512 = {input_bytes,   prepare,  rearranged_bytes, rearrange_input,   has,
                                     scratch_bytes, multiply, gemv_tokens,      RowLanes::plan_all};

}  // namespace cutwork

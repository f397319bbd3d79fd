// Kernels for AVX-512 with VNNI and VBMI2. Everything here has internal linkage: no other file may end up running it.
#include <immintrin.h>

#include "kernels/int4.h"
#include "kernels/linear.h"
#include "kernels/linear_sets.h"

namespace cutwork {
namespace {

constexpr const Int4Kernels& kInt4 = kInt4Avx512;
constexpr int kCodeBias = 128;  // vpdpbusd multiplies unsigned inputs by signed weights
constexpr int64_t kDeinterleave = 32;

#include "kernels/input.inc"

// Expansion with zero-masking waits for the destination's old value on AMD; merging into a register that the compiler
// cannot know to be zero does not.
__m512i opaque_zero() {
  __m512i zero;
  __asm__("vpxord %x0, %x0, %x0" : "=v"(zero));
  return zero;
}

template <class T>
T mask_part(const uint64_t* word, int c) {
  T part;
  __builtin_memcpy(&part, reinterpret_cast<const char*>(word) + c * static_cast<int>(sizeof(T)), sizeof(T));
  return part;
}

constexpr int kRawRows = 16;

// 16 x 16 dwords: 4 x 4 within lanes, then the lanes.
void transpose(__m512i (&rows)[kRawRows]) {
  __m512i quads[kRawRows];  // 4j + i: lane l holds column 4l + i of rows 4j .. 4j + 3
#pragma GCC unroll 4
  for (int j = 0; j < kRawRows; j += 4) {
    const __m512i low01 = _mm512_unpacklo_epi32(rows[j], rows[j + 1]);
    const __m512i high01 = _mm512_unpackhi_epi32(rows[j], rows[j + 1]);
    const __m512i low23 = _mm512_unpacklo_epi32(rows[j + 2], rows[j + 3]);
    const __m512i high23 = _mm512_unpackhi_epi32(rows[j + 2], rows[j + 3]);
    quads[j] = _mm512_unpacklo_epi64(low01, low23);
    quads[j + 1] = _mm512_unpackhi_epi64(low01, low23);
    quads[j + 2] = _mm512_unpacklo_epi64(high01, high23);
    quads[j + 3] = _mm512_unpackhi_epi64(high01, high23);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m512i low02 = _mm512_shuffle_i32x4(quads[i], quads[4 + i], 0x88);
    const __m512i low13 = _mm512_shuffle_i32x4(quads[i], quads[4 + i], 0xdd);
    const __m512i high02 = _mm512_shuffle_i32x4(quads[8 + i], quads[12 + i], 0x88);
    const __m512i high13 = _mm512_shuffle_i32x4(quads[8 + i], quads[12 + i], 0xdd);
    rows[i] = _mm512_shuffle_i32x4(low02, high02, 0x88);
    rows[8 + i] = _mm512_shuffle_i32x4(low02, high02, 0xdd);
    rows[4 + i] = _mm512_shuffle_i32x4(low13, high13, 0x88);
    rows[12 + i] = _mm512_shuffle_i32x4(low13, high13, 0xdd);
  }
}

// offset + table[j] for each bit j of the word, in order; writes up to a line too much.
void put_places(const uint16_t* table, uint64_t word, uint16_t offset, uint16_t* out) {
  const __m512i base = _mm512_set1_epi16(static_cast<int16_t>(offset));
  const auto low = static_cast<uint32_t>(word), high = static_cast<uint32_t>(word >> 32);
  const __m512i low_places = _mm512_add_epi16(base, _mm512_load_si512(table));
  const __m512i high_places = _mm512_add_epi16(base, _mm512_load_si512(table + 32));
  _mm512_storeu_si512(out, _mm512_mask_compress_epi16(opaque_zero(), low, low_places));
  _mm512_storeu_si512(out + _mm_popcnt_u32(low), _mm512_mask_compress_epi16(opaque_zero(), high, high_places));
}

template <class Line>
void write_all(const __m512i (&raws)[kRawRows], Line* lines) {
#pragma GCC unroll 16
  for (int i = 0; i < kRawRows; ++i) _mm512_store_si512(lines[i], raws[i]);
}

struct I8 {
  using Value = int8_t;
  using InputValue = uint8_t;
  using Sum = int32_t;
  using Raw = __m512i;
  using Chunk = __m512i;
  using Acc = __m512i;
  static constexpr bool kQuantized = true;
  static constexpr int64_t kCols = 64;
  static constexpr int kGemvTokens = 4;

  static Raw expand_raw(const uint64_t* word, int, const Value*& values) {
    const __mmask64 mask = _load_mask64(reinterpret_cast<__mmask64*>(const_cast<uint64_t*>(word)));
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
  static void sum4(const Acc* acc, int stride, Sum* out) {
    const __m512i a = acc[0], b = acc[stride], c = acc[2 * stride], d = acc[3 * stride];
    const __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    const __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    const __m512i abcd = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    const __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(abcd), _mm512_extracti64x4_epi64(abcd, 1));
    const __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), sum);
  }
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
  static PanelAcc mac(PanelAcc acc, Lane w, Factor x) { return _mm512_dpbusd_epi32(acc, x, w); }
  static PanelAcc load_sum(const Sum* from) { return _mm512_load_si512(from); }
  static void store_sum(PanelAcc acc, Sum* to) { _mm512_store_si512(to, acc); }
};

struct Floats {
  using InputValue = float;
  using Sum = float;
  using Acc = __m512;
  static constexpr bool kQuantized = false;
  static constexpr int kGemvTokens = 4;

  static Acc add(Acc a, Acc b) { return _mm512_add_ps(a, b); }
  static void sum4(const Acc* acc, int stride, Sum* out) {
    const __m512 a = acc[0], b = acc[stride], c = acc[2 * stride], d = acc[3 * stride];
    const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    const __m512d ab2 = _mm512_castps_pd(ab), cd2 = _mm512_castps_pd(cd);
    const __m512 abcd =
        _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(ab2, cd2)), _mm512_castpd_ps(_mm512_unpackhi_pd(ab2, cd2)));
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(abcd), _mm512_extractf32x8_ps(abcd, 1));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
  }

  using PanelAcc = __m512;
  using Lane = __m512;
  using Factor = __m512;
  static constexpr int64_t kDepth = 1;
  static constexpr int kPanelTiles = 3, kGemmTokens = 8, kVectors = 1;
  static constexpr int64_t kPanelCols = 512;

  static Lane lane(const char* line, int) { return _mm512_load_ps(line); }
  static Factor splat(const InputValue* x) { return _mm512_set1_ps(*x); }
  static PanelAcc mac(PanelAcc acc, Lane w, Factor x) { return _mm512_fmadd_ps(w, x, acc); }
  static PanelAcc load_sum(const Sum* from) { return _mm512_load_ps(from); }
  static void store_sum(PanelAcc acc, Sum* to) { _mm512_store_ps(to, acc); }
};

struct F32 : Floats {
  using Value = float;
  using Raw = __m512i;
  using Chunk = __m512;
  static constexpr int64_t kCols = 16;

  static Raw expand_raw(const uint64_t* word, int c, const Value*& values) {
    const uint16_t mask = mask_part<uint16_t>(word, c);
    const __m512i packed = _mm512_loadu_si512(values);
    values += _mm_popcnt_u32(mask);
    return _mm512_mask_expand_epi32(opaque_zero(), mask, packed);
  }
  static Raw load_raw(const Value* values, int64_t valid) {
    if (valid >= kCols) return _mm512_loadu_si512(values);
    return _mm512_maskz_loadu_epi32(static_cast<__mmask16>((1u << valid) - 1), values);
  }
  static Chunk expand(const uint64_t* word, int c, const Value*& values) {
    return _mm512_castsi512_ps(expand_raw(word, c, values));
  }
  static Chunk load(const Value* values, int64_t valid) { return _mm512_castsi512_ps(load_raw(values, valid)); }
  static Acc dot(Acc acc, Chunk w, const InputValue* x) { return _mm512_fmadd_ps(w, _mm512_loadu_ps(x), acc); }
  static constexpr bool kDeinterleaved = false;
  static void put_values(const Value* values, int64_t count, float* out) {
    for (int64_t i = 0; i < count; i += 16) _mm512_storeu_ps(out + i, _mm512_loadu_ps(values + i));
  }
  template <class Line>
  static void write_lines(const Raw (&raws)[kRawRows], Line* lines) {
    write_all(raws, lines);
  }
};

// 32 columns: the evens and the odds, which is how the input is stored.
struct Bf16 : Floats {
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
    for (int64_t i = 0; i < count; i += 16) {
      const __m256i some = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values + i));
      _mm512_storeu_si512(out + i, _mm512_slli_epi32(_mm512_cvtepu16_epi32(some), 16));
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

const LinearKernels kLinearAvx512 = {input_bytes, prepare, has, scratch_bytes, multiply, gemv_tokens};

}  // namespace cutwork

// Kernels for AVX2 with FMA. Everything here has internal linkage: no other file may end up running it.
#include <immintrin.h>

#include <type_traits>

#include "kernels/int4.h"
#include "kernels/linear.h"
#include "kernels/linear_sets.h"

namespace cutwork {
namespace {

constexpr const Int4Kernels& kInt4 = kInt4Avx2;
constexpr int kCodeBias = 0;
constexpr int64_t kDeinterleave = 16;

#include "kernels/input.inc"
#include "kernels/shuffles.inc"

// For each mask byte a shuffle of eight 16-bit values.
struct PairShuffleTable {
  alignas(64) uint8_t rank[256][16];

  constexpr PairShuffleTable() : rank() {
    for (int mask = 0; mask < 256; ++mask)
      for (int i = 0; i < 16; ++i) {
        const int place = kShuffles.rank[mask][i / 2];
        rank[mask][i] = static_cast<uint8_t>(place < 8 ? 2 * place + i % 2 : 0x80);
      }
  }
};
constexpr PairShuffleTable kPairShuffles;

constexpr int kRawRows = 8;

// 8 x 8 dwords: 4 x 4 within lanes, then the lanes.
void transpose(__m256i (&rows)[kRawRows]) {
  __m256i quads[kRawRows];  // 4j + i: lane l holds column 4l + i of rows 4j .. 4j + 3
#pragma GCC unroll 2
  for (int j = 0; j < kRawRows; j += 4) {
    const __m256i low01 = _mm256_unpacklo_epi32(rows[j], rows[j + 1]);
    const __m256i high01 = _mm256_unpackhi_epi32(rows[j], rows[j + 1]);
    const __m256i low23 = _mm256_unpacklo_epi32(rows[j + 2], rows[j + 3]);
    const __m256i high23 = _mm256_unpackhi_epi32(rows[j + 2], rows[j + 3]);
    quads[j] = _mm256_unpacklo_epi64(low01, low23);
    quads[j + 1] = _mm256_unpackhi_epi64(low01, low23);
    quads[j + 2] = _mm256_unpacklo_epi64(high01, high23);
    quads[j + 3] = _mm256_unpackhi_epi64(high01, high23);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    rows[i] = _mm256_permute2x128_si256(quads[i], quads[4 + i], 0x20);
    rows[4 + i] = _mm256_permute2x128_si256(quads[i], quads[4 + i], 0x31);
  }
}

// The places of the columns first + j for each bit j of the word, in order.
template <class Columns>
void put_places(uint64_t word, int64_t, int64_t first, typename Columns::Place* out) {
  constexpr int64_t kStep = Columns::kLines * kLine / Columns::kPlaceBytes;
  for (; word != 0; word &= word - 1)
    *out++ = static_cast<typename Columns::Place>((first + Columns::kTable.place[__builtin_ctzll(word)]) * kStep);
}

// Transposes 4 x 4 bytes and then 4 x 4 dwords within lanes.
void split_bytes(__m256i (&four)[4]) {
  const __m256i by_byte =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
#pragma GCC unroll 4
  for (__m256i& one : four) one = _mm256_shuffle_epi8(one, by_byte);
  const __m256i low01 = _mm256_unpacklo_epi32(four[0], four[1]), high01 = _mm256_unpackhi_epi32(four[0], four[1]);
  const __m256i low23 = _mm256_unpacklo_epi32(four[2], four[3]), high23 = _mm256_unpackhi_epi32(four[2], four[3]);
  four[0] = _mm256_unpacklo_epi64(low01, low23);
  four[1] = _mm256_unpackhi_epi64(low01, low23);
  four[2] = _mm256_unpacklo_epi64(high01, high23);
  four[3] = _mm256_unpackhi_epi64(high01, high23);
}

void zip_bytes(const char* a, const char* b, const char* c, const char* d, __m256i (&four)[4]) {
  const __m256i first = load32(a), second = load32(b), third = load32(c), fourth = load32(d);
  const __m256i low = _mm256_unpacklo_epi8(first, second), high = _mm256_unpackhi_epi8(first, second);
  const __m256i next_low = _mm256_unpacklo_epi8(third, fourth), next_high = _mm256_unpackhi_epi8(third, fourth);
  four[0] = _mm256_unpacklo_epi16(low, next_low);
  four[1] = _mm256_unpackhi_epi16(low, next_low);
  four[2] = _mm256_unpacklo_epi16(high, next_high);
  four[3] = _mm256_unpackhi_epi16(high, next_high);
}

template <class Line>
void write_all(const __m256i (&raws)[kRawRows], Line* lines) {
#pragma GCC unroll 8
  for (int i = 0; i < kRawRows; ++i) _mm256_store_si256(reinterpret_cast<__m256i*>(lines[i]), raws[i]);
}

// Weights with their magnitudes. |w| * (x with w's sign) sums to at most 2 * 127 * 127 in 16 bits, so vpmaddubsw never
// saturates and the products are exact.
struct Codes {
  __m256i codes, magnitudes;
};

__m256i add_products(__m256i acc, const Codes& w, __m256i x) {
  const __m256i pairs = _mm256_maddubs_epi16(w.magnitudes, _mm256_sign_epi8(x, w.codes));
  return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

struct I8Words;

struct I8 {
  using Masked = I8Words;
  using Value = int8_t;
  using InputValue = int8_t;
  using Sum = int32_t;
  using Raw = __m256i;
  using Chunk = Codes;
  using Acc = __m256i;
  static constexpr bool kQuantized = true;
  static constexpr int64_t kCols = 32;
  static constexpr int kGemvTokens = 2;

  static Chunk with_magnitudes(__m256i codes) { return {codes, _mm256_abs_epi8(codes)}; }
  static __m128i expand16(const uint64_t* word, int byte, const Value*& values) {
    const uint8_t low = mask_byte(word, byte), high = mask_byte(word, byte + 1);
    const Value* next = values + _mm_popcnt_u32(low);
    const __m128i packed = _mm_unpacklo_epi64(load8(values), load8(next));
    values = next + _mm_popcnt_u32(high);
    return _mm_shuffle_epi8(packed, shuffle_of(low, high));
  }
  static Raw expand_raw(const uint64_t* word, int c, const Value*& values) {
    const __m128i low = expand16(word, 4 * c, values);
    return _mm256_inserti128_si256(_mm256_castsi128_si256(low), expand16(word, 4 * c + 2, values), 1);
  }
  static Raw load_raw(const Value* values, int64_t valid) {
    if (valid >= kCols) return load32(values);
    Value some[kCols] = {};
    for (int64_t k = 0; k < valid; ++k) some[k] = values[k];
    return load32(some);
  }
  static Chunk expand(const uint64_t* word, int c, const Value*& values) {
    return with_magnitudes(expand_raw(word, c, values));
  }
  static Chunk load(const Value* values, int64_t valid) { return with_magnitudes(load_raw(values, valid)); }
  static Acc dot(Acc acc, const Chunk& w, const InputValue* x) { return add_products(acc, w, load32(x)); }
  static Acc add(Acc a, Acc b) { return _mm256_add_epi32(a, b); }
  static void sum4(const Acc* acc, int stride, Sum* out) {
    const __m256i ab = _mm256_hadd_epi32(acc[0], acc[stride]), cd = _mm256_hadd_epi32(acc[2 * stride], acc[3 * stride]);
    const __m256i abcd = _mm256_hadd_epi32(ab, cd);
    const __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(abcd), _mm256_extracti128_si256(abcd, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), sum);
  }

  using PanelAcc = __m256i;
  using Lane = Codes;
  using Factor = __m256i;
  static constexpr int64_t kDepth = 4;
  static constexpr int kPanelTiles = 1, kGemmTokens = 4, kVectors = 2;
  static constexpr int64_t kPanelCols = 2048;

  template <class Line>
  static void write_lines(const Raw (&raws)[kRawRows], Line* lines) {
    write_all(raws, lines);
  }
  static Lane lane(const char* line, int v) { return with_magnitudes(load32(line + 32 * v)); }
  static Factor splat(const InputValue* x) {
    int32_t four;
    __builtin_memcpy(&four, x, sizeof four);
    return _mm256_set1_epi32(four);
  }
  static PanelAcc mac(PanelAcc acc, const Lane& w, Factor x) { return add_products(acc, w, x); }
  static PanelAcc load_sum(const Sum* from) { return load32(from); }
  static void store_sum(PanelAcc acc, Sum* to) { _mm256_store_si256(reinterpret_cast<__m256i*>(to), acc); }
  static constexpr bool kDeinterleaved = false;
  static constexpr int kSharedRows = 1;
  static Lane weight_lane(const void* codes) { return with_magnitudes(splat(static_cast<const InputValue*>(codes))); }
  static Factor tokens(const char* line, int v) { return load32(line + 32 * v); }
  static PanelAcc add_sums(PanelAcc a, PanelAcc b) { return _mm256_add_epi32(a, b); }
};

// Whole words, for gemv.
struct I8Words : I8 {
  static constexpr int64_t kReadBefore = kExpandReadsBefore;
  using Chunk = Expanded;
  static constexpr int64_t kCols = kBlockCols;

  static Chunk expand(const uint64_t* word, int, const Value*& values) { return expand_word(word, values); }
  static Acc dot(Acc acc, const Chunk& w, const InputValue* x) {
    const __m256i ends = _mm256_blend_epi32(load32(x + 32), load32(x), 3);
    acc = add_products(acc, with_magnitudes(w.low), load32(x + 8));
    return add_products(acc, with_magnitudes(w.high), _mm256_permute4x64_epi64(ends, 0x39));
  }
};

struct Floats {
  using InputValue = float;
  using Sum = float;
  using Raw = __m256i;
  using Chunk = __m256;
  using Acc = __m256;
  static constexpr bool kQuantized = false;
  static constexpr int64_t kCols = 8;
  static constexpr int kGemvTokens = 2;

  // The eight floats whose first ones are the nonzeros, spread over the mask byte's bits.
  static Chunk spread(__m256 packed, uint8_t mask) {
    const __m256i ranks = _mm256_cvtepi8_epi32(load8(kShuffles.rank[mask]));
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(packed, ranks), _mm256_setzero_ps(), _mm256_castsi256_ps(ranks));
  }
  static Acc dot(Acc acc, Chunk w, const InputValue* x) { return _mm256_fmadd_ps(w, _mm256_loadu_ps(x), acc); }
  static Acc add(Acc a, Acc b) { return _mm256_add_ps(a, b); }
  static void sum4(const Acc* acc, int stride, Sum* out) {
    const __m256 ab = _mm256_hadd_ps(acc[0], acc[stride]), cd = _mm256_hadd_ps(acc[2 * stride], acc[3 * stride]);
    const __m256 abcd = _mm256_hadd_ps(ab, cd);
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(abcd), _mm256_extractf128_ps(abcd, 1)));
  }

  using PanelAcc = __m256;
  using Lane = __m256;
  using Factor = __m256;
  static constexpr int64_t kDepth = 1;
  static constexpr int kPanelTiles = 1, kGemmTokens = 6, kVectors = 2;
  static constexpr int64_t kPanelCols = 512;

  template <class Line>
  static void write_lines(const Raw (&raws)[kRawRows], Line* lines) {
    write_all(raws, lines);
  }
  static Lane lane(const char* line, int v) { return _mm256_load_ps(reinterpret_cast<const float*>(line) + 8 * v); }
  static Factor splat(const InputValue* x) { return _mm256_broadcast_ss(x); }
  static PanelAcc mac(PanelAcc acc, Lane w, Factor x) { return _mm256_fmadd_ps(w, x, acc); }
  static PanelAcc load_sum(const Sum* from) { return _mm256_load_ps(from); }
  static void store_sum(PanelAcc acc, Sum* to) { _mm256_store_ps(to, acc); }
  static constexpr int kSharedRows = 1;
  static Lane weight_lane(const float* value) { return splat(value); }
  static Factor tokens(const char* line, int v) { return lane(line, v); }
  static PanelAcc add_sums(PanelAcc a, PanelAcc b) { return _mm256_add_ps(a, b); }
};

struct F32 : Floats {
  using Masked = F32;
  using Value = float;
  static constexpr bool kDeinterleaved = false;

  static Chunk expand(const uint64_t* word, int c, const Value*& values) {
    const uint8_t mask = mask_byte(word, c);
    const __m256 packed = _mm256_loadu_ps(values);
    values += _mm_popcnt_u32(mask);
    return spread(packed, mask);
  }
  static Chunk load(const Value* values, int64_t valid) {
    if (valid >= kCols) return _mm256_loadu_ps(values);
    Value some[kCols] = {};
    for (int64_t k = 0; k < valid; ++k) some[k] = values[k];
    return _mm256_loadu_ps(some);
  }
  static Raw expand_raw(const uint64_t* word, int c, const Value*& values) {
    return _mm256_castps_si256(expand(word, c, values));
  }
  static Raw load_raw(const Value* values, int64_t valid) { return _mm256_castps_si256(load(values, valid)); }
  static void put_values(const Value* values, int64_t count, float* out) {
    for (int64_t i = 0; i < count; i += 8) _mm256_storeu_ps(out + i, _mm256_loadu_ps(values + i));
  }
};

// Sixteen columns: the evens and the odds, which is how the input is stored.
struct Bf16 : Floats {
  using Masked = Bf16;
  using Value = uint16_t;
  struct Chunk {
    __m256 even, odd;
  };
  static constexpr int64_t kCols = 16;
  static constexpr bool kDeinterleaved = true;

  static Raw expand_raw(const uint64_t* word, int c, const Value*& values) {
    const uint8_t low = mask_byte(word, 2 * c), high = mask_byte(word, 2 * c + 1);
    const Value* next = values + _mm_popcnt_u32(low);
    const __m128i first = _mm_shuffle_epi8(load16(values), load16(kPairShuffles.rank[low]));
    const __m128i second = _mm_shuffle_epi8(load16(next), load16(kPairShuffles.rank[high]));
    values = next + _mm_popcnt_u32(high);
    return _mm256_set_m128i(second, first);
  }
  static Raw load_raw(const Value* values, int64_t valid) {
    if (valid >= kCols) return load32(values);
    Value some[kCols] = {};
    for (int64_t k = 0; k < valid; ++k) some[k] = values[k];
    return load32(some);
  }
  static Chunk widen(Raw pairs) {
    return {_mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)),
            _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(static_cast<int>(0xffff0000u))))};
  }
  static Chunk expand(const uint64_t* word, int c, const Value*& values) { return widen(expand_raw(word, c, values)); }
  static Chunk load(const Value* values, int64_t valid) { return widen(load_raw(values, valid)); }
  static Acc dot(Acc acc, const Chunk& w, const InputValue* x) {
    return _mm256_fmadd_ps(w.odd, _mm256_loadu_ps(x + 8), _mm256_fmadd_ps(w.even, _mm256_loadu_ps(x), acc));
  }
  static void put_values(const Value* values, int64_t count, float* out) {
    for (int64_t i = 0; i < count; i += 8)
      _mm256_storeu_ps(out + i, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load16(values + i)), 16)));
  }
  template <class Line>
  static void write_lines(const Raw (&raws)[kRawRows], Line* lines) {
#pragma GCC unroll 8
    for (int i = 0; i < kRawRows; ++i) {
      const Chunk pair = widen(raws[i]);
      _mm256_store_ps(reinterpret_cast<float*>(lines[i]), pair.even);
      _mm256_store_ps(reinterpret_cast<float*>(lines[kRawRows + i]), pair.odd);
    }
  }
};

#include "kernels/multiply.inc"

}  // namespace

const LinearKernels kLinearAvx2 = {input_bytes,   prepare,  rearranged_bytes, rearrange_input,   has,
                                   scratch_bytes, multiply, gemv_tokens,      RowLanes::plan_all};

}  // namespace cutwork

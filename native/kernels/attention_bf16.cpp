// Attention in bfloat16 for processors that multiply it in pairs.
#ifdef CUTWORK_X86
#include <cpuid.h>
#include <immintrin.h>

#include <type_traits>

#include "kernels/attention.h"

namespace cutwork {
namespace {

#include "kernels/elementwise_floats.inc"

// Rows that share each load of keys or values, times two vectors: what the registers hold.
constexpr int kTileRows = 12;

#include "kernels/attention_softmax.inc"

// In a block keys are [depth / 2, block_size, 2] and values [block_size / 2, value_stride, 2], so that one load brings
// two dimensions of sixteen keys, or sixteen dimensions of two values.
constexpr int64_t kPairKeys = 2 * kLanes;  // keys per tile of scores
constexpr float kLog2 = 1.44269504f;       // of e: scores are logarithms to base 2

// Calls put(i, pair) with each pair i of x * scale, of even length, in bfloat16.
template <class Put>
inline void each_pair(const float* x, float scale, int64_t length, const Put& put) {
  for (int64_t d = 0; d < length; d += kLanes) {
    const int64_t count = least(length - d, kLanes);
    uint32_t pairs[kLanes / 2];
    const __m512 some = count < kLanes ? load_some(x + d, static_cast<int>(count)) : load(x + d);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(pairs), (__m256i)_mm512_cvtneps_pbh(some * set(scale)));
    for (int64_t i = 0; i < count / 2; ++i) put(d / 2 + i, pairs[i]);
  }
}

inline __m512bh load_pairs(const uint16_t* p) {
  return (__m512bh)_mm512_loadu_si512(p);
}

inline __m512bh broadcast_pair(const uint16_t* p) {
  int32_t pair;
  __builtin_memcpy(&pair, p, sizeof pair);
  return (__m512bh)_mm512_set1_epi32(pair);
}

// What attention has come to after some keys: of each row sums [value_stride] of values and totals [kLanes] of weights,
// which are 2^(score - peak), and the weights of the present chunk.
struct Running {
  int64_t value_stride;
  float *sums, *totals, *peaks;
  uint16_t* weights;  // [rows, kKeyChunk]
};

// A peak may lie so far below the highest score: it seldom has to change then.
constexpr float kSlack = 8.f;

// Raises the peak of a row, which is a whole number, so that this is exact; `keys` of the chunk have weights already.
__attribute__((noinline)) void raise_peak(const Running& running, int64_t row, float highest, int64_t keys) {
  const float peak = __builtin_ceilf(highest);
  const __m512 factor = _mm512_scalef_ps(set(1.f), set(running.peaks[row] - peak));
  const auto lower = [&](float* p) { store(p, load(p) * factor); };
  running.peaks[row] = peak;
  lower(running.totals + row * kLanes);
  for (int64_t d = 0; d < running.value_stride; d += kLanes) lower(running.sums + row * running.value_stride + d);
  for (int64_t j = 0; j < keys; j += kLanes) {
    uint16_t* weights = running.weights + row * kKeyChunk + j;
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(weights), (__m256i)_mm512_cvtneps_pbh(load(weights) * factor));
  }
}

// 2^x within 2e-4 of its value: more than bfloat16 can tell. 0 where the mask is.
inline __m512 power(__mmask16 exists, __m512 x) {
  const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), part = x - whole;
  __m512 p = set(0.0551716668f);
  p = fma(p, part, set(0.242611135f));
  p = fma(p, part, set(0.693260987f));
  return _mm512_maskz_scalef_ps(exists, fma(p, part, set(0.999928073f)), whole);
}

// The weights of keys [key, key + kPairKeys) of a chunk for rows [row, row + M); q is [depth / 2, M, 2]. shifts[j - m]
// is added to the score of key j, if there are shifts.
template <int M>
inline void weigh_pairs(const uint16_t* q, int64_t depth, const uint16_t* keys, int64_t key_stride, const float* shifts,
                        uint32_t exist, int64_t row, int64_t key, const Running& running) {
  __m512 acc[M][2] = {};
  for (int64_t d = 0; d < depth; d += 2, q += 2 * M, keys += key_stride) {
    const __m512bh first = load_pairs(keys), second = load_pairs(keys + 2 * kLanes);
#pragma GCC unroll 12
    for (int m = 0; m < M; ++m) {
      const __m512bh x = broadcast_pair(q + 2 * m);
      acc[m][0] = _mm512_dpbf16_ps(acc[m][0], first, x);
      acc[m][1] = _mm512_dpbf16_ps(acc[m][1], second, x);
    }
  }
  const auto low = static_cast<__mmask16>(exist), high = static_cast<__mmask16>(exist >> kLanes);
#pragma GCC unroll 12
  for (int m = 0; m < M; ++m) {
    __m512 first = acc[m][0], second = acc[m][1];
    if (shifts) {
      first = first + load(shifts - m);
      second = second + load(shifts - m + kLanes);
    }
    const __m512 limit = set(running.peaks[row + m]) + set(kSlack);
    if (_mm512_mask_cmp_ps_mask(low, first, limit, _CMP_GT_OQ) |
        _mm512_mask_cmp_ps_mask(high, second, limit, _CMP_GT_OQ)) {
      const __m512 nothing = set(-__builtin_inff());
      const float highest =
          largest(larger(_mm512_mask_mov_ps(nothing, low, first), _mm512_mask_mov_ps(nothing, high, second)));
      raise_peak(running, row + m, highest, key);
    }
    const __m512 peak = set(running.peaks[row + m]);
    first = power(low, first - peak);
    second = power(high, second - peak);
    float* total = running.totals + (row + m) * kLanes;
    store(total, load(total) + (first + second));
    _mm512_storeu_si512(running.weights + (row + m) * kKeyChunk + key, (__m512i)_mm512_cvtne2ps_pbh(second, first));
  }
}

// sums[m] += weights[m] . values of the keys [0, keys) of a chunk, for N vectors of dimensions; blocks[i] are the
// values of each kPairKeys keys.
template <int M, int N>
inline void value_pairs(const uint16_t* weights, const uint16_t* const* blocks, int64_t keys, int64_t value_stride,
                        int64_t dimension, float* sums) {
  __m512 acc[M][N];
#pragma GCC unroll 12
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 2
    for (int n = 0; n < N; ++n) acc[m][n] = load(sums + m * value_stride + dimension + n * kLanes);
  }
  for (int64_t key = 0; key < keys; key += 2) {
    const uint16_t* values = blocks[key / kPairKeys] + (key % kPairKeys * value_stride + 2 * dimension);
    __m512bh v[N];
#pragma GCC unroll 2
    for (int n = 0; n < N; ++n) v[n] = load_pairs(values + 2 * n * kLanes);
#pragma GCC unroll 12
    for (int m = 0; m < M; ++m) {
      const __m512bh x = broadcast_pair(weights + m * kKeyChunk + key);
#pragma GCC unroll 2
      for (int n = 0; n < N; ++n) acc[m][n] = _mm512_dpbf16_ps(acc[m][n], v[n], x);
    }
  }
#pragma GCC unroll 12
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 2
    for (int n = 0; n < N; ++n) store(sums + m * value_stride + dimension + n * kLanes, acc[m][n]);
  }
}

size_t scratch_bytes(const CacheLayout& cache, int64_t rows) {
  const int64_t per_row = cache.value_stride + kLanes + kKeyChunk / 2 + (cache.head_dim + 1) / 2 + 2;
  return static_cast<size_t>(rows * per_row + kKeyChunk) * sizeof(float);
}

// What is added to the scores of `keys` keys from `first` on: that of row r and key j is at rows - 1 - r + j.
void shift_of_keys(const AttentionTile& tile, int64_t first, int64_t keys, float* shifts) {
  const int64_t farthest = first - tile.position - (tile.queries - 1);
  for (int64_t i = 0; i < tile.queries - 1 + keys; ++i) {
    const int64_t ahead = least(most(farthest + i, -tile.behind), tile.ahead);
    shifts[i] = kLog2 * tile.bias[tile.behind + ahead];
  }
}

void attend(const AttentionTile& tile, void* scratch) {
  const CacheLayout& cache = tile.cache;
  const int64_t rows = tile.queries, depth = cache.head_dim, stride = cache.value_stride;
  Running running = {stride, static_cast<float*>(scratch), nullptr, nullptr, nullptr};
  running.totals = running.sums + rows * stride;
  running.weights = reinterpret_cast<uint16_t*>(running.totals + rows * kLanes);
  uint16_t* q = running.weights + rows * kKeyChunk;
  running.peaks = running.totals + rows * (kLanes + kKeyChunk / 2 + (depth + 1) / 2);
  float* shifts = running.peaks + rows;
  each_row_tile(rows, 0, [&](auto m, int64_t first) {
    for (int64_t i = 0; i < m.value; ++i) {
      uint16_t* to = q + first * depth + 2 * i;
      each_pair(tile.q + (first + i) * tile.q_stride, tile.scale * kLog2, depth,
                [&](int64_t d, uint32_t pair) { __builtin_memcpy(to + d * 2 * m.value, &pair, sizeof pair); });
    }
  });
  for (int64_t i = 0; i < rows * (stride + kLanes); ++i) running.sums[i] = 0.f;
  for (int64_t r = 0; r < rows; ++r) running.peaks[r] = -1e30f;  // below every score, and finite

  const char* layer = static_cast<const char*>(tile.layer) + tile.kv_head * cache.tile_bytes();
  for (int64_t chunk = 0; chunk < tile.keys; chunk += kKeyChunk) {
    const int64_t last = least(tile.keys - chunk, kKeyChunk), padded = (last + kPairKeys - 1) / kPairKeys * kPairKeys;
    const uint16_t* values[kKeyChunk / kPairKeys];
    if (tile.bias) shift_of_keys(tile, chunk, padded, shifts);
    for (int64_t j = 0; j < padded; j += kPairKeys) {
      const int64_t slot = (chunk + j) % cache.block_size;
      const char* block = layer + tile.table[(chunk + j) / cache.block_size] * cache.block_bytes();
      const auto* keys = reinterpret_cast<const uint16_t*>(block) + 2 * slot;
      values[j / kPairKeys] = reinterpret_cast<const uint16_t*>(block + cache.value_offset()) + slot * stride;
      const uint32_t exist = last - j < kPairKeys ? (uint32_t{1} << (last - j)) - 1 : ~uint32_t{0};
      each_row_tile(rows, 0, [&](auto m, int64_t r) {
        weigh_pairs<m.value>(q + r * depth, depth, keys, 2 * cache.block_size,
                             tile.bias ? shifts + (rows - 1 - r) + j : nullptr, exist, r, j, running);
      });
    }
    for (int64_t d = 0; d < stride;) {
      const bool pair = stride - d >= 2 * kLanes;
      each_row_tile(rows, 0, [&](auto m, int64_t r) {
        const uint16_t* weights = running.weights + r * kKeyChunk;
        float* sums = running.sums + r * stride;
        if (pair) return value_pairs<m.value, 2>(weights, values, last, stride, d, sums);
        value_pairs<m.value, 1>(weights, values, last, stride, d, sums);
      });
      d += pair ? 2 * kLanes : kLanes;
    }
  }
  for (int64_t r = 0; r < rows; ++r) {
    const float inverse = 1.f / sum(load(running.totals + r * kLanes));
    for (int64_t d = 0; d < depth; ++d) tile.out[r * tile.out_stride + d] = running.sums[r * stride + d] * inverse;
  }
}

// Tokens come in order; a value's partner is cleared until it comes itself, for it may not.
void append(const CacheLayout& cache, void* block, int64_t kv_head, int64_t slot, const float* key,
            const float* value) {
  char* tile = static_cast<char*>(block) + kv_head * cache.tile_bytes();
  auto* keys = reinterpret_cast<uint32_t*>(tile) + slot;
  auto* values = reinterpret_cast<uint32_t*>(tile + cache.value_offset()) + slot / 2 * cache.value_stride;
  each_pair(key, 1.f, cache.head_dim, [&](int64_t d, uint32_t pair) { keys[d * cache.block_size] = pair; });
  for (int64_t d = 0; d < cache.head_dim; d += kLanes) {
    const int64_t count = least(cache.head_dim - d, kLanes);
    const __m512 some = count < kLanes ? load_some(value + d, static_cast<int>(count)) : load(value + d);
    const __m512i own = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(some));
    const auto exist = static_cast<__mmask16>(_bzhi_u32(0xffff, static_cast<unsigned>(count)));
    const __m512i pairs =
        slot % 2 == 0 ? own : _mm512_or_si512(_mm512_maskz_loadu_epi32(exist, values + d), _mm512_slli_epi32(own, 16));
    _mm512_mask_storeu_epi32(values + d, exist, pairs);
  }
}

bool multiplies_pairs() {
  unsigned a, b, c, d;
  constexpr unsigned kBf16 = 1U << 5;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & kBf16) != 0;
}

}  // namespace

const PairAttention* pair_attention(Isa isa) {
  static const PairAttention kernels = {scratch_bytes, attend, append};
  return isa >= Isa::avx512 && multiplies_pairs() ? &kernels : nullptr;
}

}  // namespace cutwork
#else
#include "kernels/attention.h"

namespace cutwork {

const PairAttention* pair_attention(Isa) {
  return nullptr;
}

}  // namespace cutwork
#endif

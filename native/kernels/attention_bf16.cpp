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

uint16_t narrow(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return x == x ? static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16) : 0x7fc0;
}

inline __m512bh load_pairs(const uint16_t* p) {
  return (__m512bh)_mm512_loadu_si512(p);
}

inline __m512bh broadcast_pair(const uint16_t* p) {
  int32_t pair;
  __builtin_memcpy(&pair, p, sizeof pair);
  return (__m512bh)_mm512_set1_epi32(pair);
}

// scores[m][32 keys] = q[m] . key for the keys of a tile; q is [depth / 2, M, 2].
template <int M>
inline void score_pairs(const uint16_t* q, int64_t depth, const uint16_t* keys, int64_t key_stride, float* scores) {
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
#pragma GCC unroll 12
  for (int m = 0; m < M; ++m) {
    store(scores + m * kKeyChunk, acc[m][0]);
    store(scores + m * kKeyChunk + kLanes, acc[m][1]);
  }
}

// sums[m] = sums[m] * factors[m] + weights[m] . values of the keys [0, keys) of a chunk, for N vectors of dimensions.
// The weights are pairs at the start of each row of kKeyChunk floats; blocks[i] are the values of each kPairKeys keys.
template <int M, int N>
inline void value_pairs(const float* weights, const float* factors, const uint16_t* const* blocks, int64_t keys,
                        int64_t value_stride, int64_t dimension, float* sums) {
  __m512 acc[M][N];
#pragma GCC unroll 12
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 2
    for (int n = 0; n < N; ++n) acc[m][n] = set(factors[m]) * load(sums + m * value_stride + dimension + n * kLanes);
  }
  const auto* pairs = reinterpret_cast<const uint16_t*>(weights);
  for (int64_t key = 0; key < keys; key += 2) {
    const uint16_t* values = blocks[key / kPairKeys] + (key % kPairKeys * value_stride + 2 * dimension);
    __m512bh v[N];
#pragma GCC unroll 2
    for (int n = 0; n < N; ++n) v[n] = load_pairs(values + 2 * n * kLanes);
#pragma GCC unroll 12
    for (int m = 0; m < M; ++m) {
      const __m512bh x = broadcast_pair(pairs + m * 2 * kKeyChunk + key);
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

// 2^x within 2e-4 of its value for x <= 0: more than bfloat16 can tell.
inline __m512 power(__m512 x) {
  x = _mm512_max_ps(set(-126.f), x);
  const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), part = x - whole;
  __m512 p = set(0.0551716668f);
  p = fma(p, part, set(0.242611135f));
  p = fma(p, part, set(0.693260987f));
  return _mm512_scalef_ps(fma(p, part, set(0.999928073f)), whole);
}

// As soften(), of keys [0, last) of a chunk; leaves pairs at the start of the row.
inline void soften_pairs(const Shift& shift, int64_t last, int64_t padded, float* row, float& peak, float& total,
                         float& factor) {
  shift_scores(shift, 0, padded, row);
  for (int64_t j = last; j < padded; ++j) row[j] = -__builtin_inff();
  __m512 best = set(peak);
  for (int64_t j = 0; j < padded; j += kLanes) best = larger(best, load(row + j));
  const float new_peak = largest(best);
  factor = 1.f;
  if (new_peak != peak) {
    float change[kLanes];
    store(change, exp(set(peak - new_peak)));
    factor = change[0];
  }
  constexpr float kLog2 = 1.44269504f;
  const __m512 slope = set(kLog2), offset = set(-kLog2 * new_peak);
  __m512 added = set(0.f);
  for (int64_t j = 0; j < padded; j += kLanes) {
    const __m512 e = power(fma(load(row + j), slope, offset));
    added = added + e;
    const __m256bh pairs = _mm512_cvtneps_pbh(e);  // they take over the memory of floats already read
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(reinterpret_cast<uint16_t*>(row) + j), (__m256i)pairs);
  }
  total = total * factor + sum(added);
  peak = new_peak;
}

size_t scratch_bytes(const CacheLayout& cache, int64_t rows) {
  return static_cast<size_t>(rows * (kKeyChunk + cache.value_stride + 3 + (cache.head_dim + 1) / 2)) * sizeof(float);
}

void attend(const AttentionTile& tile, void* scratch) {
  const CacheLayout& cache = tile.cache;
  const int64_t rows = tile.queries, depth = cache.head_dim, stride = cache.value_stride;
  float* scores = static_cast<float*>(scratch);
  float* sums = scores + rows * kKeyChunk;
  float *peaks = sums + rows * stride, *totals = peaks + rows, *factors = totals + rows;
  auto* q = reinterpret_cast<uint16_t*>(factors + rows);
  each_row_tile(rows, 0, [&](auto m, int64_t first) {
    for (int64_t i = 0; i < m.value; ++i) {
      for (int64_t d = 0; d < depth; ++d)
        q[first * depth + d / 2 * 2 * m.value + 2 * i + d % 2] =
            narrow(tile.q[(first + i) * tile.q_stride + d] * tile.scale);
    }
  });
  for (int64_t i = 0; i < rows * stride; ++i) sums[i] = 0.f;
  for (int64_t r = 0; r < rows; ++r) {
    peaks[r] = -__builtin_inff();
    totals[r] = 0.f;
  }

  const char* layer = static_cast<const char*>(tile.layer) + tile.kv_head * cache.tile_bytes();
  for (int64_t chunk = 0; chunk < tile.keys; chunk += kKeyChunk) {
    const int64_t last = least(tile.keys - chunk, kKeyChunk), padded = (last + kPairKeys - 1) / kPairKeys * kPairKeys;
    const uint16_t* values[kKeyChunk / kPairKeys];
    for (int64_t j = 0; j < padded; j += kPairKeys) {
      const int64_t slot = (chunk + j) % cache.block_size;
      const char* block = layer + tile.table[(chunk + j) / cache.block_size] * cache.block_bytes();
      const auto* keys = reinterpret_cast<const uint16_t*>(block) + 2 * slot;
      values[j / kPairKeys] = reinterpret_cast<const uint16_t*>(block + cache.value_offset()) + slot * stride;
      each_row_tile(rows, 0, [&](auto m, int64_t r) {
        score_pairs<m.value>(q + r * depth, depth, keys, 2 * cache.block_size, scores + r * kKeyChunk + j);
      });
    }
    for (int64_t r = 0; r < rows; ++r) {
      const Shift shift = {0.f, tile.bias ? tile.bias + tile.behind : nullptr, tile.behind, tile.ahead,
                           chunk - tile.position - r};
      float* row = scores + r * kKeyChunk;
      soften_pairs(shift, last, padded, row, peaks[r], totals[r], factors[r]);
    }
    for (int64_t d = 0; d < stride;) {
      const bool pair = stride - d >= 2 * kLanes;
      each_row_tile(rows, 0, [&](auto m, int64_t r) {
        const float* weights = scores + r * kKeyChunk;
        if (pair) return value_pairs<m.value, 2>(weights, factors + r, values, last, stride, d, sums + r * stride);
        value_pairs<m.value, 1>(weights, factors + r, values, last, stride, d, sums + r * stride);
      });
      d += pair ? 2 * kLanes : kLanes;
    }
  }
  for (int64_t r = 0; r < rows; ++r) {
    const float inverse = 1.f / totals[r];
    for (int64_t d = 0; d < depth; ++d) tile.out[r * tile.out_stride + d] = sums[r * stride + d] * inverse;
  }
}

// Tokens come in order; a value's partner is cleared until it comes itself, for it may not.
void append(const CacheLayout& cache, void* block, int64_t kv_head, int64_t slot, const float* key,
            const float* value) {
  char* tile = static_cast<char*>(block) + kv_head * cache.tile_bytes();
  auto* keys = reinterpret_cast<uint16_t*>(tile) + 2 * slot;
  auto* values = reinterpret_cast<uint16_t*>(tile + cache.value_offset()) + slot / 2 * 2 * cache.value_stride;
  for (int64_t d = 0; d < cache.head_dim; ++d) keys[d / 2 * 2 * cache.block_size + d % 2] = narrow(key[d]);
  if (slot % 2 == 0) {
    for (int64_t d = 0; d < cache.head_dim; ++d) {
      values[2 * d] = narrow(value[d]);
      values[2 * d + 1] = 0;
    }
  } else {
    for (int64_t d = 0; d < cache.head_dim; ++d) values[2 * d + 1] = narrow(value[d]);
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

// Attention over a paged cache of keys and values.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/features.h"
#include "weights/layout.h"

namespace cutwork {

constexpr int64_t kKeyTile = 16;      // the block size of the cache is a multiple of this
constexpr int64_t kKeyChunk = 128;    // keys per step of the online softmax; steps begin at multiples of it
constexpr int64_t kKeySegment = 256;  // keys whose softmax starts anew; threads may share the segments of a query
constexpr int64_t kQueryRows = 48;    // (query, head) rows per tile, unless one query has more heads than that

// No function of its own in an object of a set, whose instructions another processor may lack.
#define CUTWORK_INLINE [[gnu::always_inline]]

// A block of one layer's cache holds, for each kv head, a tile of keys [head_dim, block_size], so that one load brings
// a dimension of many keys, and a tile of values [block_size, value_stride], so that one load brings many dimensions of
// a value; for i8 then f32 scales of the keys [block_size] and of the values [block_size].
struct CacheLayout {
  DType dtype;  // f32, bf16 or i8
  int64_t kv_heads, head_dim, block_size;
  int64_t value_stride;  // head_dim rounded up to kKeyTile; what is beyond head_dim is zero

  CUTWORK_INLINE int64_t element_bytes() const { return dtype == DType::f32 ? 4 : dtype == DType::bf16 ? 2 : 1; }
  CUTWORK_INLINE int64_t value_offset() const {
    return head_dim * block_size * element_bytes();
  }  // bytes from the start of a tile
  CUTWORK_INLINE int64_t scale_offset() const { return value_offset() + block_size * value_stride * element_bytes(); }
  CUTWORK_INLINE int64_t tile_bytes() const {  // per kv head
    return scale_offset() + (dtype == DType::i8 ? 2 * block_size * int64_t{sizeof(float)} : 0);
  }
  CUTWORK_INLINE int64_t block_bytes() const { return kv_heads * tile_bytes(); }  // per block and layer
};

// The queries of consecutive tokens of one sequence that share a kv head.
struct AttentionTile {
  CacheLayout cache;
  const void* layer;     // the layer's blocks
  const int32_t* table;  // block of the layer that holds keys [i * block_size, (i + 1) * block_size)
  int64_t kv_head;
  const float* q;                // first query's first head of the group; heads are head_dim apart
  float* out;                    // likewise
  int64_t q_stride, out_stride;  // floats between tokens
  int64_t queries, group;        // tokens, and query heads per kv head
  int64_t position;              // of the first query
  int64_t keys;                  // that every query sees, or -1: those up to its own position
  int64_t window;                // keys a query sees including its own, or -1 for all
  float scale;
  float cap;            // of scores, before anything is added to them: cap tanh(score / cap); 0 for none
  const float* slopes;  // [group]: a score falls by so much per token of distance (ALiBi); null for none
  // [group, behind + 1 + ahead]: what is added to the score of a key that lies so far from the query (the key's
  // position less the query's, from -behind to ahead; what lies farther counts as that); null for none.
  const float* bias;
  int64_t behind, ahead;

  CUTWORK_INLINE int64_t end() const {
    return keys < 0 ? position + queries : keys;
  }  // keys [start(), end()) are seen by some query
  CUTWORK_INLINE int64_t start() const { return window < 0 || window > position ? 0 : position - window + 1; }
  CUTWORK_INLINE int64_t first_segment() const { return start() / kKeySegment; }
  CUTWORK_INLINE int64_t segments() const { return (end() - 1) / kKeySegment + 1 - first_segment(); }
};

// What attention over some of the keys leaves of `rows` rows: sums [rows, value_stride], peaks [rows], totals [rows].
static inline int64_t partial_floats(const CacheLayout& cache, int64_t rows) {
  return rows * (cache.value_stride + 2);
}

// Attention as it runs for every dtype of the cache.
struct AttentionKernels {
  // Bytes of private scratch, 64-byte aligned, for tiles of `rows` = queries * group.
  size_t (*scratch_bytes)(const CacheLayout& cache, int64_t rows);
  // The result of a query depends neither on the tile it is in nor on how its keys came into the cache, while these are
  // finite: one that is not also spoils queries of its tile that do not see it.
  void (*attend)(const AttentionTile& tile, void* scratch);
  // The same in parts that threads may share: the partial results, one after the other, of the segments of keys
  // [segment * kKeySegment, (segment + 1) * kKeySegment) from begin to before end; and the end, from the partial
  // results of all the segments that hold keys of the tile.
  void (*attend_segments)(const AttentionTile& tile, int64_t begin, int64_t end, float* partials, void* scratch);
  void (*finish)(const AttentionTile& tile, float* partials);
  // The softmax weights [queries, stride] that one head's queries, `q_stride` apart, give to each of `keys` keys.
  void (*weigh)(const CacheLayout& cache, const void* layer, const int32_t* table, int64_t keys, int64_t kv_head,
                const float* q, int64_t q_stride, int64_t queries, float scale, float cap, float* weights,
                int64_t stride);
  // Writes one token's key and value [head_dim] of a kv head into slot `slot` of a block of a layer.
  void (*append)(const CacheLayout& cache, void* block, int64_t kv_head, int64_t slot, const float* key,
                 const float* value);
};

// Attention over the rows of a step, twice as fast in bfloat16: every query sees all of tile.keys, there is a query
// head per kv head, no cap, head_dim is even, and the cache is a bf16 one of blocks of 2 * kKeyTile in an order of its
// own, which only this `append` writes, tokens in order.
struct PairAttention {
  size_t (*scratch_bytes)(const CacheLayout& cache, int64_t rows);
  void (*attend)(const AttentionTile& tile, void* scratch);
  void (*append)(const CacheLayout& cache, void* block, int64_t kv_head, int64_t slot, const float* key,
                 const float* value);
};

// What a set has instead of its own on processors that multiply bfloat16.
struct BfloatAttention {
  Features needs;  // more than its set does
  AttentionKernels cached;
  PairAttention step;  // null functions where rows of a step are attended to as those of a cache
};

}  // namespace cutwork

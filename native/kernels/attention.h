// Causal attention over a paged cache of keys and values.
#pragma once

#include "kernels/linear.h"

namespace cutwork {

constexpr int64_t kKeyTile = 16;    // the block size of the cache is a multiple of this
constexpr int64_t kKeyChunk = 128;  // keys per step of the online softmax; steps begin at multiples of it
constexpr int64_t kQueryRows = 48;  // (query, head) rows per tile, unless one query has more heads than that

// A block of one layer's cache holds, for each kv head, a tile of keys [head_dim, block_size], so that one load brings
// a dimension of many keys, and a tile of values [block_size, value_stride], so that one load brings many dimensions of
// a value.
struct CacheLayout {
  DType dtype;  // f32 or bf16
  int64_t kv_heads, head_dim, block_size;
  int64_t value_stride;  // head_dim rounded up to kKeyTile; what is beyond head_dim is zero

  int64_t tile() const { return head_dim * block_size + block_size * value_stride; }  // elements per kv head
  int64_t block() const { return kv_heads * tile(); }                                 // elements per block and layer
  int64_t element_bytes() const { return dtype == DType::f32 ? 4 : 2; }
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
  int64_t window;                // keys a query sees including its own, or -1 for all
  float scale;
};

struct AttentionKernels {
  // Bytes of private scratch, 64-byte aligned, for tiles of `rows` = queries * group.
  size_t (*scratch_bytes)(const CacheLayout& cache, int64_t rows);
  // The result of a query depends neither on the tile it is in nor on how its keys came into the cache.
  void (*attend)(const AttentionTile& tile, void* scratch);
  // Writes one token's key and value [head_dim] of a kv head into slot `slot` of a block of a layer.
  void (*append)(const CacheLayout& cache, void* block, int64_t kv_head, int64_t slot, const float* key,
                 const float* value);
};

const AttentionKernels& attention_kernels(Isa isa);

}  // namespace cutwork

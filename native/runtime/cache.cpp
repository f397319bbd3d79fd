#include "runtime/cache.h"

#include <cstring>
#include <stdexcept>
#include <string>

namespace cutwork {

CacheLayout cache_layout(const CacheShape& shape) {
  const int64_t value_stride = (shape.head_dim + kKeyTile - 1) / kKeyTile * kKeyTile;
  return {shape.dtype, shape.kv_heads, shape.head_dim, shape.block_size, value_stride};
}

int64_t KvCache::bytes_of(const CacheShape& shape) {
  verify(shape);
  if (shape.layers == 0) return 0;
  const CacheLayout layout = cache_layout(shape);
  const int64_t token_bytes = (shape.head_dim + layout.value_stride) * layout.element_bytes() +
                              (shape.dtype == DType::i8 ? 2 * int64_t{sizeof(float)} : 0);
  return checked_product("the KV cache", {shape.layers, shape.blocks, shape.kv_heads, shape.block_size, token_bytes});
}

KvCache::KvCache(const CacheShape& shape)
    : shape_(shape),
      layout_(cache_layout(shape)),
      memory_(bytes_of(shape), "the KV cache", "use fewer blocks or an i8 cache") {}

void KvCache::require_block(int64_t index) const {
  if (index < 0 || index >= shape_.blocks)
    throw std::invalid_argument("block " + std::to_string(index) + " is not one of the cache's " +
                                std::to_string(shape_.blocks));
}

void KvCache::copy(int64_t from, int64_t to) {
  if (from == to) return;
  for (int64_t i = 0; i < shape_.layers; ++i)
    std::memcpy(block(i, to), block(i, from), static_cast<size_t>(layout_.block_bytes()));
}

}  // namespace cutwork

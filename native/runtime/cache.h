// The paged cache of keys and values.
#pragma once

#include "kernels/attention/attention.h"
#include "runtime/allocation.h"
#include "runtime/plan.h"

namespace cutwork {

CacheLayout cache_layout(const CacheShape& shape);

class KvCache {
 public:
  // What one of this shape takes. Throws std::invalid_argument if that exceeds what can be addressed.
  static int64_t bytes_of(const CacheShape& shape);

  // Throws OutOfMemory.
  explicit KvCache(const CacheShape& shape);

  const CacheShape& shape() const { return shape_; }
  const CacheLayout& layout() const { return layout_; }
  int64_t bytes() const { return memory_.size(); }

  char* layer(int64_t index) const { return memory_.data() + index * shape_.blocks * layout_.block_bytes(); }
  char* block(int64_t layer_index, int64_t block_index) const {
    return layer(layer_index) + block_index * layout_.block_bytes();
  }

  // Throws std::invalid_argument if there is no such block.
  void require_block(int64_t index) const;

  // Copies a block of every layer; both must exist.
  void copy(int64_t from, int64_t to);

 private:
  CacheShape shape_;
  CacheLayout layout_;
  Allocation memory_;
};

}  // namespace cutwork

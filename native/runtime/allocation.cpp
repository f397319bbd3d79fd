#include "runtime/allocation.h"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "runtime/system.h"

namespace cutwork {
namespace {

constexpr int64_t kLine = 64;
constexpr int64_t kShared = int64_t{32} << 20;  // bytes that small allocations are taken from, one behind the other
constexpr int64_t kSmall = int64_t{4} << 20;    // at most

// Pages that are given back when the last allocation in them goes; nothing in them is used twice.
class Chunk {
 public:
  explicit Chunk(int64_t bytes) : pages_(map_pages(bytes)) {}
  Chunk(const Chunk&) = delete;
  Chunk& operator=(const Chunk&) = delete;
  ~Chunk() {
    if (pages_.data) unmap_pages(pages_);
  }

  bool mapped() const { return pages_.data != nullptr; }

  // The next bytes; null if there are not so many left.
  char* take(int64_t bytes) {
    if (pages_.size - used_ < bytes) return nullptr;
    char* const data = pages_.data + used_;
    used_ = std::min(pages_.size, used_ + (bytes + kLine - 1) / kLine * kLine);
    return data;
  }

 private:
  Pages pages_;
  int64_t used_ = 0;
};

thread_local std::weak_ptr<Chunk> shared;  // of each thread, so that nothing is locked when a process is forked

std::string in_gib(int64_t bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2f GiB", static_cast<double>(bytes) / (int64_t{1} << 30));
  return text;
}

}  // namespace

int64_t checked_product(const char* what, std::initializer_list<int64_t> factors) {
  int64_t product = 1;
  for (int64_t factor : factors) {
    if (__builtin_mul_overflow(product, factor, &product))
      throw std::invalid_argument(std::string("the size of ") + what + " exceeds what can be addressed");
  }
  return product;
}

Allocation::Allocation(int64_t bytes, const std::string& what, const std::string& advice) : size_(bytes) {
  if (bytes == 0) return;
  std::shared_ptr<Chunk> chunk;
  if (bytes <= kSmall) {
    chunk = shared.lock();
    data_ = chunk ? chunk->take(bytes) : nullptr;
    if (!data_) {
      chunk = std::make_shared<Chunk>(kShared);
      if (chunk->mapped()) data_ = chunk->take(bytes);
      shared = chunk;
    }
  } else {
    chunk = std::make_shared<Chunk>(bytes);
    if (chunk->mapped()) data_ = chunk->take(bytes);
  }
  if (!data_) throw OutOfMemory("cannot allocate " + in_gib(bytes) + " for " + what + ": " + advice);
  owner_ = std::move(chunk);
}

AlignedBytes aligned_bytes(size_t size) {
  return AlignedBytes(static_cast<char*>(::operator new[](std::max<size_t>(size, 1), std::align_val_t{64})));
}

}  // namespace cutwork

#include "runtime/allocation.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <utility>

namespace cutwork {
namespace {

constexpr int64_t kHugePage = int64_t{2} << 20;

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

Allocation::Allocation(int64_t bytes, const std::string& what, const std::string& advice) {
  if (bytes == 0) return;
  const int64_t page = bytes >= kHugePage ? kHugePage : sysconf(_SC_PAGESIZE);
  // One page more than needed, so that a range on the wished boundary is inside; the rest is given back.
  int64_t size = 0, mapped = 0;
  void* start = MAP_FAILED;
  if (!__builtin_add_overflow(bytes, 2 * page, &mapped)) {
    size = (bytes + page - 1) / page * page;
    mapped = size + page;
    start = mmap(nullptr, static_cast<size_t>(mapped), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  }
  if (start == MAP_FAILED) throw OutOfMemory("cannot allocate " + in_gib(bytes) + " for " + what + ": " + advice);
  char* first = static_cast<char*>(start);
  const int64_t before = (page - static_cast<int64_t>(reinterpret_cast<uintptr_t>(first) % page)) % page;
  if (before > 0) munmap(first, static_cast<size_t>(before));
  munmap(first + before + size, static_cast<size_t>(mapped - before - size));
  data_ = first + before;
  size_ = size;
#ifdef MADV_HUGEPAGE
  if (page == kHugePage) madvise(data_, static_cast<size_t>(size), MADV_HUGEPAGE);  // advice: refusal costs speed only
#endif
}

Allocation::~Allocation() {
  if (data_) munmap(data_, static_cast<size_t>(size_));
}

Allocation::Allocation(Allocation&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

Allocation& Allocation::operator=(Allocation&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

}  // namespace cutwork

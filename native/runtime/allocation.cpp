#include "runtime/allocation.h"

#include <cstdio>
#include <utility>

namespace cutwork {
namespace {

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
  pages_ = map_pages(bytes);
  if (!pages_.data) throw OutOfMemory("cannot allocate " + in_gib(bytes) + " for " + what + ": " + advice);
}

Allocation::~Allocation() {
  if (pages_.data) unmap_pages(pages_);
}

Allocation::Allocation(Allocation&& other) noexcept : pages_(std::exchange(other.pages_, {})) {}

Allocation& Allocation::operator=(Allocation&& other) noexcept {
  std::swap(pages_, other.pages_);
  return *this;
}

}  // namespace cutwork

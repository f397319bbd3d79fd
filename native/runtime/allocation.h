// Zeroed memory for what is large, or many.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>

namespace cutwork {

struct OutOfMemory : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The product of numbers >= 0. Throws std::invalid_argument, naming `what`, if it exceeds int64.
int64_t checked_product(const char* what, std::initializer_list<int64_t> factors);

// Memory on a 64-byte boundary that is given back when it goes. Small ones of a thread lie together, so that they are
// in huge pages where the system has them, and are given back together: for what lives long.
class Allocation {
 public:
  Allocation() = default;
  // Throws OutOfMemory with a sentence that names `what` and ends with `advice`.
  Allocation(int64_t bytes, const std::string& what, const std::string& advice);

  char* data() const { return data_; }
  int64_t size() const { return size_; }

 private:
  std::shared_ptr<const void> owner_;
  char* data_ = nullptr;
  int64_t size_ = 0;
};

struct AlignedFree {
  void operator()(char* p) const { ::operator delete[](p, std::align_val_t{64}); }
};
using AlignedBytes = std::unique_ptr<char[], AlignedFree>;

// Memory on a 64-byte boundary for what goes soon; it holds anything.
AlignedBytes aligned_bytes(size_t size);

}  // namespace cutwork

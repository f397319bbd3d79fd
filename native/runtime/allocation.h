// Large blocks of zeroed memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>

#include "runtime/system.h"

namespace cutwork {

struct OutOfMemory : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The product of numbers >= 0. Throws std::invalid_argument, naming `what`, if it exceeds int64.
int64_t checked_product(const char* what, std::initializer_list<int64_t> factors);

// Pages of memory that are given back when it goes.
class Allocation {
 public:
  Allocation() = default;
  // Throws OutOfMemory with a sentence that names `what` and ends with `advice`.
  Allocation(int64_t bytes, const std::string& what, const std::string& advice);
  ~Allocation();
  Allocation(Allocation&& other) noexcept;
  Allocation& operator=(Allocation&& other) noexcept;

  char* data() const { return pages_.data; }
  int64_t size() const { return pages_.size; }

 private:
  Pages pages_ = {};
};

}  // namespace cutwork

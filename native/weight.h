// A weight that has been validated: everything a kernel trusts holds, and its memory lives as long as it does.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "kernels/linear.h"

namespace cutwork {

// Somebody's contiguous array: its first element, its number of elements, and whatever keeps it alive.
struct Array {
  const void* data = nullptr;
  int64_t size = 0;
  std::shared_ptr<const void> owner;
};

class OwnedWeight {
 public:
  // values: rows * cols elements of `dtype`; scale: `rows` floats, for i8 only.
  // Throws std::invalid_argument, with a sentence for the user, unless every rule of linear.h holds.
  static OwnedWeight dense(DType dtype, int64_t rows, int64_t cols, Array values, std::optional<Array> scale);

  // values: the nonzeros and kTailBytes of padding; mask and offsets: uint64. Throws like dense().
  static OwnedWeight bitmask(DType dtype, int64_t rows, int64_t cols, Array values, Array mask, Array offsets,
                             std::optional<Array> scale);

  // What the kernels read; valid as long as this object.
  const Weight& view() const { return view_; }

  int64_t nonzeros() const;  // counted anew for dense weights
  int64_t nbytes() const { return nbytes_; }

 private:
  OwnedWeight() = default;
  void adopt_scale(std::optional<Array> scale);
  const void* adopt(Array array, int64_t element);

  Weight view_ = {};
  int64_t nbytes_ = 0;
  std::vector<Array> arrays_;
  std::unique_ptr<int32_t[]> row_sums_;
};

int64_t element_size(DType dtype);
const char* dtype_name(DType dtype);
const char* encoding_name(Encoding encoding);

// The weight written out, zeros included, as [rows, cols] elements of its dtype (codes, for i8).
void write_dense(const Weight& weight, void* out);

}  // namespace cutwork

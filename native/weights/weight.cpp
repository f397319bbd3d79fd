// What all encodings share, and dense weights.
#include "weights/weight.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>

#include "kernels/isa.h"
#include "weights/refuse.h"

namespace cutwork {
namespace {

// In parts whose counts fit into a lane of the values' width, so that as many are compared at a time as there are
// lanes.
template <class T>
int64_t count_nonzeros(const T* values, int64_t size, T bits) {
  constexpr int64_t kPart = sizeof(T) == 1 ? 240 : 4096;
  int64_t count = 0;
  for (int64_t begin = 0; begin < size; begin += kPart) {
    const int64_t end = std::min(begin + kPart, size);
    T part = 0;
    for (int64_t i = begin; i < end; ++i) part = static_cast<T>(part + static_cast<T>((values[i] & bits) != 0));
    count += part;
  }
  return count;
}

}  // namespace

std::string shape_text(int64_t rows, int64_t cols) {
  return "[" + std::to_string(rows) + ", " + std::to_string(cols) + "]";
}

void expect_size(const char* what, const Array& array, int64_t expected) {
  if (array.size != expected)
    refuse(std::string(what) + " has " + std::to_string(array.size) + " elements, expected " +
           std::to_string(expected));
}

void check_shape(int64_t rows, int64_t cols) {
  if (rows < 1 || cols < 1) refuse("a weight of shape " + shape_text(rows, cols) + " is empty");
  if (cols > kMaxCols)
    refuse("a weight of shape " + shape_text(rows, cols) + " has more than " + std::to_string(kMaxCols) + " columns");
  int64_t bytes;
  if (__builtin_mul_overflow(rows, cols, &bytes) || __builtin_mul_overflow(bytes, int64_t{8}, &bytes) ||
      rows > INT64_MAX / 64)
    refuse("a weight of shape " + shape_text(rows, cols) + " does not fit in memory");
}

int64_t element_size(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return 4;
    case DType::bf16:
      return 2;
    case DType::i8:
    case DType::i4:
      break;
  }
  return 1;
}

const char* encoding_name(Encoding encoding) {
  switch (encoding) {
    case Encoding::dense:
      return "dense";
    case Encoding::bitmask:
      return "bitmask";
    case Encoding::block1x4:
      return "block1x4";
    case Encoding::block4x1:
      return "block4x1";
    case Encoding::slots:
      break;
  }
  return "slots";
}

const char* form_name(SlotForm form) {
  return form == SlotForm::tiles ? "tiles" : form == SlotForm::strips ? "strips" : "wide";
}

const char* dtype_name(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "f32";
    case DType::bf16:
      return "bf16";
    case DType::i4:
      return "i4";
    case DType::i8:
      break;
  }
  return "i8";
}

// Keeps the array and returns its data, copied first if it does not lie at a multiple of its element's size.
const void* OwnedWeight::adopt(Array array, int64_t element) {
  const int64_t bytes = array.size * element;
  nbytes_ += bytes;
  if (reinterpret_cast<uintptr_t>(array.data) % static_cast<uintptr_t>(element) != 0) {
    std::shared_ptr<char[]> copy(new char[static_cast<size_t>(bytes)]);
    std::memcpy(copy.get(), array.data, static_cast<size_t>(bytes));
    array.data = copy.get();
    array.owner = copy;
  }
  arrays_.push_back(array);
  return array.data;
}

void OwnedWeight::adopt_scale(std::optional<Array> scale) {
  if (view_.dtype != DType::i8) {
    if (scale) refuse(std::string("a ") + dtype_name(view_.dtype) + " weight takes no scale; only int8 has one");
    return;
  }
  if (!scale) refuse("an int8 weight needs a scale per row");
  adopt_row_scale(std::move(*scale));
  row_sums_.reset(new int32_t[static_cast<size_t>(view_.rows)]);
  if (chosen_isa().kernels.inspect.sum_rows(view_, row_sums_.get()) < -127)  // kernels negate codes in 8 bits
    refuse("an int8 weight has the code -128; codes must lie in [-127, 127]");
  view_.row_sums = row_sums_.get();
}

void OwnedWeight::adopt_row_scale(Array scale) {
  expect_size("scale", scale, view_.rows);
  view_.scale = static_cast<const float*>(adopt(std::move(scale), sizeof(float)));
  for (int64_t row = 0; row < view_.rows; ++row)
    if (!std::isfinite(view_.scale[row])) refuse("the scale of row " + std::to_string(row) + " is not finite");
}

OwnedWeight OwnedWeight::dense(DType dtype, int64_t rows, int64_t cols, Array values, std::optional<Array> scale) {
  check_shape(rows, cols);
  expect_size("values", values, rows * cols);
  OwnedWeight weight;
  weight.view_.encoding = Encoding::dense;
  weight.view_.dtype = dtype;
  weight.view_.rows = rows;
  weight.view_.cols = cols;
  weight.view_.values = weight.adopt(std::move(values), element_size(dtype));
  weight.adopt_scale(std::move(scale));
  return weight;
}

int64_t OwnedWeight::nonzeros() const {
  if (view_.encoding == Encoding::slots) return nonzeros_;
  if (view_.dtype == DType::i4) return view_.encoding == Encoding::bitmask ? nonzeros_ : int4_nonzeros(view_);
  if (view_.encoding != Encoding::dense)
    return static_cast<int64_t>(view_.offsets[(view_.rows + kGroupRows - 1) / kGroupRows]);
  const int64_t size = view_.rows * view_.cols;
  switch (view_.dtype) {
    case DType::f32:
      return count_nonzeros(static_cast<const uint32_t*>(view_.values), size, uint32_t{0x7fffffff});
    case DType::bf16:
      return count_nonzeros(static_cast<const uint16_t*>(view_.values), size, uint16_t{0x7fff});
    case DType::i8:
    case DType::i4:
      break;
  }
  return count_nonzeros(static_cast<const uint8_t*>(view_.values), size, uint8_t{0xff});
}

void write_dense(const Weight& weight, void* out) {
  if (weight.encoding == Encoding::slots) return write_slots(weight, static_cast<int8_t*>(out));
  if (weight.dtype == DType::i4) return write_int4(weight, static_cast<int8_t*>(out));
  if (weight.encoding != Encoding::dense) return write_masked(weight, out);
  std::memcpy(out, weight.values, static_cast<size_t>(weight.rows * weight.cols * element_size(weight.dtype)));
}

}  // namespace cutwork

// A weight that has been validated: everything a kernel trusts holds, and its memory lives as long as it does.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "runtime/allocation.h"
#include "weights/layout.h"

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
  // Throws std::invalid_argument, with a sentence for the user, unless every rule of layout.h holds.
  static OwnedWeight dense(DType dtype, int64_t rows, int64_t cols, Array values, std::optional<Array> scale);

  // For the encodings with a mask. values: those of layout.h and kTailBytes of padding; mask: uint64, or uint16 for
  // block1x4; offsets: uint64. Throws like dense().
  static OwnedWeight masked(Encoding encoding, DType dtype, int64_t rows, int64_t cols, Array values, Array mask,
                            Array offsets, std::optional<Array> scale);

  // values: the bytes of layout.h's int4 layout, for bitmask (when mask and offsets are given) with kTailBytes of
  // padding. Throws like dense().
  static OwnedWeight int4(int64_t rows, int64_t cols, Array values, ScaleType scale_type, Array scale,
                          int64_t group_cols, std::optional<Array> mask, std::optional<Array> offsets);

  // values: entries of layout.h's encoding `slots`, as many as `keep` of 16 columns take, or as `steps` says: uint8
  // [tiles][windows of 16 columns]. scale: of rows for i8, of groups for i4. Throws like dense().
  static OwnedWeight slots(DType dtype, int64_t rows, int64_t cols, Array values, int64_t keep,
                           std::optional<Array> steps, Array scale, ScaleType scale_type, int64_t group_cols);

  // A copy of an int8 or int4 weight in slots, whichever way takes less; none for other weights. Throws OutOfMemory.
  std::optional<OwnedWeight> in_slots() const;

  // A copy of an int8 or int4 bitmask with its zeros written out; none for other weights. Throws OutOfMemory.
  std::optional<OwnedWeight> in_dense() const;

  // What the kernels read; valid as long as this object.
  const Weight& view() const { return view_; }

  // Works out what spmm_rows multiplies now instead of in each call, which takes about two and a half bytes per
  // nonzero; false where the chosen instruction set has no such kernel for this weight. From several threads it works
  // once, but nobody may use view() meanwhile. Throws OutOfMemory.
  bool reorder();

  int64_t nonzeros() const;  // counted anew for dense weights; of blocks all values count
  int64_t nbytes() const { return nbytes_; }

 private:
  OwnedWeight() = default;
  void adopt_scale(std::optional<Array> scale);
  void adopt_row_scale(Array scale);
  void adopt_scales(Array scale, ScaleType type, int64_t group_cols, int64_t multiple);
  void adopt_slots();
  const void* adopt(Array array, int64_t element);

  Weight view_ = {};
  int64_t nbytes_ = 0;
  int64_t nonzeros_ = 0;  // of an int4 bitmask and of slots
  std::vector<Array> arrays_;
  std::unique_ptr<int32_t[]> row_sums_;
  Allocation steps_, windows_, entries_;
  std::vector<int64_t> begins_;
  std::vector<uint16_t> starts_;
  std::vector<int32_t> order_;
  std::vector<float> row_scale_;
  std::unique_ptr<std::mutex> reordering_ = std::make_unique<std::mutex>();
};

int64_t element_size(DType dtype);
const char* dtype_name(DType dtype);
const char* encoding_name(Encoding encoding);
const char* form_name(SlotForm form);

std::string shape_text(int64_t rows, int64_t cols);                        // "[rows, cols]"
void check_shape(int64_t rows, int64_t cols);                              // throws std::invalid_argument
void expect_size(const char* what, const Array& array, int64_t expected);  // throws std::invalid_argument

int64_t int4_nonzeros(const Weight& weight);
void write_int4(const Weight& weight, int8_t* out);   // codes -8 .. 7
void write_slots(const Weight& weight, int8_t* out);  // codes
void write_masked(const Weight& weight, void* out);

// The weight written out, zeros included, as [rows, cols] elements of its dtype (codes, for i8 and i4).
void write_dense(const Weight& weight, void* out);

}  // namespace cutwork

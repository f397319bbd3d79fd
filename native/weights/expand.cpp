// Sparse weights written out, zeros included, for processors that go through them faster so.
#include <algorithm>
#include <cstring>

#include "weights/weight.h"

namespace cutwork {
namespace {

#include "kernels/int4/layout.inc"

constexpr int64_t kLineBytes = 64;
constexpr uint8_t kTwoZeros = 0x88;

// The bytes of the dense int4 layout, from those of the bitmask.
void write_pairs(const Weight& weight, uint8_t* out) {
  const int64_t tiles = tile_count(weight.rows), pairs = run_count(weight.cols) * kRunWords / 2;
  const uint64_t* mask = weight.mask;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const uint8_t *low = tile_bytes(weight, tile), *high = low;
    for (int64_t pair = 0; pair < pairs; ++pair, mask += 2, out += kPairBytes) {
      std::memset(out, kTwoZeros, kPairBytes);
      for (uint64_t rest = mask[0]; rest != 0; rest &= rest - 1) {
        uint8_t& byte = out[__builtin_ctzll(rest)];
        byte = static_cast<uint8_t>((byte & 0xf0) | (*low++ & 0x0f));
      }
      for (uint64_t rest = mask[1]; rest != 0; rest &= rest - 1) {
        uint8_t& byte = out[__builtin_ctzll(rest)];
        byte = static_cast<uint8_t>((byte & 0x0f) | (*high++ & 0xf0));
      }
    }
  }
}

}  // namespace

std::optional<OwnedWeight> OwnedWeight::in_dense() const {
  const bool halves = view_.dtype == DType::i4;
  if (view_.encoding != Encoding::bitmask || !(halves || view_.dtype == DType::i8)) return std::nullopt;
  const int64_t tiles = tile_count(view_.rows);
  const int64_t scale_bytes =
      halves ? tiles * group_count(view_) * kRowTile * scale_size(view_) : view_.rows * int64_t{sizeof(float)};
  const int64_t value_bytes =
      halves ? tiles * run_count(view_.cols) * kRunWords / 2 * kPairBytes : view_.rows * view_.cols;
  const int64_t scales_at = (value_bytes + kLineBytes - 1) / kLineBytes * kLineBytes;
  OwnedWeight weight;
  weight.entries_ = Allocation(scales_at + scale_bytes, "a weight written out",
                               "load with fewer models, or on a machine with more memory");
  char* const values = weight.entries_.data();
  char* const scales = values + scales_at;
  Weight& view = weight.view_;
  view = view_;
  view.encoding = Encoding::dense;
  view.mask = nullptr;
  view.offsets = nullptr;
  view.reordered = {};
  view.values = values;
  if (halves) {
    write_pairs(view_, reinterpret_cast<uint8_t*>(values));
    std::memcpy(scales, view_.scales, static_cast<size_t>(scale_bytes));
    view.scales = scales;
  } else {
    write_dense(view_, values);
    std::memcpy(scales, view_.scale, static_cast<size_t>(scale_bytes));
    view.scale = reinterpret_cast<const float*>(scales);
    weight.row_sums_.reset(new int32_t[static_cast<size_t>(view_.rows)]);
    std::copy_n(view_.row_sums, view_.rows, weight.row_sums_.get());
    view.row_sums = weight.row_sums_.get();
  }
  weight.nbytes_ = value_bytes + scale_bytes;
  return weight;
}

}  // namespace cutwork

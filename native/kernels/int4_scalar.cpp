// Int4 kernels in plain C++.
#include "kernels/int4.h"

namespace cutwork {
namespace {

struct Op {
  struct Word {
    uint8_t code[64];
  };
  struct Acc {
    int32_t row[kRowTile];
  };
  struct Sums {
    float row[kRowTile];
  };
  static constexpr int kGemvTokens = 4;
  template <int>
  static constexpr int kChains = 1;

  static void load(const uint8_t* bytes, Word& even, Word& odd) {
    for (int i = 0; i < 64; ++i) {
      even.code[i] = bytes[i] & 15;
      odd.code[i] = bytes[i] >> 4;
    }
  }
  template <bool Odd>
  static Word expand(const uint64_t* mask, const uint8_t*& bytes) {
    Word word;
    __builtin_memset(word.code, 8, sizeof word.code);
    for (uint64_t rest = *mask; rest != 0; rest &= rest - 1, ++bytes)
      word.code[__builtin_ctzll(rest)] = Odd ? *bytes >> 4 : *bytes & 15;
    return word;
  }
  static Acc mac(Acc acc, const Word& word, const int8_t* x) {
    for (int r = 0; r < kRowTile; ++r)
      for (int k = 0; k < 4; ++k) acc.row[r] += word.code[4 * r + k] * x[k];
    return acc;
  }
  static void flush(Acc&) {}
  static Acc add(Acc a, const Acc& b) {
    for (int r = 0; r < kRowTile; ++r) a.row[r] += b.row[r];
    return a;
  }
  static Sums scales(const Weight& weight, int64_t i);
  static Sums add_scaled(Sums sums, const Acc& acc, int32_t correction, const Sums& scales) {
    for (int r = 0; r < kRowTile; ++r) sums.row[r] += static_cast<float>(acc.row[r] - correction) * scales.row[r];
    return sums;
  }
  static void store(float* y, const Sums& sums, float factor, int64_t count) {
    for (int64_t r = 0; r < count; ++r) y[r] = sums.row[r] * factor;
  }
};

#include "kernels/int4_gemv.inc"

Op::Sums Op::scales(const Weight& weight, int64_t i) {
  Sums sums;
  for (int r = 0; r < kRowTile; ++r) sums.row[r] = scale_at(weight, i + r);
  return sums;
}

}  // namespace

const Int4Kernels kInt4Scalar = {input_bytes, prepare, nullptr, gemv<Op>, nullptr, Op::kGemvTokens};

}  // namespace cutwork

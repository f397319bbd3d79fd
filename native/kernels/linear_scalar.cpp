// Kernels in plain C++ for processors without a set of their own: lanes are arrays that the compiler may vectorise.
#include <type_traits>

#include "kernels/int4.h"
#include "kernels/linear.h"
#include "kernels/linear_sets.h"

namespace cutwork {
namespace {

constexpr const Int4Kernels& kInt4 = kInt4Scalar;
constexpr int kCodeBias = 0;
constexpr int64_t kDeinterleave = 1;

#include "kernels/input.inc"

float to_float(float value) {
  return value;
}

float to_float(uint16_t bf16) {
  const uint32_t bits = static_cast<uint32_t>(bf16) << 16;
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

int8_t to_float(int8_t value) {
  return value;
}

// A block of one row as `Lane`s, whose products with the input add up in sixteen `SumType`s.
template <class ValueType, class Lane, class InputType, class SumType>
struct Op {
  using Masked = Op;
  using Value = ValueType;
  using InputValue = InputType;
  using Sum = SumType;
  static constexpr bool kQuantized = sizeof(Value) == 1;
  static constexpr int64_t kCols = kBlockCols;
  static constexpr int kGemvTokens = 4;
  static constexpr int kLanes = 16;
  struct Chunk {
    Lane lane[kCols];
  };
  struct Acc {
    Sum lane[kLanes];
  };

  static Chunk expand(const uint64_t* word, int, const Value*& values) {
    Chunk chunk = {};
    for (uint64_t rest = *word; rest != 0; rest &= rest - 1) chunk.lane[__builtin_ctzll(rest)] = to_float(*values++);
    return chunk;
  }

  static Chunk load(const Value* values, int64_t valid) {
    Chunk chunk = {};
    for (int64_t k = 0; k < valid; ++k) chunk.lane[k] = to_float(values[k]);
    return chunk;
  }

  static Acc dot(Acc acc, const Chunk& chunk, const InputValue* x) {
    for (int64_t k = 0; k < kCols; k += kLanes)
      for (int64_t i = 0; i < kLanes; ++i)
        acc.lane[i] += static_cast<Sum>(chunk.lane[k + i]) * static_cast<Sum>(x[k + i]);
    return acc;
  }

  static void sum4(const Acc* acc, int stride, Sum* out) {
    for (int r = 0; r < kGroupRows; ++r) {
      Sum total = 0;
      for (int i = 0; i < kLanes; ++i) total += acc[r * stride].lane[i];
      out[r] = total;
    }
  }

  static Acc add(Acc a, const Acc& b) {
    for (int i = 0; i < kLanes; ++i) a.lane[i] += b.lane[i];
    return a;
  }
};

using F32 = Op<float, float, float, float>;
using Bf16 = Op<uint16_t, float, float, float>;
using I8 = Op<int8_t, int8_t, int8_t, int32_t>;

#include "kernels/gemv.inc"

int64_t gemv_tokens(DType dtype) {
  return dtype == DType::i4 ? kInt4.gemv_tokens : F32::kGemvTokens;
}

bool has(Family family, Encoding, DType) {
  return family == Family::gemv;
}

size_t scratch_bytes(Family, const Weight&, int64_t) {
  return 0;
}

void multiply(Family, const Weight& weight, const void* input, int64_t tokens, int64_t begin, int64_t end, float* y,
              int64_t ldy, void*) {
  switch (weight.dtype) {
    case DType::f32:
      return gemv<F32>(weight, input, tokens, begin, end, y, ldy);
    case DType::bf16:
      return gemv<Bf16>(weight, input, tokens, begin, end, y, ldy);
    case DType::i4:
      return kInt4.gemv(weight, input, tokens, begin, end, y, ldy, nullptr);
    case DType::i8:
      return gemv<I8>(weight, input, tokens, begin, end, y, ldy);
  }
}

}  // namespace

const LinearKernels kLinearScalar = {input_bytes,   prepare,  nullptr,     nullptr, has,
                                     scratch_bytes, multiply, gemv_tokens, nullptr};

}  // namespace cutwork

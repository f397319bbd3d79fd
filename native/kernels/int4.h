// The kernels of int4 weights (linear.h tells their layout), one table per instruction set; `LinearKernels` of the set
// hands int4 weights to them.
#pragma once

#include "kernels/linear.h"

namespace cutwork {

// Like the members of LinearKernels. Every set gives the same results bit for bit.
struct Int4Kernels {
  size_t (*input_bytes)(int64_t tokens, int64_t cols);
  void (*prepare)(const float* x, int64_t ldx, int64_t tokens, int64_t cols, int64_t begin, int64_t end, void* input);
  size_t (*gemm_scratch_bytes)(int64_t tokens);
  void (*gemv)(const Weight& weight, const void* input, int64_t tokens, int64_t begin, int64_t end, float* y,
               int64_t ldy, void* scratch);
  void (*gemm)(const Weight& weight, const void* input, int64_t tokens, int64_t begin, int64_t end, float* y,
               int64_t ldy, void* scratch);
  int64_t gemv_tokens;
};

extern const Int4Kernels kInt4Scalar;
#ifdef CUTWORK_X86
extern const Int4Kernels kInt4Avx2;
extern const Int4Kernels kInt4Avx512f;
extern const Int4Kernels kInt4Avx512;
#endif

}  // namespace cutwork

// Costs where nobody has measured: those of an AMD Zen 5 core, which benchmarks/engine/default_costs.py measures and
// writes here. A kernel that is not here is not chosen until it has been measured.
#pragma once

#include "cost/cost.h"

namespace cutwork {

constexpr double kDefaultBandwidth = 40e9;  // bytes per second of one thread

struct DefaultCost {
  const char* isa;
  Algorithm algorithm;
  Encoding encoding;
  DType dtype;
  Cost cost;
};

constexpr DefaultCost kDefaultCosts[] = {
    {"avx512", Algorithm::gemv, Encoding::dense, DType::f32, {15.16, 0, 20.41}},
    {"avx512", Algorithm::gemm, Encoding::dense, DType::f32, {109.5, 0, 7.832}},
    {"avx512", Algorithm::gemv, Encoding::bitmask, DType::f32, {28.43, 5.551, 7.728}},
    {"avx512", Algorithm::gemm, Encoding::bitmask, DType::f32, {98.59, 28.19, 7.741}},
    {"avx512", Algorithm::spmm_tokens, Encoding::bitmask, DType::f32, {67.89, 54.3, 13.29, 0.5326, 119.8}},
    {"avx512", Algorithm::gemv, Encoding::dense, DType::bf16, {18.74, 0, 7.81}},
    {"avx512", Algorithm::gemm, Encoding::dense, DType::bf16, {67.24, 0, 7.658, 0, 16.55}},
    {"avx512", Algorithm::gemv, Encoding::bitmask, DType::bf16, {13.05, 7.046, 7.376}},
    {"avx512", Algorithm::gemm, Encoding::bitmask, DType::bf16, {71.03, 15.67, 7.712, 0, 18.88}},
    {"avx512", Algorithm::spmm_tokens, Encoding::bitmask, DType::bf16, {19.42, 188.2, 12.65, 0.5139, 251.5}},
    {"avx512", Algorithm::gemv, Encoding::dense, DType::i8, {2.389, 0, 5.332, 0, 1138}},
    {"avx512", Algorithm::gemm, Encoding::dense, DType::i8, {16.95, 0, 1.926}},
    {"avx512", Algorithm::gemv, Encoding::bitmask, DType::i8, {3.776, 6.146, 3.125, 0, 1423}},
    {"avx512", Algorithm::gemm, Encoding::bitmask, DType::i8, {23.47, 1.166, 1.826, 0, 65.14}},
    {"avx512", Algorithm::spmm_tokens, Encoding::bitmask, DType::i8, {13.2, 189.1, 4.451, 0.0755, 341.4}},
    {"avx512", Algorithm::spmm_rows, Encoding::bitmask, DType::i8, {29.05, 32.35, 2.894, 0.4149, 34.41}},
    {"avx512", Algorithm::spmm_tokens, Encoding::block1x4, DType::i8, {26.25, 43.01, 2.929, 0.09028, 455}},
    {"avx512", Algorithm::spmm_tokens, Encoding::block4x1, DType::i8, {15.41, 66.42, 1.905, 0.09399, 394.2}},
    {"avx512", Algorithm::gemv, Encoding::dense, DType::i4, {1.835, 0, 2.188}},
    {"avx512", Algorithm::gemm, Encoding::dense, DType::i4, {7.846, 0, 2.195}},
    {"avx512", Algorithm::gemv, Encoding::bitmask, DType::i4, {7, 1.051, 2.107}},
    {"avx512", Algorithm::gemm, Encoding::bitmask, DType::i4, {11.45, 1.03, 2.199}},
    {"avx512f", Algorithm::gemv, Encoding::dense, DType::f32, {14.04, 0, 20.1}},
    {"avx512f", Algorithm::gemm, Encoding::dense, DType::f32, {107.1, 0, 7.844}},
    {"avx512f", Algorithm::gemv, Encoding::bitmask, DType::f32, {28.13, 2.66, 7.523}},
    {"avx512f", Algorithm::gemm, Encoding::bitmask, DType::f32, {103.2, 20.36, 7.85}},
    {"avx512f", Algorithm::spmm_tokens, Encoding::bitmask, DType::f32, {139.6, 578.5, 12.8, 0.6693, 194.7}},
    {"avx512f", Algorithm::gemv, Encoding::dense, DType::bf16, {1.284, 0, 23.01}},
    {"avx512f", Algorithm::gemm, Encoding::dense, DType::bf16, {93.32, 0, 7.75}},
    {"avx512f", Algorithm::gemv, Encoding::bitmask, DType::bf16, {23.58, 4.128, 7.317}},
    {"avx512f", Algorithm::gemm, Encoding::bitmask, DType::bf16, {87.39, 50.1, 7.685}},
    {"avx512f", Algorithm::spmm_tokens, Encoding::bitmask, DType::bf16, {144.1, 409.2, 12.8, 0.4649, 296.8}},
    {"avx512f", Algorithm::gemv, Encoding::dense, DType::i8, {3.97, 0, 6.87}},
    {"avx512f", Algorithm::gemm, Encoding::dense, DType::i8, {24.24, 0, 4.842}},
    {"avx512f", Algorithm::gemv, Encoding::bitmask, DType::i8, {27.6, 1.638, 5.818}},
    {"avx512f", Algorithm::gemm, Encoding::bitmask, DType::i8, {59.73, 10.85, 4.75, 0, 64.82}},
    {"avx512f", Algorithm::spmm_tokens, Encoding::bitmask, DType::i8, {134.5, 741.9, 6.94, 0.2445, 280.7}},
    {"avx512f", Algorithm::spmm_tokens, Encoding::block1x4, DType::i8, {88.56, 195.7, 5.826, 0.1399, 217.8}},
    {"avx512f", Algorithm::spmm_tokens, Encoding::block4x1, DType::i8, {19.77, 153.8, 5.86, 0.2744, 240.8}},
    {"avx512f", Algorithm::gemv, Encoding::dense, DType::i4, {1.214, 0, 3.097}},
    {"avx512f", Algorithm::gemm, Encoding::dense, DType::i4, {4.545, 0, 4.928}},
    {"avx512f", Algorithm::gemv, Encoding::bitmask, DType::i4, {38.2, 0.009374, 3.421}},
    {"avx512f", Algorithm::gemm, Encoding::bitmask, DType::i4, {43.46, 2.986, 4.89}},
    {"avx512", Algorithm::slots, Encoding::slots, DType::i8, {0, 12.7, 8.83, 0, 433.5}},
    {"avx512", Algorithm::slots, Encoding::slots, DType::i4, {1.335, 13.33, 3.411, 0.225, 176.2}},
    {"avx512f", Algorithm::slots, Encoding::slots, DType::i8, {0, 13.95, 9.479, 0, 362.1}},
    {"avx512f", Algorithm::slots, Encoding::slots, DType::i4, {2.68, 6.133, 6.762, 0, 164.3}},
    {"avx2", Algorithm::slots, Encoding::slots, DType::i8, {0, 10.52, 12.76, 0, 631.8}},
    {"avx2", Algorithm::slots, Encoding::slots, DType::i4, {0.8348, 10.81, 11.25, 0.265, 423}},
    {"scalar", Algorithm::slots, Encoding::slots, DType::i8, {0, 0, 528.4, 3.255, 2079}},
    {"scalar", Algorithm::slots, Encoding::slots, DType::i4, {5.61, 77.01, 364, 5.519, 94.35}},
    {"avx2", Algorithm::gemv, Encoding::dense, DType::f32, {43.03, 0, 3.849}},
    {"avx2", Algorithm::gemm, Encoding::dense, DType::f32, {218.4, 0, 15.75, 0, 6.027}},
    {"avx2", Algorithm::gemv, Encoding::bitmask, DType::f32, {28.04, 11.03, 18.59}},
    {"avx2", Algorithm::gemm, Encoding::bitmask, DType::f32, {225.3, 37.39, 15.64}},
    {"avx2", Algorithm::spmm_tokens, Encoding::bitmask, DType::f32, {130.8, 552.8, 20.25, 0.5856, 790.9}},
    {"avx2", Algorithm::gemv, Encoding::dense, DType::bf16, {40.61, 0, 0}},
    {"avx2", Algorithm::gemm, Encoding::dense, DType::bf16, {173.1, 0, 15.91, 0, 80.9}},
    {"avx2", Algorithm::gemv, Encoding::bitmask, DType::bf16, {26.86, 9.23, 17.86}},
    {"avx2", Algorithm::gemm, Encoding::bitmask, DType::bf16, {193.9, 35.75, 16.21}},
    {"avx2", Algorithm::spmm_tokens, Encoding::bitmask, DType::bf16, {120.5, 609.2, 23.3, 0.4284, 849.1}},
    {"avx2", Algorithm::gemv, Encoding::dense, DType::i8, {1.679, 0, 10.92}},
    {"avx2", Algorithm::gemm, Encoding::dense, DType::i8, {36.73, 0, 9.868, 0, 55.79}},
    {"avx2", Algorithm::gemv, Encoding::bitmask, DType::i8, {20.39, 3.045, 10.5}},
    {"avx2", Algorithm::gemm, Encoding::bitmask, DType::i8, {79.5, 5.696, 9.862, 0, 53.83}},
    {"avx2", Algorithm::spmm_tokens, Encoding::bitmask, DType::i8, {108.2, 480.1, 13.56, 0.2605, 565.9}},
    {"avx2", Algorithm::spmm_tokens, Encoding::block1x4, DType::i8, {82.97, 135.6, 10.38, 0.1308, 664.6}},
    {"avx2", Algorithm::spmm_tokens, Encoding::block4x1, DType::i8, {42.27, 446.2, 13.05, 0.1519, 726.8}},
    {"avx2", Algorithm::gemv, Encoding::dense, DType::i4, {0, 0, 8.301}},
    {"avx2", Algorithm::gemm, Encoding::dense, DType::i4, {6.255, 0, 8.564}},
    {"avx2", Algorithm::gemv, Encoding::bitmask, DType::i4, {35.4, 0.6671, 7.402}},
    {"avx2", Algorithm::gemm, Encoding::bitmask, DType::i4, {46.35, 0.8984, 8.598}},
    {"scalar", Algorithm::gemv, Encoding::dense, DType::f32, {116.8, 0, 174.4}},
    {"scalar", Algorithm::gemv, Encoding::bitmask, DType::f32, {175.6, 518.2, 88.02}},
    {"scalar", Algorithm::gemv, Encoding::dense, DType::bf16, {0, 0, 116.9}},
    {"scalar", Algorithm::gemv, Encoding::bitmask, DType::bf16, {234.3, 377.5, 274.2}},
    {"scalar", Algorithm::gemv, Encoding::dense, DType::i8, {0, 0, 125}},
    {"scalar", Algorithm::gemv, Encoding::bitmask, DType::i8, {0, 468.9, 131.9}},
    {"scalar", Algorithm::gemv, Encoding::dense, DType::i4, {0, 0, 154}},
    {"scalar", Algorithm::gemv, Encoding::bitmask, DType::i4, {18.85, 513.1, 142}},
};

}  // namespace cutwork

// Costs where nobody has measured: those of an AMD Zen 5 core, by `cutwork explain --measure` under each CUTWORK_ISA.
#pragma once

#include "cost.h"

namespace cutwork {

constexpr double kDefaultBandwidth = 40e9;  // bytes per second of one thread

struct DefaultCost {
  Isa isa;
  Family family;
  Encoding encoding;
  DType dtype;
  Cost cost;
};

constexpr DefaultCost kDefaultCosts[] = {
    {Isa::avx512, Family::gemv, Encoding::dense, DType::f32, {15.16, 0, 20.41}},
    {Isa::avx512, Family::gemm, Encoding::dense, DType::f32, {105.3, 0, 7.806}},
    {Isa::avx512, Family::gemv, Encoding::bitmask, DType::f32, {28.43, 5.551, 7.728}},
    {Isa::avx512, Family::gemm, Encoding::bitmask, DType::f32, {93.79, 30.75, 7.496}},
    {Isa::avx512, Family::spmm, Encoding::bitmask, DType::f32, {60.76, 92.86, 12.01, 0.631, 0}},
    {Isa::avx512, Family::gemv, Encoding::dense, DType::bf16, {18.74, 0, 7.81}},
    {Isa::avx512, Family::gemm, Encoding::dense, DType::bf16, {82.37, 0, 7.65}},
    {Isa::avx512, Family::gemv, Encoding::bitmask, DType::bf16, {13.05, 7.046, 7.376}},
    {Isa::avx512, Family::gemm, Encoding::bitmask, DType::bf16, {69.84, 16.57, 7.659}},
    {Isa::avx512, Family::spmm, Encoding::bitmask, DType::bf16, {13.3, 202.7, 11.67, 0.8531, 0}},
    {Isa::avx512, Family::gemv, Encoding::dense, DType::i8, {1.956, 0, 5.831}},
    {Isa::avx512, Family::gemm, Encoding::dense, DType::i8, {23.24, 0, 1.873, 0, 99.83}},
    {Isa::avx512, Family::gemv, Encoding::bitmask, DType::i8, {7.188, 0.4968, 3.111}},
    {Isa::avx512, Family::gemm, Encoding::bitmask, DType::i8, {37.87, 3.052, 1.883, 0, 80.29}},
    {Isa::avx512, Family::spmm, Encoding::bitmask, DType::i8, {30.47, 122.6, 3.734, 0.3328, 84.25}},
    {Isa::avx512, Family::spmm, Encoding::block1x4, DType::i8, {23.48, 30.62, 2.944, 0.1823, 118.8}},
    {Isa::avx512, Family::spmm, Encoding::block4x1, DType::i8, {15.02, 27.8, 2.05, 0.2583, 106.5}},
    {Isa::avx512, Family::gemv, Encoding::dense, DType::i4, {1.835, 0, 2.188}},
    {Isa::avx512, Family::gemm, Encoding::dense, DType::i4, {7.846, 0, 2.195}},
    {Isa::avx512, Family::gemv, Encoding::bitmask, DType::i4, {7, 1.051, 2.107}},
    {Isa::avx512, Family::gemm, Encoding::bitmask, DType::i4, {11.45, 1.03, 2.199}},
    {Isa::avx512f, Family::gemv, Encoding::dense, DType::f32, {14.04, 0, 20.1}},
    {Isa::avx512f, Family::gemm, Encoding::dense, DType::f32, {121.9, 0, 7.467}},
    {Isa::avx512f, Family::gemv, Encoding::bitmask, DType::f32, {28.13, 2.66, 7.523}},
    {Isa::avx512f, Family::gemm, Encoding::bitmask, DType::f32, {94.08, 18.38, 7.547}},
    {Isa::avx512f, Family::spmm, Encoding::bitmask, DType::f32, {153.8, 438.2, 11.89}},
    {Isa::avx512f, Family::gemv, Encoding::dense, DType::bf16, {1.284, 0, 23.01}},
    {Isa::avx512f, Family::gemm, Encoding::dense, DType::bf16, {104.1, 0, 7.53}},
    {Isa::avx512f, Family::gemv, Encoding::bitmask, DType::bf16, {23.58, 4.128, 7.317}},
    {Isa::avx512f, Family::gemm, Encoding::bitmask, DType::bf16, {90.18, 11.67, 7.529}},
    {Isa::avx512f, Family::spmm, Encoding::bitmask, DType::bf16, {145.3, 442.6, 12.05}},
    {Isa::avx512f, Family::gemv, Encoding::dense, DType::i8, {3.97, 0, 6.87}},
    {Isa::avx512f, Family::gemm, Encoding::dense, DType::i8, {25.44, 0, 4.641}},
    {Isa::avx512f, Family::gemv, Encoding::bitmask, DType::i8, {27.6, 1.638, 5.818}},
    {Isa::avx512f, Family::gemm, Encoding::bitmask, DType::i8, {60.39, 2.223, 4.631}},
    {Isa::avx512f, Family::spmm, Encoding::bitmask, DType::i8, {113, 488, 8.5}},
    {Isa::avx512f, Family::spmm, Encoding::block1x4, DType::i8, {60, 100, 9}},
    {Isa::avx512f, Family::spmm, Encoding::block4x1, DType::i8, {60, 100, 12}},
    {Isa::avx512f, Family::gemv, Encoding::dense, DType::i4, {1.214, 0, 3.097}},
    {Isa::avx512f, Family::gemm, Encoding::dense, DType::i4, {4.545, 0, 4.928}},
    {Isa::avx512f, Family::gemv, Encoding::bitmask, DType::i4, {38.2, 0.009374, 3.421}},
    {Isa::avx512f, Family::gemm, Encoding::bitmask, DType::i4, {43.46, 2.986, 4.89}},
    {Isa::avx2, Family::gemv, Encoding::dense, DType::f32, {43.03, 0, 3.849}},
    {Isa::avx2, Family::gemm, Encoding::dense, DType::f32, {205, 0, 14.94}},
    {Isa::avx2, Family::gemv, Encoding::bitmask, DType::f32, {28.04, 11.03, 18.59}},
    {Isa::avx2, Family::gemm, Encoding::bitmask, DType::f32, {218.4, 26.02, 15.05}},
    {Isa::avx2, Family::spmm, Encoding::bitmask, DType::f32, {147.7, 451.1, 19.17}},
    {Isa::avx2, Family::gemv, Encoding::dense, DType::bf16, {40.61, 0, 0}},
    {Isa::avx2, Family::gemm, Encoding::dense, DType::bf16, {170.2, 0, 15.21}},
    {Isa::avx2, Family::gemv, Encoding::bitmask, DType::bf16, {26.86, 9.23, 17.86}},
    {Isa::avx2, Family::gemm, Encoding::bitmask, DType::bf16, {194.9, 12.57, 15.26}},
    {Isa::avx2, Family::spmm, Encoding::bitmask, DType::bf16, {148.3, 437.4, 19.48}},
    {Isa::avx2, Family::gemv, Encoding::dense, DType::i8, {1.679, 0, 10.92}},
    {Isa::avx2, Family::gemm, Encoding::dense, DType::i8, {32.8, 0, 9.28}},
    {Isa::avx2, Family::gemv, Encoding::bitmask, DType::i8, {20.39, 3.045, 10.5}},
    {Isa::avx2, Family::gemm, Encoding::bitmask, DType::i8, {78.34, 0.9668, 9.247}},
    {Isa::avx2, Family::spmm, Encoding::bitmask, DType::i8, {113, 511, 22}},
    {Isa::avx2, Family::spmm, Encoding::block1x4, DType::i8, {60, 100, 9}},
    {Isa::avx2, Family::spmm, Encoding::block4x1, DType::i8, {60, 100, 12}},
    {Isa::avx2, Family::gemv, Encoding::dense, DType::i4, {0, 0, 8.301}},
    {Isa::avx2, Family::gemm, Encoding::dense, DType::i4, {6.255, 0, 8.564}},
    {Isa::avx2, Family::gemv, Encoding::bitmask, DType::i4, {35.4, 0.6671, 7.402}},
    {Isa::avx2, Family::gemm, Encoding::bitmask, DType::i4, {46.35, 0.8984, 8.598}},
    {Isa::scalar, Family::gemv, Encoding::dense, DType::f32, {116.8, 0, 174.4}},
    {Isa::scalar, Family::gemv, Encoding::bitmask, DType::f32, {175.6, 518.2, 88.02}},
    {Isa::scalar, Family::gemv, Encoding::dense, DType::bf16, {0, 0, 116.9}},
    {Isa::scalar, Family::gemv, Encoding::bitmask, DType::bf16, {234.3, 377.5, 274.2}},
    {Isa::scalar, Family::gemv, Encoding::dense, DType::i8, {0, 0, 125}},
    {Isa::scalar, Family::gemv, Encoding::bitmask, DType::i8, {0, 468.9, 131.9}},
    {Isa::scalar, Family::gemv, Encoding::dense, DType::i4, {0, 0, 154}},
    {Isa::scalar, Family::gemv, Encoding::bitmask, DType::i4, {18.85, 513.1, 142}},
};

}  // namespace cutwork

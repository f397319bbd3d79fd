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
    {Isa::avx512, Family::gemv, Encoding::dense, DType::f32, {31.34, 0, 7.483}},
    {Isa::avx512, Family::gemm, Encoding::dense, DType::f32, {137.8, 0, 7.472}},
    {Isa::avx512, Family::gemv, Encoding::bitmask, DType::f32, {27.81, 12.33, 4.875}},
    {Isa::avx512, Family::gemm, Encoding::bitmask, DType::f32, {102.3, 7.253, 7.503}},
    {Isa::avx512, Family::spmm, Encoding::bitmask, DType::f32, {114.1, 102.9, 12.83}},
    {Isa::avx512, Family::gemv, Encoding::dense, DType::bf16, {34.49, 0, 3.027}},
    {Isa::avx512, Family::gemm, Encoding::dense, DType::bf16, {91.95, 0, 7.432}},
    {Isa::avx512, Family::gemv, Encoding::bitmask, DType::bf16, {13.54, 0, 6.383}},
    {Isa::avx512, Family::gemm, Encoding::bitmask, DType::bf16, {70.93, 0, 7.329}},
    {Isa::avx512, Family::spmm, Encoding::bitmask, DType::bf16, {80.27, 191.1, 11.85}},
    {Isa::avx512, Family::gemv, Encoding::dense, DType::i8, {7.563, 0, 1.576}},
    {Isa::avx512, Family::gemm, Encoding::dense, DType::i8, {21.48, 0, 1.811}},
    {Isa::avx512, Family::gemv, Encoding::bitmask, DType::i8, {6.269, 0, 2.892}},
    {Isa::avx512, Family::gemm, Encoding::bitmask, DType::i8, {25.72, 4.837, 1.814}},
    {Isa::avx512, Family::spmm, Encoding::bitmask, DType::i8, {55, 0, 4.6}},
    {Isa::avx512, Family::spmm, Encoding::block1x4, DType::i8, {45, 0, 2.9}},
    {Isa::avx512, Family::spmm, Encoding::block4x1, DType::i8, {45, 0, 1.9}},
    {Isa::avx512, Family::gemv, Encoding::dense, DType::i4, {3.68, 0, 2.45}},
    {Isa::avx512, Family::gemm, Encoding::dense, DType::i4, {7.725, 0, 2.379}},
    {Isa::avx512, Family::gemv, Encoding::bitmask, DType::i4, {8.116, 0, 2.5}},
    {Isa::avx512, Family::gemm, Encoding::bitmask, DType::i4, {9.921, 1.341, 2.491}},
    // Not measured: floats as with avx512, codes as with avx2.
    {Isa::avx512f, Family::gemv, Encoding::dense, DType::f32, {31.34, 0, 7.483}},
    {Isa::avx512f, Family::gemm, Encoding::dense, DType::f32, {137.8, 0, 7.472}},
    {Isa::avx512f, Family::gemv, Encoding::bitmask, DType::f32, {27.81, 12.33, 4.875}},
    {Isa::avx512f, Family::gemm, Encoding::bitmask, DType::f32, {102.3, 7.253, 7.503}},
    {Isa::avx512f, Family::spmm, Encoding::bitmask, DType::f32, {114.1, 102.9, 12.83}},
    {Isa::avx512f, Family::gemv, Encoding::dense, DType::bf16, {34.49, 0, 3.027}},
    {Isa::avx512f, Family::gemm, Encoding::dense, DType::bf16, {91.95, 0, 7.432}},
    {Isa::avx512f, Family::gemv, Encoding::bitmask, DType::bf16, {13.54, 0, 6.383}},
    {Isa::avx512f, Family::gemm, Encoding::bitmask, DType::bf16, {70.93, 0, 7.329}},
    {Isa::avx512f, Family::spmm, Encoding::bitmask, DType::bf16, {80.27, 191.1, 11.85}},
    {Isa::avx512f, Family::gemv, Encoding::dense, DType::i8, {7.742, 0, 9.264}},
    {Isa::avx512f, Family::gemm, Encoding::dense, DType::i8, {36.21, 0, 9.264}},
    {Isa::avx512f, Family::gemv, Encoding::bitmask, DType::i8, {27.84, 0.9422, 9.445}},
    {Isa::avx512f, Family::gemm, Encoding::bitmask, DType::i8, {76.06, 0.1606, 9.445}},
    {Isa::avx512f, Family::spmm, Encoding::bitmask, DType::i8, {95, 400, 14}},
    {Isa::avx512f, Family::spmm, Encoding::block1x4, DType::i8, {60, 100, 9}},
    {Isa::avx512f, Family::spmm, Encoding::block4x1, DType::i8, {60, 100, 12}},
    {Isa::avx512f, Family::gemv, Encoding::dense, DType::i4, {2.451, 0, 8.541}},
    {Isa::avx512f, Family::gemm, Encoding::dense, DType::i4, {6.381, 0, 8.541}},
    {Isa::avx512f, Family::gemv, Encoding::bitmask, DType::i4, {36.73, 0.08953, 8.812}},
    {Isa::avx512f, Family::gemm, Encoding::bitmask, DType::i4, {37.99, 8.412, 8.812}},
    {Isa::avx2, Family::gemv, Encoding::dense, DType::f32, {39.91, 0, 10.08}},
    {Isa::avx2, Family::gemm, Encoding::dense, DType::f32, {213.8, 0, 15}},
    {Isa::avx2, Family::gemv, Encoding::bitmask, DType::f32, {27.43, 10.38, 18.87}},
    {Isa::avx2, Family::gemm, Encoding::bitmask, DType::f32, {213.1, 29.45, 14.92}},
    {Isa::avx2, Family::spmm, Encoding::bitmask, DType::f32, {190.1, 551.4, 23.99}},
    {Isa::avx2, Family::gemv, Encoding::dense, DType::bf16, {37.68, 0, 9.684}},
    {Isa::avx2, Family::gemm, Encoding::dense, DType::bf16, {203.7, 0, 14.71}},
    {Isa::avx2, Family::gemv, Encoding::bitmask, DType::bf16, {49.58, 1.262, 12.98}},
    {Isa::avx2, Family::gemm, Encoding::bitmask, DType::bf16, {216.3, 7.831, 14.78}},
    {Isa::avx2, Family::spmm, Encoding::bitmask, DType::bf16, {189.5, 503.4, 24.1}},
    {Isa::avx2, Family::gemv, Encoding::dense, DType::i8, {7.742, 0, 7.366}},
    {Isa::avx2, Family::gemm, Encoding::dense, DType::i8, {36.21, 0, 9.264}},
    {Isa::avx2, Family::gemv, Encoding::bitmask, DType::i8, {27.84, 0.9422, 10.52}},
    {Isa::avx2, Family::gemm, Encoding::bitmask, DType::i8, {76.06, 0.1606, 9.445}},
    {Isa::avx2, Family::spmm, Encoding::bitmask, DType::i8, {95, 400, 14}},
    {Isa::avx2, Family::spmm, Encoding::block1x4, DType::i8, {60, 100, 9}},
    {Isa::avx2, Family::spmm, Encoding::block4x1, DType::i8, {60, 100, 12}},
    {Isa::avx2, Family::gemv, Encoding::dense, DType::i4, {2.451, 0, 8.002}},
    {Isa::avx2, Family::gemm, Encoding::dense, DType::i4, {6.381, 0, 8.541}},
    {Isa::avx2, Family::gemv, Encoding::bitmask, DType::i4, {36.73, 0.08953, 7.168}},
    {Isa::avx2, Family::gemm, Encoding::bitmask, DType::i4, {37.99, 8.412, 8.812}},
    {Isa::scalar, Family::gemv, Encoding::dense, DType::f32, {192.7, 0, 82.97}},
    {Isa::scalar, Family::gemv, Encoding::bitmask, DType::f32, {167.9, 528.4, 95.72}},
    {Isa::scalar, Family::gemv, Encoding::dense, DType::bf16, {0, 0, 99.55}},
    {Isa::scalar, Family::gemv, Encoding::bitmask, DType::bf16, {261.9, 330, 268.8}},
    {Isa::scalar, Family::gemv, Encoding::dense, DType::i8, {0, 0, 92.29}},
    {Isa::scalar, Family::gemv, Encoding::bitmask, DType::i8, {0, 454.6, 130.9}},
    {Isa::scalar, Family::gemv, Encoding::dense, DType::i4, {0, 0, 139.7}},
    {Isa::scalar, Family::gemv, Encoding::bitmask, DType::i4, {76.26, 490.1, 100.7}},
};

}  // namespace cutwork

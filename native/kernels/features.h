// What processors may offer beyond the least that the compiler builds for, and what a file's flags let it use of that.
#pragma once

#include <cstdint>

namespace cutwork {

// A set of bits.
using Features = uint32_t;

enum Feature : Features {
  kFma = 1u << 0,
  kPopcnt = 1u << 1,
  kAvx = 1u << 2,
  kF16c = 1u << 3,
  kLzcnt = 1u << 4,
  kAvx2 = 1u << 5,
  kBmi = 1u << 6,
  kBmi2 = 1u << 7,
  kAvx512f = 1u << 8,
  kAvx512bw = 1u << 9,
  kAvx512dq = 1u << 10,
  kAvx512vl = 1u << 11,
  kAvx512vbmi = 1u << 12,
  kAvx512vbmi2 = 1u << 13,
  kAvx512vnni = 1u << 14,
  kAvx512vpopcntdq = 1u << 15,
  kAvx512bf16 = 1u << 16,
  kAvxVnni = 1u << 17,
  kAmxInt8 = 1u << 21,   // tdpbusd, which needs amx-tile too
  kAmxBf16 = 1u << 22,   // tdpbf16ps
  kNeonDot = 1u << 18,   // sdot
  kNeonBf16 = 1u << 19,  // bfdot
  kNeonI8mm = 1u << 20,  // smmla
};

// What the flags of this very file let the compiler use, so what a processor must have to run it. The flags are in
// CMakeLists.txt and nowhere else, and no set can ask for less than they do.
static constexpr Features kCompiledFor = 0
#ifdef __FMA__
                                         | kFma
#endif
#ifdef __POPCNT__
                                         | kPopcnt
#endif
#ifdef __AVX__
                                         | kAvx
#endif
#ifdef __F16C__
                                         | kF16c
#endif
#ifdef __LZCNT__
                                         | kLzcnt
#endif
#ifdef __AVX2__
                                         | kAvx2
#endif
#ifdef __BMI__
                                         | kBmi
#endif
#ifdef __BMI2__
                                         | kBmi2
#endif
#ifdef __AVX512F__
                                         | kAvx512f
#endif
#ifdef __AVX512BW__
                                         | kAvx512bw
#endif
#ifdef __AVX512DQ__
                                         | kAvx512dq
#endif
#ifdef __AVX512VL__
                                         | kAvx512vl
#endif
#ifdef __AVX512VBMI__
                                         | kAvx512vbmi
#endif
#ifdef __AVX512VBMI2__
                                         | kAvx512vbmi2
#endif
#ifdef __AVX512VNNI__
                                         | kAvx512vnni
#endif
#ifdef __AVX512VPOPCNTDQ__
                                         | kAvx512vpopcntdq
#endif
#ifdef __AVX512BF16__
                                         | kAvx512bf16
#endif
#ifdef __AVXVNNI__
                                         | kAvxVnni
#endif
#ifdef __AMX_INT8__
                                         | kAmxInt8
#endif
#ifdef __AMX_BF16__
                                         | kAmxBf16
#endif
#ifdef __ARM_FEATURE_DOTPROD
                                         | kNeonDot
#endif
#ifdef __ARM_FEATURE_BF16_VECTOR_ARITHMETIC
                                         | kNeonBf16
#endif
#ifdef __ARM_FEATURE_MATMUL_INT8
                                         | kNeonI8mm
#endif
    ;

}  // namespace cutwork

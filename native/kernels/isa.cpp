// Which instruction set this process uses, and the kernels that belong to it.
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "kernels/linear.h"
#include "kernels/linear_sets.h"

#ifdef CUTWORK_X86
#include <cpuid.h>
#endif

namespace cutwork {
namespace {

#ifdef CUTWORK_X86
uint64_t enabled_registers() {
  uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<uint64_t>(high) << 32 | low;
}

// Everything that the flags in CMakeLists.txt let the compiler use, and the system's consent to save the registers.
Isa best_isa() {
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return Isa::scalar;
  const unsigned base = bit_FMA | bit_POPCNT | bit_OSXSAVE | bit_AVX | bit_F16C;
  if ((c & base) != base) return Isa::scalar;
  if (!__get_cpuid(0x80000001, &a, &b, &c, &d) || !(c & bit_LZCNT)) return Isa::scalar;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return Isa::scalar;
  const unsigned avx2 = bit_AVX2 | bit_BMI | bit_BMI2;
  constexpr uint64_t kYmm = 0x6, kZmm = 0xe6;
  if ((b & avx2) != avx2 || (enabled_registers() & kYmm) != kYmm) return Isa::scalar;
  const unsigned avx512_b = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
  const bool plain = (b & avx512_b) == avx512_b && (enabled_registers() & kZmm) == kZmm;
  if (!plain) return Isa::avx2;
  const unsigned avx512_c = bit_AVX512VBMI | bit_AVX512VBMI2 | bit_AVX512VNNI | bit_AVX512VPOPCNTDQ;
  return (c & avx512_c) == avx512_c ? Isa::avx512 : Isa::avx512f;
}
#else
Isa best_isa() {
  return Isa::scalar;
}
#endif

Isa choose() {
  const Isa best = best_isa();
  const char* forced = std::getenv("CUTWORK_ISA");
  if (forced == nullptr || *forced == '\0') return best;
  const Isa isa = parse_isa(forced);
  if (isa > best)
    throw std::invalid_argument(std::string("CUTWORK_ISA is ") + forced + ", but the best this processor supports is " +
                                isa_name(best) + "; choose that or a lower one");
  return isa;
}

}  // namespace

Isa parse_isa(const char* name) {
  for (Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512f, Isa::avx512})
    if (std::string(name) == isa_name(isa)) return isa;
  throw std::invalid_argument(std::string("unknown instruction set '") + name +
                              "' (in CUTWORK_ISA or isa=); choose scalar, avx2, avx512f or avx512");
}

bool isa_supported(Isa isa) {
  static const Isa best = best_isa();  // where the machine is virtual, each question is 25 microseconds
  return isa <= best;
}

Isa chosen_isa() {
  static const Isa isa = choose();
  return isa;
}

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::avx512:
      return "avx512";
    case Isa::avx512f:
      return "avx512f";
    case Isa::avx2:
      return "avx2";
    case Isa::scalar:
      break;
  }
  return "scalar";
}

const LinearKernels& linear_kernels(Isa isa) {
#ifdef CUTWORK_X86
  if (isa == Isa::avx512) return kLinearAvx512;
  if (isa == Isa::avx512f) return kLinearAvx512f;
  if (isa == Isa::avx2) return kLinearAvx2;
#endif
  (void)isa;
  return kLinearScalar;
}

}  // namespace cutwork

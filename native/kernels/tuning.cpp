#include "kernels/tuning.h"

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#endif

namespace cutwork {

#if defined(__x86_64__) || defined(__i386__)
namespace {

bool made_by(unsigned ebx, unsigned ecx, unsigned edx) {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(0, &a, &b, &c, &d) && b == ebx && c == ecx && d == edx;
}

}  // namespace

unsigned amd_family() {
  unsigned a, b, c, d;
  if (!made_by(signature_AMD_ebx, signature_AMD_ecx, signature_AMD_edx) || !__get_cpuid(1, &a, &b, &c, &d)) return 0;
  return (a >> 8 & 0xf) + (a >> 20 & 0xff);
}

bool is_intel() {
  return made_by(signature_INTEL_ebx, signature_INTEL_ecx, signature_INTEL_edx);
}
#else
unsigned amd_family() {
  return 0;
}

bool is_intel() {
  return false;
}
#endif

namespace {

// As measured on Zen 4 and Zen 5, and for all others as block lookups were on Zen 5.
Tuning tune() {
  const unsigned family = amd_family();
  if (family == kZen3And4) return {.follows_even_streams = true, .block_tokens = 5};
  return {.follows_even_streams = family == kZen5, .block_tokens = 4};
}

}  // namespace

const Tuning tuning = tune();

}  // namespace cutwork

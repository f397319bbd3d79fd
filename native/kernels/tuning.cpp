#include "kernels/tuning.h"

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#endif

namespace cutwork {

unsigned amd_family() {
#if defined(__x86_64__) || defined(__i386__)
  unsigned a, b, c, d;
  if (!__get_cpuid(0, &a, &b, &c, &d) || b != signature_AMD_ebx || c != signature_AMD_ecx || d != signature_AMD_edx)
    return 0;
  return __get_cpuid(1, &a, &b, &c, &d) ? (a >> 8 & 0xf) + (a >> 20 & 0xff) : 0;
#else
  return 0;
#endif
}

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

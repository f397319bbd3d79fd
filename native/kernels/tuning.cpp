#include "kernels/tuning.h"

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#endif

namespace cutwork {
namespace {

// Of these Zen 4 has AVX-512.
bool is_zen3_or_zen4() {
#if defined(__x86_64__) || defined(__i386__)
  unsigned a, b, c, d;
  if (!__get_cpuid(0, &a, &b, &c, &d) || b != signature_AMD_ebx || c != signature_AMD_ecx || d != signature_AMD_edx)
    return false;
  return __get_cpuid(1, &a, &b, &c, &d) && (a >> 8 & 0xf) + (a >> 20 & 0xff) == 0x19;
#else
  return false;
#endif
}

// As measured on Zen 4, and for all others on Zen 5.
Tuning tune() {
  if (is_zen3_or_zen4()) return {.follows_even_streams = true, .block_tokens_i8 = 5, .block_tokens_i4 = 12};
  return {.follows_even_streams = false, .block_tokens_i8 = 4, .block_tokens_i4 = 4};
}

}  // namespace

const Tuning tuning = tune();

}  // namespace cutwork

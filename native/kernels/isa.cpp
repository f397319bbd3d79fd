#include "kernels/isa.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

// Each set is an object in the file of its name in kernels/sets/; CMakeLists.txt writes their list.
namespace cutwork {
namespace sets {
#define CUTWORK_SET(name) extern const Isa name;
#include "kernels/sets.inc"
#undef CUTWORK_SET
}  // namespace sets

namespace {

constexpr const Isa* kSets[] = {
#define CUTWORK_SET(name) &sets::name,
#include "kernels/sets.inc"
#undef CUTWORK_SET
};

#if defined(__x86_64__) || defined(__i386__)
uint64_t enabled_registers() {
  uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<uint64_t>(high) << 32 | low;
}

// Where the processor says that it has a feature: in which register of which answer.
struct FeatureBit {
  Feature feature;
  unsigned leaf, subleaf;
  int answer;  // 0 to 3: eax to edx
  unsigned bit;
};

constexpr FeatureBit kFeatureBits[] = {
    {kFma, 1, 0, 2, bit_FMA},
    {kPopcnt, 1, 0, 2, bit_POPCNT},
    {kAvx, 1, 0, 2, bit_AVX},
    {kF16c, 1, 0, 2, bit_F16C},
    {kLzcnt, 0x80000001, 0, 2, bit_LZCNT},
    {kAvx2, 7, 0, 1, bit_AVX2},
    {kBmi, 7, 0, 1, bit_BMI},
    {kBmi2, 7, 0, 1, bit_BMI2},
    {kAvx512f, 7, 0, 1, bit_AVX512F},
    {kAvx512bw, 7, 0, 1, bit_AVX512BW},
    {kAvx512dq, 7, 0, 1, bit_AVX512DQ},
    {kAvx512vl, 7, 0, 1, bit_AVX512VL},
    {kAvx512vbmi, 7, 0, 2, bit_AVX512VBMI},
    {kAvx512vbmi2, 7, 0, 2, bit_AVX512VBMI2},
    {kAvx512vnni, 7, 0, 2, bit_AVX512VNNI},
    {kAvx512vpopcntdq, 7, 0, 2, bit_AVX512VPOPCNTDQ},
    {kAvx512bf16, 7, 1, 0, 1u << 5},
    {kAvxVnni, 7, 1, 0, 1u << 4},
    {kAmxInt8, 7, 0, 3, 1u << 25},
    {kAmxBf16, 7, 0, 3, 1u << 22},
};
constexpr Features kYmm =
    kFma | kAvx | kF16c | kAvx2 | kAvxVnni;  // of these the wider registers are of no use unless saved
constexpr Features kZmm = kAvx512f | kAvx512bw | kAvx512dq | kAvx512vl | kAvx512vbmi | kAvx512vbmi2 | kAvx512vnni |
                          kAvx512vpopcntdq | kAvx512bf16;

constexpr Features kTiles = kAmxInt8 | kAmxBf16;
[[maybe_unused]] constexpr int kTileData = 18;  // Linux's XFEATURE_XTILEDATA

// Whether the system saves the tile registers of a process that asks for it, as Linux does since 5.16.
bool tiles_can_be_saved(uint64_t saved) {
  constexpr uint64_t kTileState = 0x60000;
  if ((saved & kTileState) != kTileState) return false;
#ifdef __linux__
  constexpr int kGetSupported = 0x1021;  // ARCH_GET_XCOMP_SUPP
  uint64_t supported = 0;
  return syscall(SYS_arch_prctl, kGetSupported, &supported) == 0 && (supported >> kTileData & 1) != 0;
#else
  return false;
#endif
}

// Asks for it, and says whether they are saved now. Only for who uses them: from then on every signal's stack has to
// have room for them, and the system refuses smaller ones.
bool tiles_are_saved() {
#ifdef __linux__
  constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  static const bool granted = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return granted;
#else
  return false;
#endif
}

// What the processor has, and the system's consent to save the registers.
Features detect() {
  Features found = 0;
  for (const FeatureBit& each : kFeatureBits) {
    unsigned answers[4];
    if (__get_cpuid_count(each.leaf, each.subleaf, &answers[0], &answers[1], &answers[2], &answers[3]) &&
        (answers[each.answer] & each.bit) != 0)
      found |= each.feature;
  }
  unsigned a, b, c, d;
  const bool asks = __get_cpuid(1, &a, &b, &c, &d) && (c & bit_OSXSAVE) != 0;
  const uint64_t saved = asks ? enabled_registers() : 0;
  constexpr uint64_t kYmmState = 0x6, kZmmState = 0xe6;
  if ((saved & kYmmState) != kYmmState) found &= ~(kYmm | kZmm);
  if ((saved & kZmmState) != kZmmState) found &= ~kZmm;
  if ((found & kTiles) != 0 && !tiles_can_be_saved(saved)) found &= ~kTiles;
  return found;
}

bool system_lets_use(Features needs) {
  return (needs & kTiles) == 0 || tiles_are_saved();
}
#else
bool system_lets_use(Features) {
  return true;
}
#endif

#if defined(__aarch64__) && defined(__linux__)
Features detect() {
  // The kernel's HWCAP_ASIMDDP, HWCAP2_I8MM and HWCAP2_BF16.
  constexpr unsigned long kDotProducts = 1ul << 20, kByteMatrices = 1ul << 13, kBfloats = 1ul << 14;
  return ((getauxval(AT_HWCAP) & kDotProducts) != 0 ? Features{kNeonDot} : 0) |
         ((getauxval(AT_HWCAP2) & kByteMatrices) != 0 ? Features{kNeonI8mm} : 0) |
         ((getauxval(AT_HWCAP2) & kBfloats) != 0 ? Features{kNeonBf16} : 0);
}
#elif defined(__aarch64__) && defined(__APPLE__)
Features detect() {
  const auto has = [](const char* name) {
    int found = 0;
    size_t size = sizeof found;
    return sysctlbyname(name, &found, &size, nullptr, 0) == 0 && found != 0;
  };
  return (has("hw.optional.arm.FEAT_DotProd") ? Features{kNeonDot} : 0) |
         (has("hw.optional.arm.FEAT_I8MM") ? Features{kNeonI8mm} : 0) |
         (has("hw.optional.arm.FEAT_BF16") ? Features{kNeonBf16} : 0);
}
#elif !defined(__x86_64__) && !defined(__i386__)
Features detect() {
  return 0;
}
#endif

bool processor_has(Features needs) {
  static const Features found = detect();  // where the machine is virtual, each question is 25 microseconds
  return (found & needs) == needs;
}

[[noreturn]] void refuse(const std::string& why, const char* name) {
  std::string names;
  for (const Isa* isa : available_isas()) names += (names.empty() ? "" : ", ") + std::string(isa->name);
  throw std::invalid_argument(why + name + "' (in CUTWORK_ISA or isa=); choose one of " + names);
}

const Isa& choose() {
  const char* forced = std::getenv("CUTWORK_ISA");
  if (forced != nullptr && *forced != '\0') return find_available_isa(forced);
  for (const Isa* isa : available_isas())
    if (system_lets_use(isa->needs)) return *isa;
  throw std::invalid_argument("this processor lacks what cutwork was compiled for");
}

}  // namespace

const std::vector<const Isa*>& available_isas() {
  static const std::vector<const Isa*> available = [] {
    std::vector<const Isa*> found;
    for (const Isa* isa : kSets)
      if (isa_supported(*isa)) found.push_back(isa);
    return found;
  }();
  return available;
}

bool isa_supported(const Isa& isa) {
  return processor_has(isa.needs);
}

const Isa& find_isa(const char* name) {
  for (const Isa* isa : kSets)
    if (std::string(name) == isa->name) return *isa;
  refuse("this build knows no instruction set '", name);
}

const Isa& find_available_isa(const char* name) {
  const Isa& isa = find_isa(name);
  if (!isa_supported(isa)) refuse("this processor does not support the instruction set '", name);
  if (!system_lets_use(isa.needs))
    refuse("the operating system does not let this process use the instruction set '", name);
  return isa;
}

const Isa& chosen_isa() {
  static const Isa& isa = choose();
  return isa;
}

const BfloatAttention* bfloat_attention(const Isa& isa) {
  const BfloatAttention* kernels = isa.bfloat_attention;
  return kernels != nullptr && processor_has(kernels->needs) && system_lets_use(kernels->needs) ? kernels : nullptr;
}

}  // namespace cutwork

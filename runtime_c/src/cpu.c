/* cpu.c: which instruction sets this machine and its operating system offer. */
#define _GNU_SOURCE
#include <stdatomic.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "runtime.h"

#if defined(__aarch64__)
#include <sys/auxv.h>
#endif
#if defined(__x86_64__)
#include <cpuid.h>

typedef struct leaf {
  uint32_t eax, ebx, ecx, edx;
} leaf;

static leaf cpuid(uint32_t number, uint32_t sub) {
  leaf r;
  __cpuid_count(number, sub, r.eax, r.ebx, r.ecx, r.edx);
  return r;
}

/* Which register files the system saves on a context switch: without that a feature is unusable. */
static uint64_t saved_state(uint32_t leaf1_ecx) {
  if (!(leaf1_ecx & (1u << 27))) return 0; /* OSXSAVE */
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t)high << 32 | low;
}

static bool all(uint64_t word, uint64_t bits) { return (word & bits) == bits; }

static uint64_t detect(void) {
  leaf none = {0, 0, 0, 0}, one = cpuid(1, 0); /* few: under a hypervisor each takes microseconds */
  uint64_t saved = saved_state(one.ecx), features = 0; /* what saves it is told of in leaf 13: then there is a leaf 7 */
  leaf seven = saved ? cpuid(7, 0) : none, seven1 = seven.eax >= 1 ? cpuid(7, 1) : none;
  bool ymm = all(saved, 0x6), zmm = all(saved, 0xe6), tiles = all(saved, 0x60000);
  if (all(one.ecx, 1u << 0 | 1u << 9 | 1u << 19 | 1u << 20 | 1u << 23)) /* SSE3 SSSE3 4.1 4.2 POPCNT */
    features |= LPT_CPU_SSE42;
  if (ymm && all(one.ecx, 1u << 28 | 1u << 12) && all(seven.ebx, 1u << 5 | 1u << 3 | 1u << 8))
    features |= LPT_CPU_AVX2_FMA; /* AVX FMA; AVX2 BMI1 BMI2 */
  if (ymm && all(one.ecx, 1u << 29)) features |= LPT_CPU_F16C;
  if (zmm && all(seven.ebx, 1u << 16 | 1u << 17 | 1u << 28 | 1u << 30 | 1u << 31))
    features |= LPT_CPU_AVX512;
  if (zmm && all(seven.ecx, 1u << 11)) features |= LPT_CPU_AVX512_VNNI;
  if (zmm && all(seven1.eax, 1u << 5)) features |= LPT_CPU_AVX512_BF16;
  if (ymm && all(seven1.eax, 1u << 4)) features |= LPT_CPU_AVX_VNNI;
  if (zmm && tiles && all(seven.edx, 1u << 22 | 1u << 24 | 1u << 25)) features |= LPT_CPU_AMX;
  return features;
}

bool lpt_cpu_enable(uint64_t features) {
  enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
  if (!(features & LPT_CPU_AMX)) return true;
  return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0; /* for the whole process */
}
#else
static uint64_t detect(void) {
#if defined(__aarch64__)
  enum { DOT_PRODUCTS = 1 << 20 }; /* HWCAP_ASIMDDP */
  uint64_t dots = getauxval(AT_HWCAP) & DOT_PRODUCTS ? LPT_CPU_NEON_DOTPROD : 0;
  return LPT_CPU_NEON /* part of the base architecture */ | dots;
#else
  return 0;
#endif
}

bool lpt_cpu_enable(uint64_t features) {
  (void)features;
  return true;
}
#endif

uint64_t lpt_cpu_features(void) {
  static _Atomic uint64_t known; /* racing threads compute and store the same value */
  const uint64_t valid = (uint64_t)1 << 63;
  uint64_t value = atomic_load_explicit(&known, memory_order_relaxed);
  if (!value) {
    value = detect() | valid;
    atomic_store_explicit(&known, value, memory_order_relaxed);
  }
  return value & ~valid;
}

void lpt_cpu_feature_names(uint64_t features, char *out, size_t size) {
  static const struct { uint64_t bit; const char *name; } names[] = {
    {LPT_CPU_SSE42, "SSE4.2"}, {LPT_CPU_AVX2_FMA, "AVX2+FMA"}, {LPT_CPU_F16C, "F16C"},
    {LPT_CPU_AVX_VNNI, "AVX-VNNI"}, {LPT_CPU_AVX512, "AVX-512 (F BW CD DQ VL)"},
    {LPT_CPU_AVX512_VNNI, "AVX-512 VNNI"}, {LPT_CPU_AVX512_BF16, "AVX-512 BF16"},
    {LPT_CPU_AMX, "AMX (TILE BF16 INT8)"}, {LPT_CPU_NEON, "NEON"},
    {LPT_CPU_NEON_DOTPROD, "NEON dot products"},
  };
  size_t used = 0;
  out[0] = '\0';
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    if (!(features & names[i].bit)) continue;
    features &= ~names[i].bit;
    int n = snprintf(out + used, size - used, "%s%s", used ? ", " : "", names[i].name);
    used = (size_t)n < size - used ? used + (size_t)n : size - 1;
  }
  if (features) /* newer than this runtime */
    snprintf(out + used, size - used, "%sfeatures 0x%llx", used ? ", " : "", (unsigned long long)features);
}

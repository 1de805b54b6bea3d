/* cores_test.c: quotas as containers set them, read from folders that look like /sys/fs/cgroup. */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "runtime.h"

static char root[] = "/tmp/lpt-cgroup-XXXXXX";

static void put(const char *path, const char *text) {
  char full[512];
  snprintf(full, sizeof full, "%s/%s", root, path);
  for (char *slash = full + sizeof root; (slash = strchr(slash, '/')); slash++) {
    *slash = '\0';
    mkdir(full, 0700);
    *slash = '/';
  }
  FILE *file = fopen(full, "w");
  CHECK(file && fputs(text, file) >= 0 && !fclose(file));
}

static void version_two(void) {
  put("cpu.max", "max 100000\n");
  CHECK(lpt_cgroup_cores(root, "0::/\n") == 0);
  put("a/cpu.max", "250000 100000\n");
  CHECK(lpt_cgroup_cores(root, "0::/a\n") == 3); /* rounded up */
  put("a/b/cpu.max", "max 100000\n");
  CHECK(lpt_cgroup_cores(root, "0::/a/b\n") == 3); /* the parent's holds */
  put("a/b/cpu.max", "50000 100000\n");
  CHECK(lpt_cgroup_cores(root, "0::/a/b\n") == 1);
  CHECK(lpt_cgroup_cores(root, "0::/not/visible/here\n") == 0);
}

static void version_one(void) {
  put("cpu/x/cpu.cfs_quota_us", "-1\n");
  put("cpu/x/cpu.cfs_period_us", "100000\n");
  CHECK(lpt_cgroup_cores(root, "4:memory:/x\n3:cpu,cpuacct:/x\n") == 0);
  put("cpu/x/cpu.cfs_quota_us", "400000\n");
  CHECK(lpt_cgroup_cores(root, "4:memory:/x\n3:cpu,cpuacct:/x\n") == 4);
  CHECK(lpt_cgroup_cores(root, "4:memory:/x\n3:cpuacct,cpu:/x\n") == 4);
  CHECK(lpt_cgroup_cores(root, "4:memory:/x\n3:cpuset:/x\n") == 0);
}

static void nonsense(void) {
  CHECK(lpt_cgroup_cores(root, "") == 0);
  CHECK(lpt_cgroup_cores(root, "no colons\n\n::\n") == 0);
  put("z/cpu.max", "garbage");
  CHECK(lpt_cgroup_cores(root, "0::/z") == 0);
  put("z/cpu.max", "999999999999 1\n");
  CHECK(lpt_cgroup_cores(root, "0::/z") == LPT_MAX_THREADS);
}

static void this_machine(void) {
  CHECK(lpt_cores() >= 1 && lpt_cores() <= LPT_MAX_THREADS);
#if defined(__x86_64__)
  __builtin_cpu_init();
  uint64_t features = lpt_cpu_features();
  CHECK(!(features & LPT_CPU_AVX2_FMA) == !(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")));
  CHECK(!(features & LPT_CPU_AVX512) == !(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                                          __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq")));
  CHECK(!(features & LPT_CPU_AVX512_VNNI) == !__builtin_cpu_supports("avx512vnni"));
  CHECK(lpt_cpu_enable(features & ~(uint64_t)LPT_CPU_AMX));
  if (!(features & LPT_CPU_AMX)) CHECK(!lpt_cpu_enable(features | LPT_CPU_AMX)); /* the system hands out no tiles */
#elif defined(__aarch64__)
  CHECK((lpt_cpu_features() & ~(uint64_t)LPT_CPU_NEON_DOTPROD) == LPT_CPU_NEON);
#endif
}

/* Tiles do not fit a signal stack as old programs make them: the system hands out none then, or refuses the stack. */
static void small_signal_stacks(void) {
  enum { SMALL = 8192, ROOM = 65536 }; /* bytes; the first is what SIGSTKSZ was, and tiles alone */
  if (!(lpt_cpu_features() & LPT_CPU_AMX)) return;
  stack_t stack = {.ss_size = SMALL}, before;
  stack.ss_sp = malloc(ROOM);
  CHECK(stack.ss_sp && !sigaltstack(&stack, &before));
  CHECK(!lpt_cpu_enable(LPT_CPU_AMX));
  stack.ss_size = ROOM;
  CHECK(!sigaltstack(&stack, NULL));
  CHECK(lpt_cpu_enable(LPT_CPU_AMX) && lpt_cpu_enable(LPT_CPU_AMX));
  stack.ss_size = SMALL;
  CHECK(sigaltstack(&stack, NULL));
  CHECK(!sigaltstack(&before, NULL));
  free(stack.ss_sp);
}

static void feature_names(void) {
  char text[256], tiny[8];
  lpt_cpu_feature_names(LPT_CPU_AVX512 | LPT_CPU_AMX | (uint64_t)1 << 40, text, sizeof text);
  CHECK_TEXT(text, "AVX-512 (F BW CD DQ VL), AMX (TILE BF16 INT8), features 0x10000000000");
  lpt_cpu_feature_names(~(uint64_t)0, tiny, sizeof tiny);
  CHECK(strlen(tiny) < sizeof tiny);
}

int main(void) {
  CHECK(mkdtemp(root));
  RUN(version_two);
  RUN(version_one);
  RUN(nonsense);
  RUN(this_machine);
  RUN(small_signal_stacks);
  RUN(feature_names);
  char command[64];
  snprintf(command, sizeof command, "rm -rf %s", root);
  CHECK(system(command) == 0);
  return failures != 0;
}

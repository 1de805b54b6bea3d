/* kernels.c: the kernels of programs.h as the fake driver calls them: a launch's arguments are 64-bit words. */
#include "programs.h"

typedef struct fake_kernel { /* as fakecuda.cpp has it */
  const char *name;
  int threads, n_pointers, n_words;
  void (*run)(long long grid, int threads, size_t shared, const uint64_t *words);
} fake_kernel;

/* X(kernel, operands, sizes) */
#define KERNELS(X)                                                                                            \
  X(twice_by_scratch, 2, 0) X(add, 3, 1) X(twice, 2, 0) X(start, 3, 0) X(positive, 2, 0) X(body, 2, 0)        \
  X(count_positive, 2, 1) X(pick_positive, 2, 1) X(draw, 3, 0)

#define RUN(name, n_operands, n_dims)                                                                         \
  static void run_##name(long long grid, int threads, size_t shared, const uint64_t *words) {                 \
    (void)grid, (void)threads, (void)shared;                                                                  \
    const int64_t *sizes = (const int64_t *)words + (n_operands) + 2;                                         \
    name((void *const *)words, sizes, (void *)(uintptr_t)words[n_operands], 0, sizes[n_dims]);                \
  }
KERNELS(RUN)

#define ROW(name, n_operands, n_dims) {#name, 128, (n_operands) + 1, (n_operands) + (n_dims) + 3, run_##name},
__attribute__((visibility("default"))) extern const fake_kernel fake_kernels[];
const fake_kernel fake_kernels[] = {KERNELS(ROW){NULL, 0, 0, 0, NULL}};

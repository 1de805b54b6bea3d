/* CUDA programs where there is no GPU: damaged tables are refused, sound ones say what is missing. Everything else of
 * them runs in tests/cuda, on a fake driver. */
#define _GNU_SOURCE
#include <stdlib.h>

#include "check.h"
#include "programs.h"

static const lpt_cuda_image images[] = {{"\177ELF", 4, 90, LPT_CUBIN_EXACT}};
static lpt_cuda_kernel kernels[] = {{"twice", 128, 128, 0, 0, 2, 0, 0, 0}, {"add", 256, 1, 2048, 0, 3, 1, 1, 0}};
static lpt_step steps[] = {{NULL, "twice", LPT_CALL, 0, 2, 0, 2, 4, 1, 0}, {NULL, "add", LPT_CALL, 2, 3, 1, 2, 4, 1, 1}};

static lpt_program made(void) {
  lpt_program program = STATIC_PROGRAM(static_weights);
  program.kind = LPT_CUDA, program.steps = steps;
  program.images = images, program.kernels = kernels;
  program.n_images = 1, program.n_kernels = 2;
  return program;
}

static void damaged_tables_are_refused(void) {
  lepton_session *session = NULL;
  lpt_program program = made();
#define REFUSED(change, text)                                              \
  do {                                                                     \
    lpt_cuda_kernel kept_kernel = kernels[1];                              \
    lpt_step kept_step = steps[1];                                         \
    change;                                                                \
    CHECK(lpt_create(&program, NULL, NULL, &session) == LEPTON_INTERNAL);  \
    CHECK_TEXT(lpt_message(NULL), text);                                   \
    program = made(), kernels[1] = kept_kernel, steps[1] = kept_step;      \
  } while (0)
  REFUSED(program.kind = 2, "program 0: unknown kind");
  REFUSED(steps[1].target = 2, "step 1: lacks its kernel");
  REFUSED(kernels[1].n_operands = 2, "step 1: does not fit its kernel");
  REFUSED(kernels[1].n_dims = 5, "step 1: sizes out of range");
  REFUSED(kernels[1].threads = 100, "kernel 1: bad geometry");
  REFUSED(kernels[1].threads = 2048, "kernel 1: bad geometry");
  REFUSED(kernels[1].tasks_per_block = 0, "kernel 1: bad geometry");
  REFUSED(kernels[1].name = NULL, "kernel 1: bad geometry");
}

static void without_a_driver_the_reason_is_told(void) {
  lepton_session *session = NULL;
  lpt_program program = made();
  CHECK(!setenv("LEPTON_LIBCUDA", "/nowhere/libcuda.so.1", 1));
  for (int i = 0; i < 2; i++) { /* the second time as well as the first */
    CHECK(lpt_create(&program, NULL, NULL, &session) == LEPTON_UNSUPPORTED);
    CHECK_TEXT(lpt_message(NULL), "compiled for test and needs an NVIDIA GPU: there is no CUDA driver (/nowhere/libcuda");
    CHECK(!session);
  }
}

int main(void) {
  RUN(damaged_tables_are_refused);
  RUN(without_a_driver_the_reason_is_told);
  return failures != 0;
}

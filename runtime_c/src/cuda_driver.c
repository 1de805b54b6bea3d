/* cuda_driver.c: NVIDIA's driver, found when it is first needed. A compiled model links to nothing of it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda.h"

static lpt_cuda_driver driver;
static pthread_once_t once = PTHREAD_ONCE_INIT;

enum { ATTRIBUTE_MULTIPROCESSORS = 16, ATTRIBUTE_MAJOR = 75, ATTRIBUTE_MINOR = 76 };

static void words_of(cu_result result, const char **name, const char **words) {
  *name = *words = NULL;
  if (driver.error_name) driver.error_name(result, name);
  if (driver.error_words) driver.error_words(result, words);
  if (!*name) *name = "an unknown error";
  if (!*words) *words = "the driver has no words for it";
}

/* False, and why, unless `result` is success. */
static bool good(cu_result result, const char *what) {
  const char *name, *words;
  if (!result) return true;
  words_of(result, &name, &words);
  snprintf(driver.why, sizeof driver.why, "cannot %s: %s: %s", what, name, words);
  return false;
}

static bool find_functions(void *library) {
  const struct { const char *symbol; void *field; } rows[] = {
#define LPT_ROW(field, symbol, parameters) {symbol, &driver.field},
    LPT_CUDA_FUNCTIONS(LPT_ROW)
#undef LPT_ROW
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    void *found = dlsym(library, rows[i].symbol);
    if (!found) {
      snprintf(driver.why, sizeof driver.why, "the CUDA driver has no %s: it is older than CUDA 12", rows[i].symbol);
      return false;
    }
    memcpy(rows[i].field, &found, sizeof found); /* ISO C has no cast from void * to a function pointer */
  }
  return true;
}

static bool find_device(void) {
  int count = 0, device = 0, major = 0, minor = 0;
  if (!good(driver.init(0), "start the CUDA driver") || !good(driver.device_count(&count), "count GPUs")) return false;
  if (!count) {
    snprintf(driver.why, sizeof driver.why, "the CUDA driver shows no GPU to this process");
    return false;
  }
  if (!good(driver.device_get(&device, 0), "find the GPU") ||
      !good(driver.device_name(driver.name, sizeof driver.name, device), "name the GPU") ||
      !good(driver.device_attribute(&major, ATTRIBUTE_MAJOR, device), "ask the GPU") ||
      !good(driver.device_attribute(&minor, ATTRIBUTE_MINOR, device), "ask the GPU") ||
      !good(driver.device_attribute(&driver.multiprocessors, ATTRIBUTE_MULTIPROCESSORS, device), "ask the GPU"))
    return false;
  driver.capability = 10 * major + minor;
  return good(driver.context_retain(&driver.context, device), "use the GPU");
}

static void start(void) {
  const char *path = getenv("LEPTON_LIBCUDA");
  void *library = dlopen(path && *path ? path : "libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char *why = dlerror();
    snprintf(driver.why, sizeof driver.why, "there is no CUDA driver (%s)", why ? why : "unknown reason");
    return;
  }
  driver.ready = find_functions(library) && find_device();
}

const lpt_cuda_driver *lpt_cuda(void) {
  pthread_once(&once, start);
  return &driver;
}

lepton_status lpt_cuda_check(lepton_session *session, cu_result result, const char *what) {
  const char *name, *words;
  if (!result) return LEPTON_OK;
  words_of(result, &name, &words);
  lepton_status status = result == CU_OUT_OF_MEMORY ? LEPTON_OUT_OF_MEMORY : LEPTON_DEVICE_ERROR;
  return lpt_fail(session, status, "the GPU (%s) cannot %s: %s: %s", driver.name, what, name, words);
}

/* Cubins before PTX, the nearest first; 0: it does not run here. */
static uint32_t rank_of(const lpt_cuda_image *image, uint32_t capability) {
  switch (image->kind) {
    case LPT_CUBIN_EXACT:
      return image->arch == capability ? 4096 : 0;
    case LPT_CUBIN:
      return image->arch / 10 == capability / 10 && image->arch <= capability ? 2048 + image->arch : 0;
    default:
      return image->arch <= capability ? image->arch : 0;
  }
}

static const lpt_cuda_image *best_image(const lpt_program *program, uint32_t *out_rank) {
  const lpt_cuda_image *best = NULL;
  *out_rank = 0;
  for (uint32_t i = 0; i < program->n_images; i++) {
    uint32_t rank = rank_of(&program->images[i], (uint32_t)lpt_cuda()->capability);
    if (rank > *out_rank) *out_rank = rank, best = &program->images[i];
  }
  return best;
}

const lpt_cuda_image *lpt_cuda_image_for(const lpt_program *program) {
  uint32_t rank;
  return best_image(program, &rank);
}

uint32_t lpt_cuda_rank(const lpt_program *program) {
  uint32_t rank;
  if (program->kind != LPT_CUDA || !lpt_cuda()->ready) return 0;
  if (!program->n_kernels) return 1; /* nothing to launch: any device will do */
  best_image(program, &rank);
  return rank;
}

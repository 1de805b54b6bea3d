/* cuda_model.c: code and constants on the device, once for all sessions of a program. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda.h"

enum { DEVICE_ALIGNMENT = 256, JIT_ERROR_LOG = 5, JIT_ERROR_LOG_SIZE = 6, SHARED_WITHOUT_ASKING = 48 * 1024 };

static lpt_cuda_model *models;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static lepton_status no_image(const lpt_program *program) {
  const lpt_cuda_driver *d = lpt_cuda();
  char archs[128] = "";
  for (uint32_t i = 0, used = 0; i < program->n_images && used + 16 < sizeof archs; i++)
    used += (uint32_t)snprintf(archs + used, sizeof archs - used, "%s%u.%u%s", i ? ", " : "",
                               program->images[i].arch / 10, program->images[i].arch % 10,
                               program->images[i].kind == LPT_PTX ? " and later"
                               : program->images[i].kind == LPT_CUBIN_EXACT ? " alone" : "");
  return lpt_fail(NULL, LEPTON_UNSUPPORTED, "the model was compiled for %s (compute capability %s); this GPU, %s, has %d.%d",
                  program->target, archs, d->name, d->capability / 10, d->capability % 10);
}

static lepton_status load_code(lpt_cuda_model *m) {
  const lpt_cuda_driver *d = lpt_cuda();
  const lpt_program *p = m->program;
  if (!p->n_kernels) return LEPTON_OK;
  const lpt_cuda_image *image = lpt_cuda_image_for(p);
  if (!image) return no_image(p);
  char log[256] = "";
  int options[] = {JIT_ERROR_LOG, JIT_ERROR_LOG_SIZE};
  void *values[] = {log, (void *)(uintptr_t)sizeof log};
  cu_result result = d->module_load(&m->module, image->data, 2, options, values);
  lepton_status status = lpt_cuda_check(NULL, result, "load the model's code");
  if (status && log[0]) {
    char words[LPT_MESSAGE_SIZE];
    snprintf(words, sizeof words, "%s", lpt_message(NULL));
    lpt_fail(NULL, status, "%s: %.200s", words, log);
  }
  for (uint32_t i = 0; i < p->n_kernels && !status; i++) {
    char what[128];
    snprintf(what, sizeof what, "find kernel %.100s", p->kernels[i].name);
    status = lpt_cuda_check(NULL, d->module_function(&m->functions[i], m->module, p->kernels[i].name), what);
    if (!status && p->kernels[i].shared_bytes > SHARED_WITHOUT_ASKING)
      status = lpt_cuda_check(NULL, d->function_set(m->functions[i], CU_MAX_DYNAMIC_SHARED, (int)p->kernels[i].shared_bytes),
                              "grant a kernel its shared memory");
  }
  return status;
}

/* From the first constant to the last one: other programs of the artifact have theirs elsewhere. */
static lepton_status load_constants(lpt_cuda_model *m) {
  const lpt_cuda_driver *d = lpt_cuda();
  const lpt_program *p = m->program;
  m->first = UINT64_MAX;
  for (uint32_t i = 0; i < p->n_buffers; i++) {
    const lpt_buffer *b = &p->buffers[i];
    if (b->storage != LPT_CONSTANT) continue;
    uint64_t end = b->offset + (uint64_t)p->env[b->size_slot];
    if (b->offset < m->first) m->first = b->offset / DEVICE_ALIGNMENT * DEVICE_ALIGNMENT;
    if (end > m->end) m->end = end;
  }
  if (m->end <= m->first) return LEPTON_OK;
  size_t size = m->end - m->first;
  cu_result result = d->allocate(&m->constants, size);
  if (!result) result = d->copy_in(m->constants, m->weights + m->first, size, NULL);
  if (!result) result = d->stream_wait(NULL);
  char what[96];
  snprintf(what, sizeof what, "take the model's %zu bytes of constants", size);
  return lpt_cuda_check(NULL, result, what);
}

static void unload(lpt_cuda_model *m) {
  const lpt_cuda_driver *d = lpt_cuda();
  cu_handle left;
  bool entered = !d->context_push(d->context);
  if (m->constants) d->release(m->constants);
  if (m->module) d->module_unload(m->module);
  if (entered) d->context_pop(&left);
  free(m->functions);
  free(m);
}

static lepton_status load(const lpt_program *program, const uint8_t *weights, lpt_cuda_model **out_model) {
  const lpt_cuda_driver *d = lpt_cuda();
  lpt_cuda_model *m = calloc(1, sizeof *m);
  if (m) m->functions = calloc(program->n_kernels + 1, sizeof *m->functions);
  if (!m || !m->functions) {
    free(m);
    return lpt_fail(NULL, LEPTON_OUT_OF_MEMORY, "no memory for the model");
  }
  m->program = program, m->weights = weights;
  cu_handle left;
  lepton_status status = lpt_cuda_check(NULL, d->context_push(d->context), "be used");
  if (!status) {
    status = load_code(m);
    if (!status) status = load_constants(m);
    d->context_pop(&left);
  }
  if (status) unload(m);
  else *out_model = m;
  return status;
}

lepton_status lpt_cuda_acquire(const lpt_program *program, const uint8_t *weights, lpt_cuda_model **out_model) {
  const lpt_cuda_driver *d = lpt_cuda();
  if (!d->ready)
    return lpt_fail(NULL, LEPTON_UNSUPPORTED, "the model was compiled for %s and needs an NVIDIA GPU: %s",
                    program->target, d->why);
  pthread_mutex_lock(&lock);
  lpt_cuda_model *m = models;
  while (m && (m->program != program || m->weights != weights)) m = m->next;
  lepton_status status = LEPTON_OK;
  if (!m && !(status = load(program, weights, &m))) m->next = models, models = m;
  if (!status) m->users++, *out_model = m;
  pthread_mutex_unlock(&lock);
  return status;
}

void lpt_cuda_drop(lpt_cuda_model *model) {
  if (!model) return;
  pthread_mutex_lock(&lock);
  if (--model->users == 0) {
    lpt_cuda_model **at = &models;
    while (*at != model) at = &(*at)->next;
    *at = model->next;
    unload(model);
  }
  pthread_mutex_unlock(&lock);
}

/* cuda.c: a session on a GPU: memory, what goes in and out, launches. All else is as on a CPU: steps.c interprets,
 * shape.c plans; `bases` hold device addresses. Work is queued on one stream; who needs a number from the device, or
 * is done, waits for it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda.h"

enum { BLOCKS_PER_PROCESSOR = 32, BLOCKS_WITH_SCRATCH = 4, MOST_SCRATCH = 256 << 20 };

/* ---- memory --------------------------------------------------------------------------------------- */

static void *allocate_device(void *context, size_t size, size_t alignment) {
  struct lpt_cuda_session *c = context;
  const lpt_cuda_driver *d = lpt_cuda();
  cu_pointer pointer = 0;
  (void)alignment; /* the driver's is larger */
  c->failed = d->allocate(&pointer, size);
  return c->failed ? NULL : (void *)(uintptr_t)pointer;
}

/* What is still queued may use the block. */
static void release_device(void *context, void *block) {
  struct lpt_cuda_session *c = context;
  lpt_cuda()->stream_wait(c->stream);
  lpt_cuda()->release((cu_pointer)(uintptr_t)block);
}

static bool copy_device(void *context, void *to, const void *from, size_t size) {
  struct lpt_cuda_session *c = context;
  c->failed = lpt_cuda()->copy_inside((cu_pointer)(uintptr_t)to, (cu_pointer)(uintptr_t)from, size, c->stream);
  return !c->failed;
}

lepton_status lpt_cuda_no_memory(lepton_session *session, const char *what, size_t bytes) {
  const lpt_cuda_driver *d = lpt_cuda();
  const char *words = NULL;
  size_t left = 0, total = 0;
  char task[160];
  snprintf(task, sizeof task, "give %zu bytes for %.120s", bytes, what);
  if (session->cuda->failed != CU_OUT_OF_MEMORY) return lpt_cuda_check(session, session->cuda->failed, task);
  d->error_words(CU_OUT_OF_MEMORY, &words);
  d->memory_info(&left, &total);
  return lpt_fail(session, LEPTON_OUT_OF_MEMORY, "no memory for %s (%zu bytes) on the GPU (%s): %s; %zu of its %zu bytes are free",
                  what, bytes, d->name, words ? words : "?", left, total);
}

lepton_status lpt_cuda_enter(lepton_session *session) {
  if (!session->cuda) return LEPTON_OK;
  return lpt_cuda_check(session, lpt_cuda()->context_push(lpt_cuda()->context), "be used");
}

void lpt_cuda_leave(const lepton_session *session) {
  cu_handle left;
  if (!session || session->cuda) lpt_cuda()->context_pop(&left);
}

/* ---- the session ------------------------------------------------------------------------------------ */

/* Whether its launches follow from its sizes. */
static bool only_launches(const lpt_program *program) {
  for (uint32_t i = 0; i < program->n_steps; i++)
    switch (program->steps[i].kind) {
      case LPT_CALL:
      case LPT_CHECK:
      case LPT_JUMP:
        continue;
      case LPT_ROUND:
        if (!program->steps[i].n_operands) continue;
        return false;
      default:
        return false;
    }
  return true;
}

/* LEPTON_CUDA_EARLY=0: each kernel begins when the one in front of it has ended. */
static bool may_begin_early(void) {
  const char *text = getenv("LEPTON_CUDA_EARLY");
  return !text || strcmp(text, "0");
}

static uint32_t most_words(const lpt_program *program) {
  uint32_t most = 1;
  for (uint32_t i = 0; i < program->n_kernels; i++) {
    uint32_t n = program->kernels[i].n_operands + program->kernels[i].n_dims + 3;
    most = n > most ? n : most;
  }
  return most;
}

static bool allocate_arrays(lepton_session *s) {
  const lpt_program *p = s->program;
  struct lpt_cuda_session *c = s->cuda;
  uint32_t words = most_words(p);
  bool good = (c->inputs = lpt_allocate_zeroed(&s->allocator, p->n_inputs, sizeof *c->inputs)) != NULL;
  good = good && (c->outputs = lpt_allocate_zeroed(&s->allocator, p->n_outputs, sizeof *c->outputs));
  c->n_staged = lpt_most_call_tensors(p);
  good = good && (c->staged = lpt_allocate_zeroed(&s->allocator, c->n_staged, sizeof *c->staged));
  good = good && (c->words = lpt_allocate_zeroed(&s->allocator, words, sizeof *c->words));
  good = good && (c->parameters = lpt_allocate_zeroed(&s->allocator, words, sizeof *c->parameters));
  for (uint32_t i = 0; good && i < words; i++) c->parameters[i] = &c->words[i];
  return good;
}

static lepton_status make_streams(struct lpt_cuda_session *c) {
  const lpt_cuda_driver *d = lpt_cuda();
  cu_result result = d->stream_create(&c->stream, 0);
  /* Of its own: while a blocking stream is recorded, nobody in the process may use the default stream. */
  if (!result) result = d->stream_create(&c->capture, CU_STREAM_NON_BLOCKING);
  for (int i = 0; i < 2 && !result; i++) result = d->event_create(&c->events[i], 0);
  c->now = c->stream;
  return lpt_cuda_check(NULL, result, "make a stream");
}

lepton_status lpt_cuda_start(lepton_session *session) {
  if (session->program->kind != LPT_CUDA) return LEPTON_OK;
  lpt_cuda_model *model;
  lepton_status status = lpt_cuda_acquire(session->program, session->weights, &model);
  if (status) return status;
  session->cuda = lpt_allocate_zeroed(&session->allocator, 1, sizeof *session->cuda);
  if (!session->cuda) {
    lpt_cuda_drop(model);
    return lpt_fail(NULL, LEPTON_OUT_OF_MEMORY, "no memory for the session");
  }
  session->cuda->model = model;
  session->cuda->straight = only_launches(session->program);
  session->cuda->early = may_begin_early();
  session->memory = (lpt_allocator){allocate_device, release_device, session->cuda, copy_device};
  if (!allocate_arrays(session)) return lpt_fail(NULL, LEPTON_OUT_OF_MEMORY, "no memory for the session");
  status = lpt_cuda_graphs_start(session);
  if (!status) status = lpt_cuda_enter(session);
  if (status) return status;
  status = make_streams(session->cuda);
  lpt_cuda_leave(session);
  return status;
}

void lpt_cuda_end(lepton_session *session) {
  struct lpt_cuda_session *c = session->cuda;
  if (!c) return;
  const lpt_cuda_driver *d = lpt_cuda();
  lpt_cuda_graphs_end(session);
  for (uint32_t i = 0; c->inputs && i < session->program->n_inputs; i++) lpt_release(&session->memory, c->inputs[i].data);
  for (uint32_t i = 0; c->outputs && i < session->program->n_outputs; i++)
    lpt_release(&session->memory, c->outputs[i].data);
  lpt_release(&session->memory, c->state.data);
  for (uint32_t i = 0; c->staged && i < c->n_staged; i++) lpt_release(&session->allocator, c->staged[i].data);
  for (int i = 0; i < 2; i++)
    if (c->events[i]) d->event_destroy(c->events[i]);
  if (c->capture) d->stream_destroy(c->capture);
  if (c->stream) d->stream_destroy(c->stream);
  lpt_cuda_drop(c->model);
  void *const owned[] = {c->inputs, c->outputs, c->staged, c->words, c->parameters, c};
  for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) lpt_release(&session->allocator, owned[i]);
}

void *lpt_cuda_constant(const lepton_session *session, uint64_t offset) {
  const lpt_cuda_model *m = session->cuda->model;
  return (void *)(uintptr_t)(m->constants + (offset - m->first));
}

lepton_status lpt_cuda_seed(lepton_session *session) {
  struct lpt_cuda_session *c = session->cuda;
  size_t size = session->n_state * sizeof *session->state;
  if (!size) return LEPTON_OK;
  if (!lpt_block_reserve(&session->memory, &c->state, size))
    return lpt_cuda_no_memory(session, "random draws", size);
  cu_result result = lpt_cuda()->copy_in((cu_pointer)(uintptr_t)c->state.data, session->state, size, c->stream);
  if (!result) result = lpt_cuda()->stream_wait(c->stream);
  for (uint32_t i = 0; i < session->program->n_buffers; i++)
    if (session->program->buffers[i].storage == LPT_STATE)
      session->bases[i] = (uint64_t *)c->state.data + session->program->buffers[i].index;
  return lpt_cuda_check(session, result, "take the seed");
}

/* ---- in and out ------------------------------------------------------------------------------------- */

static lepton_status no_room(lepton_session *session, const lepton_port *port, size_t bytes) {
  char what[112];
  snprintf(what, sizeof what, "'%.100s'", port->name);
  return lpt_cuda_no_memory(session, what, bytes);
}

/* The session writes its results where they lay the last time. */
static lepton_status check_lent(lepton_session *session, uint32_t index, const void *data) {
  for (uint32_t i = 0; i < session->program->n_outputs; i++) {
    const lpt_block *block = &session->cuda->outputs[i];
    uintptr_t start = (uintptr_t)block->data, at = (uintptr_t)data;
    if (start && at >= start && at < start + block->capacity)
      return lpt_fail(session, LEPTON_INVALID_ARGUMENT, "input '%s' lies in memory of this session's own, lent for '%s'",
                      session->program->inputs[index].name, session->program->outputs[i].name);
  }
  return LEPTON_OK;
}

lepton_status lpt_cuda_take(lepton_session *session, uint32_t index, const lepton_tensor *tensor, void **out_base) {
  struct lpt_cuda_session *c = session->cuda;
  bool strings = tensor->dtype == LEPTON_STRING;
  const void *from = strings ? session->numbers[index].data : tensor->data;
  int64_t bytes = lpt_tensor_bytes(strings ? LEPTON_I64 : tensor->dtype, tensor->rank, tensor->shape);
  if (tensor->device == LEPTON_CUDA) {
    *out_base = tensor->data;
    return check_lent(session, index, tensor->data);
  }
  if (!lpt_block_reserve(&session->memory, &c->inputs[index], (size_t)bytes))
    return no_room(session, &session->program->inputs[index], (size_t)bytes);
  *out_base = c->inputs[index].data;
  if (!bytes) return LEPTON_OK;
  return lpt_cuda_check(session, lpt_cuda()->copy_in((cu_pointer)(uintptr_t)*out_base, from, (size_t)bytes, c->stream),
                        "copy an input to its memory");
}

lepton_status lpt_cuda_place(lepton_session *session, uint32_t index, void **out_base) {
  lpt_block *block = &session->cuda->outputs[index];
  const lpt_buffer *buffer = &session->program->buffers[session->output_buffers[index]];
  int64_t bytes = session->env[buffer->size_slot];
  if (bytes < 0 || bytes > LPT_MAX_BYTES) bytes = 0; /* known at a bind to come, and asked for again there */
  if (!lpt_block_reserve(&session->memory, block, (size_t)bytes))
    return no_room(session, &session->program->outputs[index], (size_t)bytes);
  *out_base = block->data;
  return LEPTON_OK;
}

bool lpt_cuda_owns(const lepton_session *session, uint32_t index, const void *data) {
  return session->cuda && data && data == session->cuda->outputs[index].data;
}

/* The outputs that the caller wants in host memory. */
static lepton_status give(lepton_session *session, const lepton_tensor *outputs) {
  struct lpt_cuda_session *c = session->cuda;
  const lpt_program *program = session->program;
  cu_result result = 0;
  for (uint32_t i = 0; i < program->n_outputs && !result; i++) {
    bool strings = outputs[i].dtype == LEPTON_STRING;
    if (outputs[i].device == LEPTON_CUDA) continue;
    int64_t bytes = lpt_tensor_bytes(strings ? LEPTON_I64 : outputs[i].dtype, outputs[i].rank, outputs[i].shape);
    void *to = strings ? session->numbers[program->n_inputs + i].data : outputs[i].data;
    cu_pointer from = (cu_pointer)(uintptr_t)session->bases[session->output_buffers[i]];
    if (bytes > 0) result = lpt_cuda()->copy_out(to, from, (size_t)bytes, c->stream);
  }
  return lpt_cuda_check(session, result, "copy an output from its memory");
}

lepton_status lpt_cuda_run(lepton_session *session, lepton_tensor *outputs) {
  struct lpt_cuda_session *c = session->cuda;
  bool replay = c->straight && c->n_graphs && !session->profiling;
  lepton_status status = replay ? lpt_cuda_replay(session, outputs) : lpt_run_steps(session, outputs);
  return status ? status : give(session, outputs);
}

lepton_status lpt_cuda_finish(lepton_session *session, lepton_status status) {
  cu_result result = lpt_cuda()->stream_wait(session->cuda->stream); /* also after a failure: copies may be on their way */
  return status ? status : lpt_cuda_check(session, result, "finish the run");
}

/* ---- steps ------------------------------------------------------------------------------------------ */

lepton_status lpt_cuda_read(lepton_session *session, const void *from, void *to, size_t size) {
  struct lpt_cuda_session *c = session->cuda;
  cu_result result = lpt_cuda()->copy_out(to, (cu_pointer)(uintptr_t)from, size, c->stream);
  if (!result) result = lpt_cuda()->stream_wait(c->stream);
  return lpt_cuda_check(session, result, "go on");
}

static const lpt_cuda_kernel *kernel_of(const lepton_session *session, const lpt_step *step) {
  return &session->program->kernels[step->target];
}

static int64_t stride_of(const lepton_session *session, const lpt_step *step) {
  return (session->env[step->scratch_slot] + 255) / 256 * 256;
}

static int64_t blocks_of(const lepton_session *session, const lpt_step *step) {
  const lpt_cuda_kernel *k = kernel_of(session, step);
  int64_t tasks = session->env[step->tasks_slot];
  int64_t blocks = tasks / k->tasks_per_block + (tasks % k->tasks_per_block != 0);
  int64_t most = k->max_blocks ? k->max_blocks
                 : (int64_t)lpt_cuda()->multiprocessors * (k->scratch ? BLOCKS_WITH_SCRATCH : BLOCKS_PER_PROCESSOR);
  if (k->scratch && stride_of(session, step) > 0) {
    int64_t fit = MOST_SCRATCH / stride_of(session, step);
    if (fit < most) most = fit > 1 ? fit : 1;
  }
  return blocks < most ? blocks : most;
}

int64_t lpt_cuda_scratch(const lepton_session *session, const lpt_step *step) {
  return step->kind == LPT_CALL && kernel_of(session, step)->scratch
         ? blocks_of(session, step) * stride_of(session, step) : 0;
}

lepton_status lpt_cuda_launch(lepton_session *session, const lpt_step *step) {
  struct lpt_cuda_session *c = session->cuda;
  const lpt_cuda_kernel *k = kernel_of(session, step);
  int64_t tasks = session->env[step->tasks_slot];
  uint32_t n = 0;
  if (tasks == 0) return LEPTON_OK;
  for (uint32_t i = 0; i < k->n_operands; i++)
    c->words[n++] = (uint64_t)(uintptr_t)lpt_operand_at(session, step->first_operand + i);
  c->words[n++] = k->scratch ? (uint64_t)(uintptr_t)session->scratch.data : 0;
  c->words[n++] = k->scratch ? (uint64_t)stride_of(session, step) : 0;
  for (uint32_t i = 0; i < k->n_dims; i++) c->words[n++] = (uint64_t)session->env[step->dims_slot + i];
  c->words[n] = (uint64_t)tasks;
  const cu_attribute early = {CU_LAUNCH_EARLY, 0, {1}};
  const cu_launch launch = {{(uint32_t)blocks_of(session, step), 1, 1}, {k->threads, 1, 1}, k->shared_bytes, c->now,
                            &early, k->early && c->early};
  cu_result result = lpt_cuda()->launch(&launch, c->model->functions[step->target], c->parameters, NULL);
  c->launches++;
  if (!result) return LEPTON_OK;
  char what[160];
  snprintf(what, sizeof what, "start kernel %.80s of step '%.48s'", k->name, step->name ? step->name : "?");
  return lpt_cuda_check(session, result, what);
}

lepton_status lpt_cuda_time(lepton_session *session, const lpt_step *step, uint64_t *out_nanoseconds) {
  const lpt_cuda_driver *d = lpt_cuda();
  struct lpt_cuda_session *c = session->cuda;
  float milliseconds = 0;
  cu_result result = d->event_record(c->events[0], c->stream);
  lepton_status status = lpt_cuda_launch(session, step);
  if (status) return status;
  if (!result) result = d->event_record(c->events[1], c->stream);
  if (!result) result = d->event_wait(c->events[1]);
  if (!result) result = d->event_elapsed(&milliseconds, c->events[0], c->events[1]);
  *out_nanoseconds = (uint64_t)(milliseconds * 1e6);
  return lpt_cuda_check(session, result, "time a kernel");
}

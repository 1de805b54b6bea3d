/* session.c: create, resolve, run, message, destroy. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "runtime.h"

static _Thread_local char create_message[LPT_MESSAGE_SIZE];

lepton_status lpt_fail(lepton_session *session, lepton_status status, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(session ? session->message : create_message, LPT_MESSAGE_SIZE, format, arguments);
  va_end(arguments);
  return status;
}

const char *lpt_message(const lepton_session *session) {
  return session ? session->message : create_message;
}

/* ---- create ------------------------------------------------------------------------------------- */

static lepton_status check_options(const lepton_options *options) {
  if (!options) return LEPTON_OK;
  size_t least = offsetof(lepton_options, functions); /* what came later is optional */
  if (options->struct_size < least)
    return lpt_fail(NULL, LEPTON_INVALID_ARGUMENT, "options: struct_size is %u, expected at least %zu",
                    (unsigned)options->struct_size, least);
  if (!options->allocate != !options->release)
    return lpt_fail(NULL, LEPTON_INVALID_ARGUMENT, "options: allocate and release must be given together");
  return LEPTON_OK;
}

static lepton_status check_machine(const lpt_program *program) {
  uint64_t missing = program->cpu_features & ~lpt_cpu_features();
  if (!missing && lpt_cpu_enable(program->cpu_features)) return LEPTON_OK;
  char names[256];
  lpt_cpu_feature_names(missing ? missing : LPT_CPU_AMX, names, sizeof names);
  return lpt_fail(NULL, LEPTON_UNSUPPORTED, "the model was compiled for %s; this machine %s %s",
                  program->target, missing ? "lacks" : "does not let this process use", names);
}

static uint32_t threads_for(const lpt_program *program, const lepton_options *options) {
  if (program->kind == LPT_CUDA) return 1;
  uint32_t threads = options ? options->threads : 0;
  if (!threads) threads = program->default_threads;
  if (!threads) threads = lpt_cores();
  return threads > LPT_MAX_THREADS ? LPT_MAX_THREADS : threads;
}

static uint32_t count_binds(const lpt_program *program) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < program->n_steps; i++) n += lpt_binds(program, &program->steps[i]);
  return n;
}

static uint32_t count_state(const lpt_program *program) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < program->n_buffers; i++)
    if (program->buffers[i].storage == LPT_STATE && program->buffers[i].index >= n)
      n = program->buffers[i].index + 1;
  return n;
}

/* All arrays a session ever needs, so that run allocates nothing. False: no memory. */
static bool allocate_arrays(lepton_session *s) {
  const lpt_program *p = s->program;
  const lpt_allocator *a = &s->allocator;
  bool good = (s->env = lpt_allocate_zeroed(a, p->n_env, sizeof *s->env)) != NULL;
  good = good && (s->shapes = lpt_allocate_zeroed(a, p->n_inputs, sizeof *s->shapes));
  good = good && (s->bases = lpt_allocate_zeroed(a, p->n_buffers, sizeof *s->bases));
  good = good && (s->operands = lpt_allocate_zeroed(a, p->max_operands, sizeof *s->operands));
  good = good && (s->output_buffers = lpt_allocate_zeroed(a, p->n_outputs, sizeof *s->output_buffers));
  good = good && (s->outputs = lpt_allocate_zeroed(a, p->n_outputs, sizeof *s->outputs));
  good = good && (s->arenas = lpt_allocate_zeroed(a, s->n_arenas, sizeof *s->arenas));
  good = good && (s->state = lpt_allocate_zeroed(a, s->n_state, sizeof *s->state));
  size_t ports = (size_t)p->n_inputs + p->n_outputs;
  good = good && (s->numbers = lpt_allocate_zeroed(a, ports, sizeof *s->numbers));
  good = good && (s->linked = lpt_allocate_zeroed(a, p->n_calls, sizeof *s->linked));
  good = good && (s->tensors = lpt_allocate_zeroed(a, lpt_most_call_tensors(p), sizeof *s->tensors));
  good = good && (s->growing = lpt_allocate_zeroed(a, p->n_buffers, sizeof *s->growing));
  if (!s->dynamic) return good;
  good = good && (s->plan.buffers = lpt_allocate_zeroed(a, p->n_buffers, sizeof *s->plan.buffers));
  good = good && (s->plan.first = lpt_allocate_zeroed(a, p->n_buffers, sizeof *s->plan.first));
  good = good && (s->plan.last = lpt_allocate_zeroed(a, p->n_buffers, sizeof *s->plan.last));
  good = good && (s->plan.order = lpt_allocate_zeroed(a, p->n_buffers, 2 * sizeof *s->plan.order));
  good = good && (s->plan.sizes = lpt_allocate_zeroed(a, p->n_buffers, sizeof *s->plan.sizes));
  good = good && (s->plan.planned = lpt_allocate_zeroed(a, p->n_buffers, sizeof *s->plan.planned));
  return good && (s->plan.offsets = lpt_allocate_zeroed(a, p->n_buffers, sizeof *s->plan.offsets));
}

/* The places that never move: weights, and which buffer each output is. */
static lepton_status bind_buffers(lepton_session *session) {
  const lpt_program *program = session->program;
  memset(session->output_buffers, 0xff, program->n_outputs * sizeof *session->output_buffers);
  for (uint32_t i = 0; i < program->n_buffers; i++) {
    const lpt_buffer *buffer = &program->buffers[i];
    if (buffer->storage == LPT_CONSTANT)
      session->bases[i] = session->cuda ? lpt_cuda_constant(session, buffer->offset)
                                        : (void *)((uintptr_t)session->weights + buffer->offset);
    if (buffer->storage == LPT_STATE) {
      session->bases[i] = &session->state[buffer->index];
      session->state[buffer->index] = buffer->offset;
    }
    if (buffer->storage == LPT_OUTPUT) session->output_buffers[buffer->index] = i;
  }
  for (uint32_t i = 0; i < program->n_outputs; i++)
    if (session->output_buffers[i] == UINT32_MAX)
      return lpt_fail(NULL, LEPTON_INTERNAL, "the compiled model is damaged: output '%s' has no buffer",
                      program->outputs[i].name);
  return session->cuda ? lpt_cuda_seed(session) : LEPTON_OK;
}

/* A static model's memory is made at once: its input shapes are known. */
static lepton_status prepare_static(lepton_session *session) {
  const lpt_program *program = session->program;
  if (session->dynamic) return lpt_reserve_most(session);
  lepton_tensor *inputs = lpt_allocate_zeroed(&session->allocator, program->n_inputs, sizeof *inputs);
  if (!inputs) return lpt_fail(NULL, LEPTON_OUT_OF_MEMORY, "no memory for the session");
  for (uint32_t i = 0; i < program->n_inputs; i++) {
    inputs[i].dtype = program->inputs[i].dtype;
    inputs[i].rank = program->inputs[i].rank;
    memcpy(inputs[i].shape, program->inputs[i].shape, sizeof inputs[i].shape);
  }
  lepton_status status = lpt_prepare(session, inputs);
  lpt_release(&session->allocator, inputs);
  return status;
}

static lepton_status check_program(const lpt_program *program, const uint8_t *weights) {
  lepton_status status = lpt_verify(program);
  if (!status) status = check_machine(program);
  if (status) return status;
  if (!weights && program->weights_size)
    return lpt_fail(NULL, LEPTON_INVALID_ARGUMENT, "the program needs weights and was given none");
  if ((uintptr_t)weights % LPT_ALIGNMENT)
    return lpt_fail(NULL, LEPTON_INVALID_ARGUMENT, "the weights must be aligned to %d bytes", LPT_ALIGNMENT);
  return LEPTON_OK;
}

lepton_status lpt_create(const lpt_program *program, const uint8_t *weights,
                         const lepton_options *options, lepton_session **out_session) {
  create_message[0] = '\0';
  if (!out_session) return lpt_fail(NULL, LEPTON_INVALID_ARGUMENT, "out_session is NULL");
  if (!weights) weights = program->weights;
  lepton_status status = check_options(options);
  if (!status) status = check_program(program, weights);
  if (status) return status;
  lpt_allocator allocator = lpt_allocator_of(options);
  lepton_session *session = lpt_allocate_zeroed(&allocator, 1, sizeof *session);
  if (!session) return lpt_fail(NULL, LEPTON_OUT_OF_MEMORY, "no memory for the session");
  session->program = program;
  session->weights = weights;
  session->allocator = session->memory = allocator;
  session->threads = threads_for(program, options);
  session->n_arenas = count_binds(program) + 1;
  session->n_state = count_state(program);
  session->dynamic = lpt_is_dynamic(program);
  lpt_pool_acquire(session->threads);
  status = LEPTON_OUT_OF_MEMORY;
  if (!allocate_arrays(session)) {
    lpt_fail(NULL, status, "no memory for the session");
    goto error;
  }
  status = lpt_cuda_start(session);
  if (!status) status = lpt_cuda_enter(session);
  if (status) goto error;
  status = bind_buffers(session);
  if (!status) status = lpt_link_calls(session, options);
  if (!status) status = lpt_strings_start(session);
  if (!status) status = prepare_static(session);
  lpt_cuda_leave(session);
  if (!status) status = lpt_start_variants(session, options);
  if (status) goto error;
  if (!session->cuda && weights == program->weights) lpt_map_ahead(weights, program->weights_size);
  *out_session = session;
  return LEPTON_OK;
error:
  if (session->message[0]) lpt_fail(NULL, status, "%s", session->message);
  lpt_destroy(session);
  return status;
}

void lpt_destroy(lepton_session *session) {
  if (!session) return;
  lpt_allocator allocator = session->allocator, memory = session->memory;
  bool device = session->cuda && !lpt_cuda_enter(session);
  for (uint32_t i = 0; session->outputs && i < session->program->n_outputs; i++)
    lpt_release(&allocator, session->outputs[i].data);
  for (uint32_t i = 0; session->arenas && i < session->n_arenas; i++)
    lpt_release(&memory, session->arenas[i].data);
  for (uint32_t i = 0; session->numbers && i < session->program->n_inputs + session->program->n_outputs; i++)
    lpt_release(&allocator, session->numbers[i].data);
  lpt_strings_end(&allocator, &session->strings);
  lpt_end_variants(session);
  for (uint32_t i = 0; session->growing && i < session->program->n_buffers; i++)
    lpt_release(&memory, session->growing[i].data);
  lpt_release(&memory, session->scratch.data);
  lpt_cuda_end(session);
  if (device) lpt_cuda_leave(NULL);
  void *const owned[] = {
    session->env, session->shapes, session->bases, session->operands, session->output_buffers,
    session->outputs, session->state, session->arenas, session->plan.buffers, session->plan.first,
    session->plan.last, session->plan.order, session->plan.sizes, session->plan.offsets, session->plan.planned,
    session->growing, session->profile,
    session->numbers, session->linked, session->tensors,
  };
  for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) lpt_release(&allocator, owned[i]);
  lpt_pool_release();
  lpt_release(&allocator, session);
}

lepton_status lpt_seed(lepton_session *session, uint64_t seed) {
  if (!session) return LEPTON_INVALID_ARGUMENT;
  session->message[0] = '\0';
  for (uint32_t i = 0; i < session->n_state; i++) session->state[i] = i ? 0 : seed;
  for (uint32_t i = 0; i < session->program->n_variants; i++) lpt_seed(session->variants[i], seed);
  if (!session->cuda) return LEPTON_OK;
  lepton_status status = lpt_cuda_enter(session);
  if (status) return status;
  status = lpt_cuda_seed(session);
  lpt_cuda_leave(session);
  return status;
}

/* ---- resolve and run ---------------------------------------------------------------------------- */

static bool prepared_for(const lepton_session *session, const lepton_tensor *inputs) {
  if (!session->ready) return false;
  for (uint32_t i = 0; i < session->program->n_inputs; i++)
    if (memcmp(session->shapes[i], inputs[i].shape, (size_t)inputs[i].rank * sizeof(int64_t))) return false;
  return true;
}

lepton_status lpt_resolve(lepton_session *session, const lepton_tensor *inputs,
                          lepton_tensor *out_outputs) {
  if (!session) return LEPTON_INVALID_ARGUMENT;
  session->message[0] = '\0';
  if (!out_outputs && session->program->n_outputs)
    return lpt_fail(session, LEPTON_INVALID_ARGUMENT, "out_outputs is NULL");
  lepton_session *variant = lpt_variant_for(session, inputs);
  if (variant) return lpt_say(session, variant, lpt_resolve(variant, inputs, out_outputs));
  lepton_status status = lpt_check_inputs(session, inputs, false);
  if (!status) status = lpt_cuda_enter(session);
  if (status) return status;
  if (!prepared_for(session, inputs)) status = lpt_prepare(session, inputs);
  lpt_cuda_leave(session);
  if (status) return status;
  for (uint32_t i = 0; i < session->program->n_outputs; i++)
    lpt_describe_output(session, i, false, &out_outputs[i]);
  return LEPTON_OK;
}

lepton_status lpt_bind_outputs(lepton_session *session, const lepton_tensor *outputs) {
  const lpt_program *program = session->program;
  for (uint32_t i = 0; i < program->n_buffers; i++) {
    uint32_t index = program->buffers[i].index;
    if (program->buffers[i].storage != LPT_OUTPUT) continue;
    bool strings = program->outputs[index].dtype == LEPTON_STRING;
    void *base = strings ? lpt_string_numbers(session, index, &outputs[index]) : outputs[index].data;
    if (strings && !base) return LEPTON_OUT_OF_MEMORY;
    if (session->cuda && outputs[index].device == LEPTON_HOST) {
      lepton_status status = lpt_cuda_place(session, index, &base);
      if (status) return status;
    }
    session->bases[i] = base;
  }
  return LEPTON_OK;
}

static lepton_status bind_arguments(lepton_session *session, const lepton_tensor *inputs,
                                    lepton_tensor *outputs) {
  const lpt_program *program = session->program;
  for (uint32_t i = 0; i < program->n_outputs; i++) {
    if (!lpt_wants_own(session, i, &outputs[i])) continue;
    lepton_status status = lpt_own_output(session, i, &outputs[i]);
    if (status) return status;
  }
  lpt_strings_reset(session);
  lepton_status status = lpt_take_strings(session, inputs);
  for (uint32_t i = 0; i < program->n_buffers && !status; i++) {
    uint32_t index = program->buffers[i].index;
    if (program->buffers[i].storage != LPT_INPUT) continue;
    bool strings = program->inputs[index].dtype == LEPTON_STRING;
    if (session->cuda) status = lpt_cuda_take(session, index, &inputs[index], &session->bases[i]);
    else session->bases[i] = strings ? session->numbers[index].data : inputs[index].data;
  }
  return status ? status : lpt_bind_outputs(session, outputs);
}

static lepton_status run_prepared(lepton_session *session, const lepton_tensor *inputs, lepton_tensor *outputs) {
  if (session->threads > 1) lpt_pool_check();
  lepton_status status = bind_arguments(session, inputs, outputs);
  if (!status) status = session->cuda ? lpt_cuda_run(session, outputs) : lpt_run_steps(session, outputs);
  if (session->cuda) status = lpt_cuda_finish(session, status);
  for (uint32_t i = 0; status && i < session->program->n_outputs; i++) /* take back what a failed run lent */
    if (lpt_wants_own(session, i, &outputs[i])) outputs[i].data = NULL;
  return status;
}

lepton_status lpt_run(lepton_session *session, const lepton_tensor *inputs, lepton_tensor *outputs) {
  if (!session) return LEPTON_INVALID_ARGUMENT;
  session->message[0] = '\0';
  lepton_session *variant = lpt_variant_for(session, inputs);
  lpt_take_back(session, variant ? variant : session, outputs);
  if (variant) return lpt_say(session, variant, lpt_run(variant, inputs, outputs));
  lepton_status status = lpt_check_inputs(session, inputs, true);
  if (!status) status = lpt_cuda_enter(session);
  if (status) return status;
  if (!prepared_for(session, inputs)) status = lpt_prepare(session, inputs);
  if (!status) status = lpt_check_outputs(session, inputs, outputs);
  if (!status) status = run_prepared(session, inputs, outputs);
  lpt_cuda_leave(session);
  if (status) return status;
  lpt_give_strings(session, outputs);
  return status;
}

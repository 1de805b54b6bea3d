/* shape.c: sizes for the inputs at hand, and memory of those sizes. */
#include <string.h>

#include "runtime.h"

static void compute_env(lepton_session *session) {
  if (session->program->shape) session->program->shape(session->env);
}

static lepton_status check_limits(lepton_session *session, const lpt_symbol *symbol, int64_t size) {
  if (!symbol->high || (size >= symbol->low && size <= symbol->high)) return LEPTON_OK;
  return lpt_fail(session, LEPTON_INVALID_ARGUMENT, "input '%s': axis %u is %lld; the model was compiled for %lld to %lld",
                  session->program->inputs[symbol->input].name, (unsigned)symbol->axis, (long long)size,
                  (long long)symbol->low, (long long)symbol->high);
}

static lepton_status bind_symbols(lepton_session *session, const lepton_tensor *inputs) {
  const lpt_program *program = session->program;
  memcpy(session->env, program->env, program->n_env * sizeof *session->env); /* late sizes are unknown again */
  for (uint32_t i = 0; i < program->n_symbols; i++) {
    const lpt_symbol *symbol = &program->symbols[i];
    int64_t size = session->env[symbol->env_slot] = inputs[symbol->input].shape[symbol->axis];
    lepton_status status = check_limits(session, symbol, size);
    if (status) return status;
  }
  compute_env(session);
  return LEPTON_OK;
}

/* What is checked when the input shapes are known; the others wait for an LPT_CHECK step. */
static lepton_status check_guard(lepton_session *session, const lpt_guard *guard) {
  int64_t left = session->env[guard->left & ~LPT_SLOT_LATE], right = session->env[guard->right];
  if (left == right) return LEPTON_OK;
  return lpt_fail(session, LEPTON_INVALID_ARGUMENT, "%s (%lld against %lld)", guard->message, (long long)left,
                  (long long)right);
}

static lepton_status check_guards(lepton_session *session) {
  const lpt_program *program = session->program;
  lepton_status status = LEPTON_OK;
  for (uint32_t i = 0; i < program->n_guards && !status; i++)
    if (!(program->guards[i].left & LPT_SLOT_LATE)) status = check_guard(session, &program->guards[i]);
  return status;
}

static bool is_size(int64_t value) { return value >= 0 && value <= LPT_MAX_BYTES; }

/* Nothing negative, nothing absurd. Memory that grows is checked where it does. */
static lepton_status check_buffer(lepton_session *session, const lpt_buffer *buffer) {
  int64_t size = session->env[buffer->size_slot];
  bool output = buffer->storage == LPT_OUTPUT;
  if (is_size(size) || (!output && buffer->storage != LPT_WORKSPACE)) return LEPTON_OK;
  return lpt_fail(session, LEPTON_INVALID_ARGUMENT, "these input shapes give %s a size of %lld bytes",
                  output ? "an output" : "an intermediate tensor", (long long)size);
}

static lepton_status check_operands(lepton_session *session, const lpt_step *step) {
  const lpt_program *program = session->program;
  lepton_status status = LEPTON_OK;
  for (uint32_t i = 0; i < step->n_operands && !status; i++)
    status = check_buffer(session, &program->buffers[program->operands[step->first_operand + i].buffer]);
  return status;
}

static lepton_status check_call(lepton_session *session, const lpt_step *step) {
  int64_t tasks = session->env[step->tasks_slot], scratch = session->env[step->scratch_slot];
  if (tasks < 0 || !is_size(scratch))
    return lpt_fail(session, LEPTON_INVALID_ARGUMENT,
                    "these input shapes give step '%s' %lld tasks with %lld bytes of scratch",
                    step->name ? step->name : "?", (long long)tasks, (long long)scratch);
  return check_operands(session, step);
}

static lepton_status no_memory(lepton_session *session, const char *what, int64_t bytes) {
  if (session->cuda) return lpt_cuda_no_memory(session, what, (size_t)bytes);
  return lpt_fail(session, LEPTON_OUT_OF_MEMORY, "no memory for %s (%lld bytes)", what, (long long)bytes);
}

/* One piece per thread; a cache line apart, so that neighbours do not share one. */
static lepton_status reserve_scratch(lepton_session *session, int64_t most) {
  if (session->cuda)
    return !most || lpt_block_reserve(&session->memory, &session->scratch, (size_t)most)
           ? LEPTON_OK : no_memory(session, "scratch", most);
  size_t stride = most ? ((size_t)most + 2 * LPT_ALIGNMENT - 1) / LPT_ALIGNMENT * LPT_ALIGNMENT : 0;
  if (stride <= session->scratch_stride) return LEPTON_OK;
  session->scratch_stride = 0;
  size_t total = stride * session->threads;
  if (!lpt_block_reserve(&session->allocator, &session->scratch, total))
    return no_memory(session, "scratch", (int64_t)total);
  session->scratch_stride = stride;
  return LEPTON_OK;
}

/* The steps from `from` to `until` that are certain to run before another one that binds sizes: their sizes, and
 * scratch for them. What an LPT_CHECK stands before it looks at itself, when it is come to; sizes that never change
 * are checked once. */
static lepton_status check_steps(lepton_session *session, uint32_t from, uint32_t until) {
  const lpt_program *program = session->program;
  int64_t most = 0;
  lepton_status status = LEPTON_OK;
  for (uint32_t i = from; i < until && !lpt_binds(program, &program->steps[i]) && !status;) {
    const lpt_step *step = &program->steps[i];
    i = step->kind == LPT_CHECK && session->dynamic ? step->target : i + 1;
    if (step->kind != LPT_CALL && step->kind != LPT_HOST_CALL) continue;
    status = check_call(session, step);
    int64_t scratch = session->cuda ? lpt_cuda_scratch(session, step) : session->env[step->scratch_slot];
    if (!status && scratch > most) most = scratch;
  }
  return status ? status : reserve_scratch(session, most);
}

lepton_status lpt_check_part(lepton_session *session, uint32_t index) {
  const lpt_step *step = &session->program->steps[index];
  lepton_status status = LEPTON_OK;
  if (!session->dynamic) return LEPTON_OK;
  for (uint32_t i = 0; i < step->n_operands && !status; i++)
    status = check_guard(session, &session->program->guards[step->first_operand + i]);
  return status ? status : check_steps(session, index + 1, step->target);
}

/* How many steps before this one bind sizes. */
static uint32_t binds_before(const lpt_program *program, uint32_t step) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < step; i++) n += lpt_binds(program, &program->steps[i]);
  return n;
}

static bool starts_from(const lpt_buffer *buffer, uint32_t step) {
  return buffer->storage == LPT_WORKSPACE && buffer->first_step >= step;
}

/* Whether a buffer that starts at step `from` or later has another size than it was placed with. */
static bool sizes_changed(const lepton_session *session, uint32_t from) {
  const lpt_program *program = session->program;
  for (uint32_t i = 0; i < program->n_buffers; i++) {
    const lpt_buffer *buffer = &program->buffers[i];
    if (starts_from(buffer, from) && session->env[buffer->size_slot] != session->plan.planned[i]) return true;
  }
  return false;
}

/* Plan the workspace buffers that start at step `from` or later into one arena. */
static lepton_status plan_workspace(lepton_session *session, uint32_t from, lpt_block *arena) {
  const lpt_program *program = session->program;
  bool late = arena != &session->arenas[0];
  if (late && !sizes_changed(session, from)) return LEPTON_OK;
  uint32_t n = 0;
  for (uint32_t i = 0; i < program->n_buffers; i++) {
    const lpt_buffer *buffer = &program->buffers[i];
    if (!starts_from(buffer, from)) continue;
    session->plan.buffers[n] = i;
    int64_t size = session->plan.planned[i] = session->env[buffer->size_slot];
    session->plan.sizes[n] = is_size(size) ? size : 0; /* not known yet, or never used: see check_steps */
    session->plan.first[n] = buffer->first_step;
    session->plan.last[n++] = buffer->last_step;
  }
  int64_t total = lpt_plan(n, session->plan.sizes, session->plan.first, session->plan.last,
                           session->plan.order, session->plan.offsets);
  if (total < 0)
    return lpt_fail(session, LEPTON_INVALID_ARGUMENT, "these input shapes need more memory than there can be");
  int64_t room = !late || (size_t)total <= arena->capacity ? total : total + total / 2; /* a round may need more */
  if (!lpt_block_reserve(&session->memory, arena, (size_t)room))
    return no_memory(session, "intermediate tensors", total);
  for (uint32_t i = 0; i < n; i++)
    session->bases[session->plan.buffers[i]] = (uint8_t *)arena->data + session->plan.offsets[i];
  return LEPTON_OK;
}

/* The compiler's plan. */
static lepton_status place_workspace(lepton_session *session) {
  const lpt_program *program = session->program;
  if (!lpt_block_reserve(&session->memory, &session->arenas[0], program->workspace_size))
    return no_memory(session, "intermediate tensors", (int64_t)program->workspace_size);
  for (uint32_t i = 0; i < program->n_buffers; i++)
    if (program->buffers[i].storage == LPT_WORKSPACE)
      session->bases[i] = (uint8_t *)session->arenas[0].data + program->buffers[i].offset;
  return LEPTON_OK;
}

/* Outputs whose sizes follow from the input shapes. */
static lepton_status check_outputs(lepton_session *session) {
  const lpt_program *program = session->program;
  lepton_status status = LEPTON_OK;
  for (uint32_t i = 0; i < program->n_outputs && !status; i++)
    if (!lpt_output_is_late(program, i))
      status = check_buffer(session, &program->buffers[session->output_buffers[i]]);
  return status;
}

lepton_status lpt_prepare(lepton_session *session, const lepton_tensor *inputs) {
  session->ready = false; /* until all of this has succeeded */
  lepton_status status = bind_symbols(session, inputs);
  if (!status) status = lpt_check_sizes(session, inputs);
  if (!status) status = check_guards(session);
  if (!status) status = check_outputs(session);
  if (!status) status = check_steps(session, 0, session->program->n_steps);
  if (!status)
    status = session->dynamic ? plan_workspace(session, 0, &session->arenas[0]) : place_workspace(session);
  if (status) return status;
  for (uint32_t i = 0; i < session->program->n_inputs; i++)
    memcpy(session->shapes[i], inputs[i].shape, sizeof session->shapes[i]);
  session->ready = true;
  return LEPTON_OK;
}

lepton_status lpt_reserve_most(lepton_session *session) {
  const lpt_program *program = session->program;
  if (!program->n_symbols) return LEPTON_OK;
  memcpy(session->env, program->env, program->n_env * sizeof *session->env);
  for (uint32_t i = 0; i < program->n_symbols; i++) {
    if (!program->symbols[i].high) return LEPTON_OK;
    session->env[program->symbols[i].env_slot] = program->symbols[i].high;
  }
  compute_env(session);
  lepton_status status = check_steps(session, 0, program->n_steps);
  if (!status) status = plan_workspace(session, 0, &session->arenas[0]);
  return status;
}

lepton_status lpt_reserve_growing(lepton_session *session, uint32_t buffer, int64_t bytes) {
  if (!is_size(bytes))
    return lpt_fail(session, LEPTON_INVALID_ARGUMENT, "the data give a tensor a size of %lld bytes", (long long)bytes);
  lpt_block *block = &session->growing[buffer];
  if (!lpt_block_grow(&session->memory, block, (size_t)bytes))
    return no_memory(session, "a tensor that grows", bytes);
  session->bases[buffer] = block->data;
  return LEPTON_OK;
}

lepton_status lpt_own_output(lepton_session *session, uint32_t index, lepton_tensor *output) {
  uint32_t buffer = session->output_buffers[index];
  int64_t size = session->env[session->program->buffers[buffer].size_slot];
  int16_t device = output->device;
  lpt_describe_output(session, index, true, output);
  output->device = device;
  if (device == LEPTON_CUDA) {
    return lpt_cuda_place(session, index, &output->data);
  }
  if (output->dtype == LEPTON_STRING) size = lpt_tensor_bytes(output->dtype, output->rank, output->shape);
  if (!is_size(size)) size = 0; /* late: known at a bind to come, and asked for again there */
  if (!lpt_block_reserve(&session->allocator, &session->outputs[index], (size_t)size))
    return lpt_fail(session, LEPTON_OUT_OF_MEMORY, "no memory for '%s' (%lld bytes)",
                    session->program->outputs[index].name, (long long)size);
  output->data = session->outputs[index].data;
  return LEPTON_OK;
}

lepton_status lpt_prepare_late(lepton_session *session, uint32_t step, lepton_tensor *outputs) {
  const lpt_program *program = session->program;
  session->ready = false; /* the next run starts from the input shapes alone */
  compute_env(session);
  lepton_status status = check_operands(session, &program->steps[step]);
  if (!status) status = check_steps(session, step + 1, program->n_steps);
  if (!status) status = plan_workspace(session, step, &session->arenas[binds_before(program, step) + 1]);
  for (uint32_t i = 0; i < program->n_outputs && !status; i++) {
    if (lpt_output_is_late(program, i)) status = lpt_own_output(session, i, &outputs[i]);
  }
  return status ? status : lpt_bind_outputs(session, outputs);
}

void lpt_describe_output(const lepton_session *session, uint32_t index, bool late,
                         lepton_tensor *output) {
  const lepton_port *port = &session->program->outputs[index];
  const lpt_port_slots *slots = &session->program->output_slots[index];
  *output = (lepton_tensor){.dtype = port->dtype, .rank = port->rank};
  for (int32_t i = 0; i < port->rank; i++) {
    bool unknown = (slots->slot[i] & LPT_SLOT_LATE) && !late;
    output->shape[i] = unknown ? -1 : session->env[slots->slot[i] & ~LPT_SLOT_LATE];
  }
}

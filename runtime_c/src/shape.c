/* shape.c: sizes for the inputs at hand, and memory of those sizes. */
#include <string.h>

#include "runtime.h"

static void compute_env(lepton_session *session) {
  if (session->program->shape) session->program->shape(session->env);
}

static void bind_symbols(lepton_session *session, const lepton_tensor *inputs) {
  const lpt_program *program = session->program;
  memcpy(session->env, program->env, program->n_env * sizeof *session->env); /* late sizes are unknown again */
  for (uint32_t i = 0; i < program->n_symbols; i++) {
    const lpt_symbol *symbol = &program->symbols[i];
    session->env[symbol->env_slot] = inputs[symbol->input].shape[symbol->axis];
  }
  compute_env(session);
}

/* Guards over late sizes wait for the last bind. */
static lepton_status check_guards(lepton_session *session, bool late) {
  const lpt_program *program = session->program;
  for (uint32_t i = 0; i < program->n_guards; i++) {
    const lpt_guard *guard = &program->guards[i];
    if (!late && ((guard->left | guard->right) & LPT_SLOT_LATE)) continue;
    int64_t left = session->env[guard->left & ~LPT_SLOT_LATE];
    int64_t right = session->env[guard->right & ~LPT_SLOT_LATE];
    if (left != right)
      return lpt_fail(session, LEPTON_INVALID_ARGUMENT, "%s (%lld against %lld)", guard->message,
                      (long long)left, (long long)right);
  }
  return LEPTON_OK;
}

static bool is_size(int64_t value) { return value >= 0 && value <= LPT_MAX_BYTES; }

/* What starts before the first step at or after `step` that binds sizes has its own; n_steps: everything. */
static uint32_t known_until(const lpt_program *program, uint32_t step) {
  while (step < program->n_steps && !lpt_binds(program, &program->steps[step])) step++;
  return step;
}

/* How many steps before this one bind sizes. */
static uint32_t binds_before(const lpt_program *program, uint32_t step) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < step; i++) n += lpt_binds(program, &program->steps[i]);
  return n;
}

static lepton_status check_buffer(lepton_session *session, const lpt_buffer *buffer, uint32_t known) {
  int64_t size = session->env[buffer->size_slot];
  bool late = buffer->storage == LPT_OUTPUT ? lpt_output_is_late(session->program, buffer->index)
                                            : buffer->first_step >= known;
  if (buffer->storage != LPT_OUTPUT && buffer->storage != LPT_WORKSPACE) return LEPTON_OK;
  if ((late && known < session->program->n_steps) || is_size(size)) return LEPTON_OK;
  return lpt_fail(session, LEPTON_INVALID_ARGUMENT, "these input shapes give %s a size of %lld bytes",
                  buffer->storage == LPT_OUTPUT ? "an output" : "an intermediate tensor", (long long)size);
}

/* Nothing negative, nothing absurd, as far as sizes are known. */
static lepton_status check_env(lepton_session *session, uint32_t known) {
  const lpt_program *program = session->program;
  for (uint32_t i = 0; i < program->n_buffers; i++) {
    lepton_status status = check_buffer(session, &program->buffers[i], known);
    if (status) return status;
  }
  for (uint32_t i = 0; i < program->n_steps && i < known; i++) {
    const lpt_step *step = &program->steps[i];
    if (step->kind != LPT_CALL) continue;
    int64_t tasks = session->env[step->tasks_slot], scratch = session->env[step->scratch_slot];
    if (tasks < 0 || !is_size(scratch))
      return lpt_fail(session, LEPTON_INVALID_ARGUMENT,
                      "these input shapes give step '%s' %lld tasks with %lld bytes of scratch",
                      step->name ? step->name : "?", (long long)tasks, (long long)scratch);
  }
  return LEPTON_OK;
}

static lepton_status no_memory(lepton_session *session, const char *what, int64_t bytes) {
  return lpt_fail(session, LEPTON_OUT_OF_MEMORY, "no memory for %s (%lld bytes)", what, (long long)bytes);
}

/* One piece per thread; a cache line apart, so that neighbours do not share one. */
static lepton_status reserve_scratch(lepton_session *session, uint32_t known) {
  const lpt_program *program = session->program;
  int64_t most = 0;
  for (uint32_t i = 0; i < program->n_steps && i < known; i++) {
    if (program->steps[i].kind != LPT_CALL) continue;
    int64_t size = session->env[program->steps[i].scratch_slot];
    if (size > most) most = size;
  }
  session->scratch_stride = most ? ((size_t)most + 2 * LPT_ALIGNMENT - 1) / LPT_ALIGNMENT * LPT_ALIGNMENT : 0;
  size_t total = session->scratch_stride * session->threads;
  if (!total || lpt_block_reserve(&session->allocator, &session->scratch, total)) return LEPTON_OK;
  return no_memory(session, "scratch", (int64_t)total);
}

/* Plan the workspace buffers that start at step `from` or later into one arena. */
static lepton_status plan_workspace(lepton_session *session, uint32_t from, lpt_block *arena) {
  const lpt_program *program = session->program;
  uint32_t n = 0;
  for (uint32_t i = 0; i < program->n_buffers; i++) {
    const lpt_buffer *buffer = &program->buffers[i];
    if (buffer->storage != LPT_WORKSPACE || buffer->first_step < from) continue;
    session->plan.buffers[n] = i;
    int64_t size = session->env[buffer->size_slot];
    session->plan.sizes[n] = is_size(size) ? size : 0; /* not known yet: see check_env */
    session->plan.first[n] = buffer->first_step;
    session->plan.last[n++] = buffer->last_step;
  }
  int64_t total = lpt_plan(n, session->plan.sizes, session->plan.first, session->plan.last,
                           session->plan.order, session->plan.offsets);
  if (total < 0)
    return lpt_fail(session, LEPTON_INVALID_ARGUMENT, "these input shapes need more memory than there can be");
  if (!lpt_block_reserve(&session->allocator, arena, (size_t)total))
    return no_memory(session, "intermediate tensors", total);
  for (uint32_t i = 0; i < n; i++)
    session->bases[session->plan.buffers[i]] = (uint8_t *)arena->data + session->plan.offsets[i];
  return LEPTON_OK;
}

/* The compiler's plan. */
static lepton_status place_workspace(lepton_session *session) {
  const lpt_program *program = session->program;
  if (!lpt_block_reserve(&session->allocator, &session->arenas[0], program->workspace_size))
    return no_memory(session, "intermediate tensors", (int64_t)program->workspace_size);
  for (uint32_t i = 0; i < program->n_buffers; i++)
    if (program->buffers[i].storage == LPT_WORKSPACE)
      session->bases[i] = (uint8_t *)session->arenas[0].data + program->buffers[i].offset;
  return LEPTON_OK;
}

lepton_status lpt_prepare(lepton_session *session, const lepton_tensor *inputs) {
  session->ready = false; /* until all of this has succeeded */
  bind_symbols(session, inputs);
  uint32_t known = known_until(session->program, 0);
  lepton_status status = lpt_check_sizes(session, inputs);
  if (!status) status = check_guards(session, false);
  if (!status) status = check_env(session, known);
  if (!status) status = reserve_scratch(session, known);
  if (!status)
    status = session->dynamic ? plan_workspace(session, 0, &session->arenas[0]) : place_workspace(session);
  if (status) return status;
  for (uint32_t i = 0; i < session->program->n_inputs; i++)
    memcpy(session->shapes[i], inputs[i].shape, sizeof session->shapes[i]);
  session->ready = true;
  return LEPTON_OK;
}

lepton_status lpt_own_output(lepton_session *session, uint32_t index, lepton_tensor *output) {
  uint32_t buffer = session->output_buffers[index];
  int64_t size = session->env[session->program->buffers[buffer].size_slot];
  lpt_describe_output(session, index, true, output);
  if (output->dtype == LEPTON_STRING) size = lpt_tensor_bytes(output->dtype, output->rank, output->shape);
  if (!is_size(size)) size = 0; /* late: known at a bind to come, and asked for again there */
  if (!lpt_block_reserve(&session->allocator, &session->outputs[index], (size_t)size))
    return no_memory(session, session->program->outputs[index].name, size);
  output->data = session->outputs[index].data;
  return LEPTON_OK;
}

lepton_status lpt_prepare_late(lepton_session *session, uint32_t step, lepton_tensor *outputs) {
  const lpt_program *program = session->program;
  session->ready = false; /* the next run starts from the input shapes alone */
  compute_env(session);
  uint32_t known = known_until(program, step + 1);
  lepton_status status = check_guards(session, known == program->n_steps);
  if (!status) status = check_env(session, known);
  if (!status) status = reserve_scratch(session, known);
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

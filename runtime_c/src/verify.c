/* verify.c: is a program's table sound? The runtime indexes by what stands there, so a wrong number
 * would be a wild write; every create checks it once (microseconds) and says which entry is wrong. */
#include "runtime.h"

static lepton_status unsound(const char *what, uint32_t index, const char *why) {
  return lpt_fail(NULL, LEPTON_INTERNAL, "the compiled model is damaged: %s %u: %s", what,
                  (unsigned)index, why);
}

static bool fits(uint64_t offset, int64_t size, uint64_t whole) {
  return size >= 0 && offset <= whole && (uint64_t)size <= whole - offset;
}

static lepton_status verify_buffer(const lpt_program *p, uint32_t index) {
  const lpt_buffer *b = &p->buffers[index];
  if (b->size_slot >= p->n_env) return unsound("buffer", index, "size slot out of range");
  switch (b->storage) {
    case LPT_INPUT:
      return b->index < p->n_inputs ? LEPTON_OK : unsound("buffer", index, "no such input");
    case LPT_OUTPUT:
      return b->index < p->n_outputs ? LEPTON_OK : unsound("buffer", index, "no such output");
    case LPT_CONSTANT:
      if (fits(b->offset, p->env[b->size_slot], p->weights_size)) return LEPTON_OK;
      return unsound("buffer", index, "outside the weights");
    case LPT_STATE: /* no more of them than buffers, and each is one number */
      return b->index < p->n_buffers ? LEPTON_OK : unsound("buffer", index, "no such state");
    case LPT_WORKSPACE:
      if (b->first_step > b->last_step) return unsound("buffer", index, "dies before it lives");
      if (b->last_step >= p->n_steps) return unsound("buffer", index, "outlives the program");
      if (lpt_is_dynamic(p) || fits(b->offset, p->env[b->size_slot], p->workspace_size)) return LEPTON_OK;
      return unsound("buffer", index, "outside the workspace");
    case LPT_GROWING:
      return LEPTON_OK;
    default:
      return unsound("buffer", index, "unknown storage");
  }
}

static uint32_t count_operands(const lpt_host_call *c) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < c->n_inputs + c->n_outputs; i++) n += c->tensors[i].dtype != 0;
  return n;
}

static lepton_status verify_call(const lpt_program *p, uint32_t index) {
  const lpt_host_call *c = &p->calls[index];
  uint32_t unknown = 0;
  if (!c->name || (c->attributes_size && !c->attributes)) return unsound("call", index, "lacks its name or attributes");
  for (uint32_t i = 0; i < c->n_inputs + c->n_outputs; i++) {
    const lpt_call_tensor *t = &c->tensors[i];
    bool output = i >= c->n_inputs;
    if (t->dtype > LEPTON_U2 || (output && !t->dtype) || t->rank > LEPTON_MAX_RANK)
      return unsound("call", index, "bad tensor");
    for (uint32_t d = 0; d < t->rank; d++) {
      if ((t->slots.slot[d] & ~LPT_SLOT_LATE) >= p->n_env) return unsound("call", index, "slot out of range");
      unknown += output && (t->slots.slot[d] & LPT_SLOT_LATE);
    }
  }
  for (uint32_t i = 0; i < c->n_bound; i++)
    if (c->bound[i] < 2 || c->bound[i] >= p->n_env) return unsound("call", index, "bad slot");
  return c->n_bound <= unknown ? LEPTON_OK : unsound("call", index, "binds what is known");
}

static lepton_status verify_strings(const lpt_program *p) {
  if (p->n_strings && p->strings[0].size) return unsound("string", 0, "is not empty");
  for (uint32_t i = 0; i < p->n_strings; i++)
    if (p->strings[i].size && !p->strings[i].data) return unsound("string", i, "lacks its bytes");
  return LEPTON_OK;
}

static lepton_status verify_check(const lpt_program *p, uint32_t index) {
  const lpt_step *s = &p->steps[index];
  if (s->first_operand > p->n_guards || s->n_operands > p->n_guards - s->first_operand)
    return unsound("step", index, "guards out of range");
  if (s->target <= index || s->target > p->n_steps) return unsound("step", index, "stands before nothing");
  return LEPTON_OK;
}

static lepton_status verify_launch(const lpt_program *p, uint32_t index) {
  const lpt_step *s = &p->steps[index];
  if (s->target >= p->n_kernels) return unsound("step", index, "lacks its kernel");
  const lpt_cuda_kernel *k = &p->kernels[s->target];
  if (k->n_operands != s->n_operands) return unsound("step", index, "does not fit its kernel");
  if (k->n_dims > p->n_env - s->dims_slot) return unsound("step", index, "sizes out of range");
  return LEPTON_OK;
}

static lepton_status verify_cuda(const lpt_program *p) {
  if (p->kind > LPT_CUDA) return unsound("program", 0, "unknown kind");
  for (uint32_t i = 0; i < p->n_images; i++)
    if (!p->images[i].data || !p->images[i].size || p->images[i].kind > LPT_PTX) return unsound("image", i, "bad entry");
  for (uint32_t i = 0; i < p->n_kernels; i++) {
    const lpt_cuda_kernel *k = &p->kernels[i];
    if (!k->name || !k->tasks_per_block || k->threads % 32 || !k->threads || k->threads > 1024)
      return unsound("kernel", i, "bad geometry");
  }
  return LEPTON_OK;
}

static lepton_status verify_step(const lpt_program *p, uint32_t index) {
  const lpt_step *s = &p->steps[index];
  if (s->kind > LPT_ROUND) return unsound("step", index, "unknown kind");
  if (s->kind == LPT_CHECK) return verify_check(p, index);
  if (s->n_operands > p->max_operands || s->first_operand > p->n_operands ||
      s->n_operands > p->n_operands - s->first_operand)
    return unsound("step", index, "operands out of range");
  if (s->dims_slot >= p->n_env || s->tasks_slot >= p->n_env || s->scratch_slot >= p->n_env ||
      s->grain_slot >= p->n_env)
    return unsound("step", index, "slot out of range");
  if (s->kind == LPT_HOST_CALL && s->target >= p->n_calls) return unsound("step", index, "no such call");
  bool jumps = s->kind == LPT_JUMP || s->kind == LPT_JUMP_IF_FALSE || s->kind == LPT_ROUND;
  if (jumps && s->target > p->n_steps) return unsound("step", index, "jumps out of the program");
  if (s->kind == LPT_ROUND && (s->dims_slot < 2 || s->dims_slot + 1 >= p->n_env))
    return unsound("step", index, "has nothing to count in");
  bool reads = s->kind == LPT_JUMP_IF_FALSE || s->kind == LPT_RESERVE;
  if (reads && s->n_operands < 1) return unsound("step", index, "lacks its operand");
  if (s->kind == LPT_RESERVE && p->buffers[p->operands[s->first_operand].buffer].storage != LPT_GROWING)
    return unsound("step", index, "reserves what cannot grow");
  if (s->kind == LPT_CALL && p->kind == LPT_CUDA) return verify_launch(p, index);
  if (s->kind == LPT_CALL && !s->kernel) return unsound("step", index, "lacks its kernel");
  if (s->kind == LPT_HOST_CALL && count_operands(&p->calls[s->target]) != s->n_operands)
    return unsound("step", index, "does not fit its call");
  return LEPTON_OK;
}

static lepton_status verify_port(const lpt_program *p, const char *kind, const lepton_port *port,
                                 const lpt_port_slots *slots, uint32_t index) {
  if (port->rank < 0 || port->rank > LEPTON_MAX_RANK) return unsound(kind, index, "bad rank");
  if (!port->name) return unsound(kind, index, "lacks its name");
  if (port->dtype < LEPTON_F32 || port->dtype > LEPTON_U2)
    return unsound(kind, index, "bad dtype");
  for (int32_t i = 0; i < port->rank; i++)
    if ((slots->slot[i] & ~LPT_SLOT_LATE) >= p->n_env) return unsound(kind, index, "slot out of range");
  return LEPTON_OK;
}

static lepton_status verify_ports(const lpt_program *p) {
  lepton_status status = LEPTON_OK;
  for (uint32_t i = 0; i < p->n_inputs && !status; i++)
    status = verify_port(p, "input", &p->inputs[i], &p->input_slots[i], i);
  for (uint32_t i = 0; i < p->n_outputs && !status; i++)
    status = verify_port(p, "output", &p->outputs[i], &p->output_slots[i], i);
  return status;
}

/* Symbols, operands, guards. */
static lepton_status verify_references(const lpt_program *p) {
  for (uint32_t i = 0; i < p->n_symbols; i++) {
    const lpt_symbol *s = &p->symbols[i];
    if (s->env_slot >= p->n_env || s->env_slot < 2) return unsound("symbol", i, "bad slot");
    if (s->input >= p->n_inputs || (int64_t)s->axis >= p->inputs[s->input].rank)
      return unsound("symbol", i, "no such dimension");
  }
  for (uint32_t i = 0; i < p->n_operands; i++)
    if (p->operands[i].buffer >= p->n_buffers || p->operands[i].offset_slot >= p->n_env)
      return unsound("operand", i, "out of range");
  for (uint32_t i = 0; i < p->n_guards; i++)
    if ((p->guards[i].left & ~LPT_SLOT_LATE) >= p->n_env ||
        p->guards[i].right >= p->n_env || !p->guards[i].message)
      return unsound("guard", i, "out of range");
  return LEPTON_OK;
}

static lepton_status verify_variants(const lpt_program *p) {
  for (uint32_t i = 0; i < p->n_variants; i++)
    if (!p->variants || !p->variants[i]) return unsound("variant", i, "is missing");
  return LEPTON_OK;
}

bool lpt_is_dynamic(const lpt_program *program) {
  bool binds = false;
  for (uint32_t i = 0; i < program->n_steps; i++) binds |= lpt_binds(program, &program->steps[i]);
  return binds || program->shape || program->n_symbols;
}

lepton_status lpt_verify(const lpt_program *program) {
  if (program->n_env < 2 || program->env[0] != 0 || program->env[1] != 1)
    return unsound("env", 0, "does not start with 0 and 1");
  lepton_status status = verify_ports(program);
  if (!status) status = verify_variants(program);
  if (!status) status = verify_references(program);
  for (uint32_t i = 0; i < program->n_calls && !status; i++) status = verify_call(program, i);
  if (!status) status = verify_strings(program);
  if (!status) status = verify_cuda(program);
  for (uint32_t i = 0; i < program->n_steps && !status; i++) status = verify_step(program, i); /* buffers lean on them */
  for (uint32_t i = 0; i < program->n_buffers && !status; i++) status = verify_buffer(program, i);
  return status;
}

/* damage_test.c: tables that lie are refused, and no number in them makes the runtime touch what is not its own. */
#include "check.h"
#include "programs.h"

static lepton_tensor f32(const float *data, int32_t rank, int64_t d0, int64_t d1) {
  return (lepton_tensor){.data = (void *)(uintptr_t)data, .dtype = LEPTON_F32, .rank = rank, .shape = {d0, d1}};
}

static void damaged_tables_are_refused(void) {
  lepton_session *session = NULL;
  lpt_step steps[2] = {static_steps[0], static_steps[1]}, *step = steps;
  lpt_program damaged = static_program;
  damaged.steps = steps;
#define REFUSED(change, text)                                             \
  do {                                                                    \
    lpt_program kept = damaged;                                           \
    lpt_step kept_step = *step;                                           \
    change;                                                               \
    CHECK(lpt_create(&damaged, NULL, NULL, &session) == LEPTON_INTERNAL); \
    CHECK_TEXT(lpt_message(NULL), text);                                  \
    damaged = kept, *step = kept_step;                                    \
  } while (0)
  REFUSED(step->tasks_slot = 5, "step 0: slot out of range");
  REFUSED(step->first_operand = 4, "step 0: operands out of range");
  REFUSED(step->n_operands = 4, "step 0: operands out of range");
  REFUSED(step->kernel = NULL, "step 0: lacks its kernel");
  REFUSED((step->kind = LPT_JUMP, step->target = 3), "step 0: jumps out");
  REFUSED((step->kind = LPT_ROUND, step->dims_slot = 1), "step 0: has nothing to count in");
  REFUSED((step->kind = LPT_ROUND, step->target = 3, step->dims_slot = 2), "step 0: jumps out");
  REFUSED(step->kind = 9, "step 0: unknown kind");
  REFUSED(damaged.n_env = 1, "env 0");
  REFUSED(damaged.n_buffers = 3, "operand 1: out of range");
  REFUSED((damaged.n_steps = 0), "buffer 3: outlives the program");
  REFUSED(damaged.max_operands = 2, "step 1: operands out of range");
  REFUSED(damaged.workspace_size = 15, "buffer 3: outside the workspace");
  REFUSED(damaged.weights_size = 3, "buffer 2: outside the weights");
}

static uint32_t state = 777;
static uint32_t next_random(void) {
  state ^= state << 13;
  state ^= state >> 17;
  return state ^= state << 5;
}

/* Change one number somewhere in a copy of a table. */
static void spoil(void *copy, const void *table, size_t size, bool here) {
  memcpy(copy, table, size);
  if (!here) return;
  static const uint32_t values[] = {0, 1, 2, 3, 7, 100, 0x7fffffff, 0x80000000, 0xffffffff};
  uint32_t value = values[next_random() % LENGTH(values)];
  memcpy((char *)copy + next_random() % (size / 4) * 4, &value, 4);
}

/* A session for a spoilt program is refused or is made; it never touches what is not its own. */
static void spoilt_tables_never_crash(void) {
  uint32_t refused = 0, rounds = 3000;
  for (uint32_t i = 0; i < rounds; i++) {
    const lpt_program *whole = i % 3 == 0 ? &static_program : i % 3 == 1 ? &dynamic_program : &late_program;
    lpt_program p = *whole;
    lpt_buffer buffers[8];
    lpt_operand operands[16];
    lpt_step steps[8];
    lpt_port_slots in[2], out[2];
    lpt_symbol symbols[4];
    lpt_guard guards[2];
    uint32_t where = next_random() % 7;
    spoil(buffers, p.buffers, p.n_buffers * sizeof *buffers, where == 0);
    spoil(operands, p.operands, p.n_operands * sizeof *operands, where == 1);
    spoil(steps, p.steps, p.n_steps * sizeof *steps, where == 2);
    spoil(in, p.input_slots, p.n_inputs * sizeof *in, where == 3);
    spoil(out, p.output_slots, p.n_outputs * sizeof *out, where == 4);
    if (p.n_symbols) spoil(symbols, p.symbols, p.n_symbols * sizeof *symbols, where == 5);
    if (p.n_guards) spoil(guards, p.guards, p.n_guards * sizeof *guards, where == 6);
    p.buffers = buffers, p.operands = operands, p.steps = steps, p.input_slots = in, p.output_slots = out;
    p.symbols = symbols, p.guards = guards;
    for (uint32_t k = 0; k < p.n_steps; k++) steps[k].name = NULL; /* pointers are not ours to check */
    lepton_options options = {.struct_size = sizeof options, .threads = 1};
    lepton_session *session = NULL;
    lepton_status status = lpt_create(&p, NULL, &options, &session);
    refused += status != LEPTON_OK;
    if (status) {
      CHECK(!session && *lpt_message(NULL));
      continue;
    }
    float x[64] = {0};
    lepton_tensor inputs[] = {f32(x, p.inputs[0].rank, 4, 4), f32(x, 1, 4, 0)}, outputs[1];
    lpt_resolve(session, inputs, outputs);
    lpt_destroy(session);
  }
  CHECK(refused > rounds / 10 && refused < rounds);
}

int main(void) {
  RUN(damaged_tables_are_refused);
  RUN(spoilt_tables_never_crash);
  return failures != 0;
}

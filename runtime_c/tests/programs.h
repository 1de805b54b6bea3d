#ifndef LPT_TESTS_PROGRAMS_H_
#define LPT_TESTS_PROGRAMS_H_
/* programs.h: tables as the code generator would write them, by hand and small. */
#include "runtime.h"

#define LENGTH(array) (uint32_t)(sizeof(array) / sizeof *(array))

/* ---- kernels --------------------------------------------------------------------------------------- */

static void twice(void *const *b, const int64_t *d, void *scratch, int64_t lo, int64_t hi) {
  (void)d, (void)scratch;
  for (int64_t i = lo; i < hi; i++) ((float *)b[1])[i] = 2 * ((const float *)b[0])[i];
}

/* b[2][i] = b[0][i] + b[1][i % d[0]] */
static void add(void *const *b, const int64_t *d, void *scratch, int64_t lo, int64_t hi) {
  (void)scratch;
  for (int64_t i = lo; i < hi; i++) ((float *)b[2])[i] = ((const float *)b[0])[i] + ((const float *)b[1])[i % d[0]];
}

/* The same through the thread's scratch: 64 bytes of it. */
static void twice_by_scratch(void *const *b, const int64_t *d, void *scratch, int64_t lo, int64_t hi) {
  (void)d;
  float *own = scratch;
  for (int64_t i = lo; i < hi; i++) {
    for (int k = 0; k < 16; k++) own[k] = ((const float *)b[0])[i];
    ((float *)b[1])[i] = own[3] + own[15];
  }
}

/* ---- static: y[4] = 2 * x[4] + w[1] ------------------------------------------------------------------ */

static const _Alignas(64) float static_weights[] = {7};
static const char *const words_4[] = {"4"};
static const lepton_port static_in[] = {{"x", LEPTON_F32, 1, {4}, words_4}};
static const lepton_port static_out[] = {{"y", LEPTON_F32, 1, {4}, words_4}};
static const lpt_port_slots static_slots[] = {{{2}}};
static const int64_t static_env[] = {0, 1, 4, 16, 64};
static const lpt_buffer static_buffers[] = {
  {LPT_INPUT, 0, 0, 3, 0, 0, 0}, {LPT_OUTPUT, 0, 0, 3, 0, 0, 0}, {LPT_CONSTANT, 0, 0, 2, 0, 0, 0},
  {LPT_WORKSPACE, 0, 0, 3, 0, 1, 0},
};
static const lpt_operand static_operands[] = {{0, 0}, {3, 0}, {3, 0}, {2, 0}, {1, 0}};
static const lpt_step static_steps[] = {
  {twice_by_scratch, "twice", LPT_CALL, 0, 2, 0, 2, 4, 1, 0},
  {add, "add", LPT_CALL, 2, 3, 1, 2, 0, 1, 0},
};
#define STATIC_PROGRAM(weights_)                                                                     \
  {                                                                                                  \
    .target = "test", .metadata = "{\"model\": \"static\"}", .inputs = static_in, .outputs = static_out, \
    .input_slots = static_slots, .output_slots = static_slots, .buffers = static_buffers,            \
    .operands = static_operands, .steps = static_steps, .env = static_env,                           \
    .weights = (const uint8_t *)(weights_), .weights_size = 4, .workspace_size = 64, .n_inputs = 1,   \
    .n_outputs = 1, .n_buffers = LENGTH(static_buffers), .n_operands = LENGTH(static_operands),      \
    .n_steps = LENGTH(static_steps), .n_env = LENGTH(static_env), .max_operands = 3,                 \
  }
static const lpt_program static_program = STATIC_PROGRAM(static_weights);

/* ---- dynamic: y[N,M] = 2 * a[N,M] + b[M], M even ------------------------------------------------------ */

enum { DYN_N = 2, DYN_M = 3, DYN_ELEMENTS = 4, DYN_BYTES = 5, DYN_ROW_BYTES = 6, DYN_M_ODD = 7, DYN_ENV = 8 };

static void dynamic_shape(int64_t *env) {
  env[DYN_ELEMENTS] = env[DYN_N] * env[DYN_M];
  env[DYN_BYTES] = 4 * env[DYN_ELEMENTS];
  env[DYN_ROW_BYTES] = 4 * env[DYN_M];
  env[DYN_M_ODD] = env[DYN_M] % 2;
}

static const char *const words_nm[] = {"N", "M"}, *const words_m[] = {"M"};
static const lepton_port dynamic_in[] = {
  {"a", LEPTON_F32, 2, {-1, -1}, words_nm}, {"b", LEPTON_F32, 1, {-1}, words_m},
};
static const lepton_port dynamic_out[] = {{"y", LEPTON_F32, 2, {-1, -1}, words_nm}};
static const lpt_port_slots dynamic_slots[] = {{{DYN_N, DYN_M}}, {{DYN_M}}};
static const int64_t dynamic_env[DYN_ENV] = {0, 1};
static const lpt_symbol dynamic_symbols[] = {{DYN_N, 0, 0, 0, 0, 0}, {DYN_M, 0, 1, 0, 0, 0}};
static const lpt_guard dynamic_guards[] = {{DYN_M_ODD, 0, "node 'halve': M must be even"}};
static const lpt_buffer dynamic_buffers[] = {
  {LPT_INPUT, 0, 0, DYN_BYTES, 0, 0, 0}, {LPT_INPUT, 1, 0, DYN_ROW_BYTES, 0, 0, 0},
  {LPT_OUTPUT, 0, 0, DYN_BYTES, 0, 0, 0}, {LPT_WORKSPACE, 0, 0, DYN_BYTES, 0, 1, 0},
};
static const lpt_operand dynamic_operands[] = {{0, 0}, {3, 0}, {3, 0}, {1, 0}, {2, 0}};
static const lpt_step dynamic_steps[] = {
  {twice, "twice", LPT_CALL, 0, 2, 0, DYN_ELEMENTS, 0, 1, 0},
  {add, "add", LPT_CALL, 2, 3, DYN_M, DYN_ELEMENTS, 0, 1, 0},
};
static const lpt_program dynamic_program = {
  .target = "test", .metadata = "{}", .inputs = dynamic_in, .outputs = dynamic_out,
  .input_slots = dynamic_slots, .output_slots = dynamic_slots, .buffers = dynamic_buffers,
  .operands = dynamic_operands, .steps = dynamic_steps, .symbols = dynamic_symbols, .guards = dynamic_guards,
  .env = dynamic_env, .shape = dynamic_shape, .n_inputs = 2, .n_outputs = 1,
  .n_buffers = LENGTH(dynamic_buffers), .n_operands = LENGTH(dynamic_operands), .n_steps = LENGTH(dynamic_steps),
  .n_symbols = 2, .n_guards = 1, .n_env = DYN_ENV, .max_operands = 3,
};

/* ---- loop: total[] = n + (n-1) + ... + 1, by jumps ------------------------------------------------------ */

static void start(void *const *b, const int64_t *d, void *s, int64_t lo, int64_t hi) {
  (void)d, (void)s, (void)lo, (void)hi;
  *(int64_t *)b[1] = *(const int64_t *)b[0]; /* counter = n */
  *(int64_t *)b[2] = 0;                      /* total = 0 */
}

static void positive(void *const *b, const int64_t *d, void *s, int64_t lo, int64_t hi) {
  (void)d, (void)s, (void)lo, (void)hi;
  *(uint8_t *)b[1] = *(const int64_t *)b[0] > 0;
}

static void body(void *const *b, const int64_t *d, void *s, int64_t lo, int64_t hi) {
  (void)d, (void)s, (void)lo, (void)hi;
  *(int64_t *)b[1] += (*(int64_t *)b[0])--;
}

static const lepton_port loop_in[] = {{"n", LEPTON_I64, 0, {0}, NULL}};
static const lepton_port loop_out[] = {{"total", LEPTON_I64, 0, {0}, NULL}};
static const lpt_port_slots loop_slots[] = {{{0}}};
static const int64_t loop_env[] = {0, 1, 8};
static const lpt_buffer loop_buffers[] = {
  {LPT_INPUT, 0, 0, 2, 0, 0, 0}, {LPT_OUTPUT, 0, 0, 2, 0, 0, 0}, {LPT_WORKSPACE, 0, 0, 2, 0, 4, 0},
  {LPT_WORKSPACE, 0, 64, 1, 1, 4, 0},
};
static const lpt_operand loop_operands[] = {{0, 0}, {2, 0}, {1, 0}, {2, 0}, {3, 0}, {3, 0}, {2, 0}, {1, 0}};
static const lpt_step loop_steps[] = {
  {start, "start", LPT_CALL, 0, 3, 0, 1, 0, 1, 0},
  {positive, "positive", LPT_CALL, 3, 2, 0, 1, 0, 1, 0},
  {NULL, NULL, LPT_JUMP_IF_FALSE, 5, 1, 0, 0, 0, 0, 5},
  {body, "body", LPT_CALL, 6, 2, 0, 1, 0, 1, 0},
  {NULL, NULL, LPT_JUMP, 0, 0, 0, 0, 0, 0, 1},
};
static const lpt_program loop_program = {
  .target = "test", .metadata = "{}", .inputs = loop_in, .outputs = loop_out, .input_slots = loop_slots,
  .output_slots = loop_slots, .buffers = loop_buffers, .operands = loop_operands, .steps = loop_steps,
  .env = loop_env, .workspace_size = 128, .n_inputs = 1, .n_outputs = 1, .n_buffers = LENGTH(loop_buffers),
  .n_operands = LENGTH(loop_operands), .n_steps = LENGTH(loop_steps), .n_env = LENGTH(loop_env),
  .max_operands = 3,
};

/* ---- rounds: the same, but rounds are counted beside the data: those inside as many as the counter says at first - */

static const int64_t rounds_env[] = {0, 1, 8, 0, 0, 0, 0};
static const lpt_buffer rounds_buffers[] = {
  {LPT_INPUT, 0, 0, 2, 0, 0, 0}, {LPT_OUTPUT, 0, 0, 2, 0, 0, 0}, {LPT_WORKSPACE, 0, 0, 2, 1, 5, 0},
  {LPT_WORKSPACE, 0, 64, 1, 1, 5, 0},
};
static const lpt_step rounds_steps[] = {
  {NULL, NULL, LPT_ROUND, 0, 0, 3, 1, 0, 0, 6},
  {start, "start", LPT_CALL, 0, 3, 0, 1, 0, 1, 0},
  {NULL, NULL, LPT_ROUND, 3, 1, 5, 0, 0, 0, 5},
  {body, "body", LPT_CALL, 6, 2, 0, 1, 0, 1, 0},
  {NULL, NULL, LPT_JUMP, 0, 0, 0, 0, 0, 0, 2},
  {NULL, NULL, LPT_JUMP, 0, 0, 0, 0, 0, 0, 0},
};
static const lpt_program rounds_program = {
  .target = "test", .metadata = "{}", .inputs = loop_in, .outputs = loop_out, .input_slots = loop_slots,
  .output_slots = loop_slots, .buffers = rounds_buffers, .operands = loop_operands, .steps = rounds_steps,
  .env = rounds_env, .workspace_size = 128, .n_inputs = 1, .n_outputs = 1, .n_buffers = LENGTH(rounds_buffers),
  .n_operands = LENGTH(loop_operands), .n_steps = LENGTH(rounds_steps), .n_env = LENGTH(rounds_env),
  .max_operands = 3,
};

/* ---- late: y[K] = 2 * (the positive ones of x[N]); K is found while running, memory for them reserved then ---- */

enum { LATE_N = 2, LATE_N_BYTES = 3, LATE_K = 4, LATE_K_BYTES = 5, LATE_COUNT = 6, LATE_TOO_MANY = 7, LATE_FOUR = 8,
       LATE_ENV = 9 };

static void late_shape(int64_t *env) {
  env[LATE_N_BYTES] = (int64_t)(4 * (uint64_t)env[LATE_N]);  /* sizes may be nonsense until they are checked */
  env[LATE_K_BYTES] = (int64_t)(4 * (uint64_t)env[LATE_K]);
  env[LATE_TOO_MANY] = env[LATE_K] > 5;
}

static void count_positive(void *const *b, const int64_t *d, void *s, int64_t lo, int64_t hi) {
  (void)s, (void)lo, (void)hi;
  int64_t n = 0;
  for (int64_t i = 0; i < d[0]; i++) n += ((const float *)b[0])[i] > 0;
  *(int64_t *)b[1] = n;
}

static void pick_positive(void *const *b, const int64_t *d, void *s, int64_t lo, int64_t hi) {
  (void)s, (void)lo, (void)hi;
  for (int64_t i = 0, k = 0; i < d[0]; i++)
    if (((const float *)b[0])[i] > 0) ((float *)b[1])[k++] = ((const float *)b[0])[i];
}

static const char *const words_n[] = {"N"}, *const words_k[] = {"K"};
static const lepton_port late_in[] = {{"x", LEPTON_F32, 1, {-1}, words_n}};
static const lepton_port late_out[] = {{"y", LEPTON_F32, 1, {-1}, words_k}};
static const lpt_port_slots late_in_slots[] = {{{LATE_N}}}, late_out_slots[] = {{{LATE_K | LPT_SLOT_LATE}}};
static const int64_t late_env[LATE_ENV] = {0, 1, 0, 0, -1, 0, 8, 0, 4}; /* an unknown size looks negative */
static const lpt_symbol late_symbols[] = {{LATE_N, 0, 0, 0, 0, 0}};
static const lpt_guard late_guards[] = {{LATE_TOO_MANY | LPT_SLOT_LATE, 0, "node 'pick': at most 5"}};
static const lpt_buffer late_buffers[] = {
  {LPT_INPUT, 0, 0, LATE_N_BYTES, 0, 0, 0}, {LPT_OUTPUT, 0, 0, LATE_K_BYTES, 0, 0, 0},
  {LPT_WORKSPACE, 0, 0, LATE_COUNT, 0, 1, 0}, {LPT_GROWING, 0, 0, 0, 0, 0, 0},
};
static const lpt_operand late_operands[] = {{0, 0}, {2, 0}, {2, 0}, {0, 0}, {3, 0}, {3, 0}, {1, 0}, {3, 0}, {2, 0}};
static const lpt_step late_steps[] = {
  {count_positive, "count", LPT_CALL, 0, 2, LATE_N, 1, 0, 1, 0},
  {NULL, NULL, LPT_BIND, 2, 1, LATE_K, 0, 0, 0, 0},
  {NULL, NULL, LPT_CHECK, 0, 1, 0, 0, 0, 0, 3},
  {NULL, NULL, LPT_RESERVE, 7, 2, 0, LATE_FOUR, 0, 0, 0},
  {pick_positive, "pick", LPT_CALL, 3, 2, LATE_N, 1, 0, 1, 0},
  {twice, "twice", LPT_CALL, 5, 2, 0, LATE_K, 0, 1, 0},
};
static const lpt_program late_program = {
  .target = "test", .metadata = "{}", .inputs = late_in, .outputs = late_out, .input_slots = late_in_slots,
  .output_slots = late_out_slots, .buffers = late_buffers, .operands = late_operands, .steps = late_steps,
  .symbols = late_symbols, .guards = late_guards, .env = late_env, .shape = late_shape, .n_inputs = 1,
  .n_outputs = 1, .n_buffers = LENGTH(late_buffers), .n_operands = LENGTH(late_operands),
  .n_steps = LENGTH(late_steps), .n_symbols = 1, .n_guards = 1, .n_env = LATE_ENV, .max_operands = 2,
};

/* ---- draws: y[] = 100 * seed + runs since it was set ------------------------------------------------------- */

static void draw(void *const *b, const int64_t *d, void *s, int64_t lo, int64_t hi) {
  (void)d, (void)s, (void)lo, (void)hi;
  *(int64_t *)b[2] = 100 * *(const int64_t *)b[0] + (*(int64_t *)b[1])++;
}

static const lepton_port draws_out[] = {{"y", LEPTON_I64, 0, {0}, NULL}};
static const lpt_buffer draws_buffers[] = {
  {LPT_STATE, 0, 7, 2, 0, 0, 0}, {LPT_STATE, 1, 0, 2, 0, 0, 0}, {LPT_OUTPUT, 0, 0, 2, 0, 0, 0},
};
static const lpt_operand draws_operands[] = {{0, 0}, {1, 0}, {2, 0}};
static const lpt_step draws_steps[] = {{draw, "draw", LPT_CALL, 0, 3, 0, 1, 0, 1, 0}};
static const lpt_program draws_program = {
  .target = "test", .metadata = "{}", .outputs = draws_out, .output_slots = loop_slots, .buffers = draws_buffers,
  .operands = draws_operands, .steps = draws_steps, .env = loop_env, .n_outputs = 1,
  .n_buffers = LENGTH(draws_buffers), .n_operands = LENGTH(draws_operands), .n_steps = LENGTH(draws_steps),
  .n_env = LENGTH(loop_env), .max_operands = 3,
};

#endif

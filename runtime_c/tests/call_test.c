/* call_test.c: host calls and strings: registered functions, sizes they give, numbers for strings, failures. */
#define _GNU_SOURCE
#include "check.h"
#include "runtime.h"

#define LENGTH(array) (uint32_t)(sizeof(array) / sizeof *(array))

/* ---- program: y[K] = the strings of x[N] that "test::keep" keeps, then K twice and a constant --------------- */

enum { N = 2, N_BYTES, K, K_BYTES, ENV };

static void shape(int64_t *env) {
  env[N_BYTES] = 8 * env[N];
  env[K_BYTES] = 8 * env[K];
}

static void copy(void *const *b, const int64_t *d, void *s, int64_t lo, int64_t hi) {
  (void)d, (void)s;
  for (int64_t i = lo; i < hi; i++) ((int64_t *)b[1])[i] = ((const int64_t *)b[0])[i];
}

static const lepton_port in_ports[] = {{"x", LEPTON_STRING, 1, {-1}, NULL}};
static const lepton_port out_ports[] = {{"y", LEPTON_STRING, 1, {-1}, NULL}};
static const lpt_port_slots in_slots[] = {{{N}}}, out_slots[] = {{{K | LPT_SLOT_LATE}}};
static const int64_t env[ENV] = {0, 1};
static const lpt_symbol symbols[] = {{N, 0, 0, 0, 0, 0}};
static const lpt_buffer buffers[] = {
  {LPT_INPUT, 0, 0, N_BYTES, 0, 0, 0}, {LPT_WORKSPACE, 0, 0, K_BYTES, 0, 1, 0}, {LPT_OUTPUT, 0, 0, K_BYTES, 0, 0, 0},
};
static const lpt_operand operands[] = {{0, 0}, {1, 0}, {1, 0}, {2, 0}};
static const lpt_step steps[] = {
  {NULL, "keep:Keep_1", LPT_HOST_CALL, 0, 2, 0, 1, 0, 1, 0}, {copy, "copy", LPT_CALL, 2, 2, 0, K, 0, 1, 0},
};
static const lpt_call_tensor tensors[] = {
  {LEPTON_STRING, 1, {{N}}}, {0, 0, {{0}}}, {LEPTON_STRING, 1, {{K | LPT_SLOT_LATE}}},
};
static const uint32_t bound[] = {K};
static const lpt_host_call calls[] = {{"test::keep", "e", 1, tensors, bound, 2, 1, 1, 0}};
static const lepton_string words[] = {{NULL, 0}, {"end", 3}, {"a\0b", 3}};
static const char *const names[] = {"test::keep"};
#define PROGRAM                                                                                            \
  {                                                                                                        \
    .target = "test", .metadata = "{}", .inputs = in_ports, .outputs = out_ports, .input_slots = in_slots, \
    .output_slots = out_slots, .buffers = buffers, .operands = operands, .steps = steps, .symbols = symbols, \
    .env = env, .shape = shape, .calls = calls, .functions = names, .strings = words, .n_inputs = 1,       \
    .n_outputs = 1, .n_buffers = LENGTH(buffers), .n_operands = LENGTH(operands), .n_steps = LENGTH(steps), \
    .n_symbols = 1, .n_env = ENV, .n_calls = 1, .n_functions = 1, .n_strings = LENGTH(words), .max_operands = 2, \
  }
static const lpt_program program = PROGRAM;

/* ---- the function ----------------------------------------------------------------------------------------- */

typedef enum trouble {
  NONE, NO_RESIZE, TWICE, NEGATIVE, SAYS_SO, SILENT, ODD_STATUS, PASSES_OVER, WRONG_NUMBER
} trouble;

/* Keeps the strings that contain the attribute's letter, with '!' behind. */
static bool keeps(const lepton_call *call, lepton_string s) {
  for (size_t i = 0; i < s.size; i++)
    if (s.data[i] == *(const char *)call->attributes) return true;
  return false;
}

static lepton_status keep(lepton_call *call) {
  trouble what = *(const trouble *)call->context;
  const lepton_tensor *x = &call->inputs[0], *y = &call->outputs[0];
  const int64_t *numbers = x->data;
  CHECK(call->n_inputs == 2 && call->n_outputs == 1 && call->n_sizes == 1 && call->struct_size == sizeof *call);
  CHECK(!strcmp(call->name, "test::keep") && call->attributes_size == 1);
  CHECK(call->inputs[1].dtype == 0 && !call->inputs[1].data && !y->data && y->shape[0] == -1);
  int64_t count = 0;
  for (int64_t i = 0; i < x->shape[0]; i++) count += keeps(call, call->text(call, numbers[i]));
  if (what == NO_RESIZE) return LEPTON_OK;
  if (what == NEGATIVE) count = -1;
  if (what == SAYS_SO) return call->fail(call, LEPTON_DEVICE_ERROR, "the cat ate it");
  if (what == SILENT) return LEPTON_UNSUPPORTED;
  if (what == ODD_STATUS) return (lepton_status)77;
  lepton_status status = call->resize(call, &count);
  if (what == TWICE) status = call->resize(call, &count);
  if (what == PASSES_OVER) return call->resize(call, &count), LEPTON_OK;
  if (status) return status;
  CHECK(y->data && y->shape[0] == count);
  for (int64_t i = 0, k = 0; i < x->shape[0] && !status; i++) {
    lepton_string s = call->text(call, numbers[i]);
    char longer[64];
    if (!keeps(call, s)) continue;
    if (s.size) memcpy(longer, s.data, s.size);
    longer[s.size] = '!';
    status = call->intern(call, (lepton_string){longer, s.size + 1}, &((int64_t *)y->data)[k]);
    if (what == WRONG_NUMBER) ((int64_t *)y->data)[k] = k % 2 ? -7 : INT64_MAX;
    k++;
  }
  return status;
}

typedef struct ledger {
  int64_t granted, refuse_at, alive;
} ledger;

static void *ledger_allocate(void *context, size_t size, size_t alignment) {
  ledger *l = context;
  if (l->granted++ == l->refuse_at) return NULL;
  l->alive++;
  return aligned_alloc(alignment, size);
}

static void ledger_release(void *context, void *block) {
  ((ledger *)context)->alive--;
  free(block);
}

static lepton_status create(ledger *l, trouble *what, lepton_session **out_session) {
  lepton_registration functions[] = {{"test::other", keep, NULL}, {"test::keep", keep, what}};
  lepton_options options = {.struct_size = sizeof options, .threads = 2, .allocate = ledger_allocate,
                            .release = ledger_release, .context = l, .functions = functions, .n_functions = 2};
  return lpt_create(&program, NULL, &options, out_session);
}

static lepton_tensor strings(lepton_string *data, int64_t n) {
  return (lepton_tensor){.data = data, .dtype = LEPTON_STRING, .rank = 1, .shape = {n}};
}

static bool is(lepton_string s, const char *bytes, size_t size) { return s.size == size && !memcmp(s.data, bytes, size); }

static lepton_string given[] = {{"red", 3}, {NULL, 0}, {"green", 5}, {"e\0e", 3}, {"blu", 3}, {"red", 3}, {"end", 3}};

/* ---- tests ------------------------------------------------------------------------------------------------ */

static void functions_give_sizes_and_strings(void) {
  ledger l = {.refuse_at = -1};
  trouble what = NONE;
  lepton_session *session = NULL;
  CHECK(create(&l, &what, &session) == LEPTON_OK);
  int64_t warm = 0;
  for (int64_t round = 0; round < 30; round++) {
    int64_t n = (round * 5) % (int64_t)(LENGTH(given) + 1);
    lepton_tensor in = strings(given, n), out = {.data = NULL};
    CHECK(lpt_run(session, &in, &out) == LEPTON_OK);
    CHECK(out.dtype == LEPTON_STRING && out.rank == 1 && out.shape[0] == (n > 0) + (n > 2) + (n > 3) + (n > 5) + (n > 6));
    const lepton_string *got = out.data;
    if (n > 0) CHECK(is(got[0], "red!", 4));
    if (n > 3) CHECK(is(got[1], "green!", 6) && is(got[2], "e\0e!", 4));
    if (n > 6) CHECK(is(got[3], "red!", 4) && got[3].data == got[0].data && is(got[4], "end!", 4));
    if (round == 8) warm = l.granted;
  }
  CHECK(l.granted == warm); /* every size was seen by then */
  lpt_destroy(session);
  CHECK(l.alive == 0);
}

static void troubles_are_told(void) {
  static const struct {
    trouble what;
    lepton_status status;
    const char *words;
  } rows[] = {
    {NO_RESIZE, LEPTON_INVALID_ARGUMENT, "step 'keep:Keep_1': gave no sizes"},
    {TWICE, LEPTON_INVALID_ARGUMENT, "asks for sizes twice"},
    {NEGATIVE, LEPTON_INVALID_ARGUMENT, "a size that cannot be"},
    {SAYS_SO, LEPTON_DEVICE_ERROR, "step 'keep:Keep_1': the cat ate it"},
    {SILENT, LEPTON_UNSUPPORTED, "step 'keep:Keep_1': failed"},
    {ODD_STATUS, LEPTON_INVALID_ARGUMENT, "failed"},
    {PASSES_OVER, LEPTON_INVALID_ARGUMENT, "asks for sizes twice"},
  };
  ledger l = {.refuse_at = -1};
  trouble what = NONE;
  lepton_session *session = NULL;
  CHECK(create(&l, &what, &session) == LEPTON_OK);
  for (size_t i = 0; i < LENGTH(rows); i++) {
    lepton_tensor in = strings(given, LENGTH(given)), out = {.data = NULL};
    what = rows[i].what;
    CHECK(lpt_run(session, &in, &out) == rows[i].status && !out.data);
    CHECK_TEXT(lpt_message(session), rows[i].words);
    what = NONE;
    CHECK(lpt_run(session, &in, &out) == LEPTON_OK && out.shape[0] == 5); /* as good as new */
  }
  what = WRONG_NUMBER;
  lepton_tensor in = strings(given, LENGTH(given)), out = {.data = NULL};
  CHECK(lpt_run(session, &in, &out) == LEPTON_OK && ((lepton_string *)out.data)[1].size == 0);
  lepton_string holes[] = {{NULL, 3}};
  in = strings(holes, 1);
  CHECK(lpt_run(session, &in, &out) == LEPTON_INVALID_ARGUMENT);
  CHECK_TEXT(lpt_message(session), "input 'x': string 0 has 3 bytes and no data");
  lpt_destroy(session);
}

static void functions_must_be_registered(void) {
  lepton_session *session = NULL;
  lepton_api api;
  lpt_fill_api(&program, &api);
  CHECK(api.n_functions == 1 && !strcmp(api.functions[0], "test::keep"));
  CHECK(lpt_create(&program, NULL, NULL, &session) == LEPTON_INVALID_ARGUMENT);
  CHECK_TEXT(lpt_message(NULL), "the model calls 'test::keep', which is not among the registered functions");
  lepton_registration bad[] = {{"test::keep", NULL, NULL}};
  lepton_options options = {.struct_size = sizeof options, .functions = bad, .n_functions = 1};
  CHECK(lpt_create(&program, NULL, &options, &session) == LEPTON_INVALID_ARGUMENT);
  CHECK_TEXT(lpt_message(NULL), "function 0 lacks its name or its pointer");
  options.functions = NULL;
  CHECK(lpt_create(&program, NULL, &options, &session) == LEPTON_INVALID_ARGUMENT);
  options.struct_size = offsetof(lepton_options, functions); /* an older program: has none */
  CHECK(lpt_create(&program, NULL, &options, &session) == LEPTON_INVALID_ARGUMENT);
  CHECK_TEXT(lpt_message(NULL), "not among");
  CHECK(!session);
}

static void damaged_calls_are_refused(void) {
  lepton_session *session = NULL;
  lpt_program damaged = program;
  lpt_call_tensor rows[3];
  lpt_host_call call[1];
  lpt_step step[2];
  lepton_string text[3];
  uint32_t slots[1] = {K};
  trouble what = NONE;
  lepton_registration functions[] = {{"test::keep", keep, &what}};
  lepton_options options = {.struct_size = sizeof options, .functions = functions, .n_functions = 1};
#define REFUSED(change, words_)                                                  \
  do {                                                                           \
    memcpy(rows, tensors, sizeof rows), memcpy(call, calls, sizeof call);        \
    memcpy(step, steps, sizeof step), memcpy(text, words, sizeof text);          \
    damaged = program, damaged.calls = call, damaged.steps = step;               \
    damaged.strings = text, call->tensors = rows, call->bound = slots, *slots = K; \
    change;                                                                      \
    CHECK(lpt_create(&damaged, NULL, &options, &session) == LEPTON_INTERNAL);    \
    CHECK_TEXT(lpt_message(NULL), words_);                                       \
  } while (0)
  REFUSED(call->name = NULL, "call 0: lacks its name");
  REFUSED(call->name = "nothing", "no function 'nothing'");
  REFUSED(call->attributes = NULL, "call 0: lacks its name or attributes");
  REFUSED(rows[0].dtype = 99, "call 0: bad tensor");
  REFUSED(rows[2].dtype = 0, "call 0: bad tensor");
  REFUSED(rows[1].rank = 17, "call 0: bad tensor");
  REFUSED(rows[0].slots.slot[0] = ENV, "call 0: slot out of range");
  REFUSED(*slots = 1, "call 0: bad slot");
  REFUSED(rows[2].slots.slot[0] = K, "call 0: binds what is known");
  REFUSED(rows[1].dtype = LEPTON_F32, "step 0: does not fit its call");
  REFUSED(step->target = 1, "step 0: no such call");
  REFUSED(text[0] = given[0], "string 0: is not empty");
  REFUSED(text[1].data = NULL, "string 1: lacks its bytes");
  REFUSED(text[2] = text[1], "string 2 stands there twice");
  CHECK(!session);
}

static void every_allocation_may_fail(void) {
  int64_t at = 0;
  for (bool done = false; !done && at < 100; at++) {
    ledger l = {.refuse_at = at};
    trouble what = NONE;
    lepton_session *session = NULL;
    lepton_tensor in = strings(given, LENGTH(given)), out = {.data = NULL};
    lepton_status status = create(&l, &what, &session);
    if (!status && (status = lpt_run(session, &in, &out)) != LEPTON_OK) {
      CHECK(*lpt_message(session) && !out.data);
      CHECK(lpt_run(session, &in, &out) == LEPTON_OK && out.shape[0] == 5); /* memory is back */
    }
    CHECK(status == LEPTON_OK || status == LEPTON_OUT_OF_MEMORY);
    done = l.granted <= at;
    lpt_destroy(session);
    CHECK(l.alive == 0);
  }
  CHECK(at > 20 && at < 100);
}

/* Many strings: tables and chunks grow, and numbers stay what they were. */
static void tables_grow(void) {
  enum { MANY = 5000 };
  static lepton_string many[MANY];
  static char text[MANY][12];
  for (int i = 0; i < MANY; i++)
    many[i] = (lepton_string){text[i], (size_t)snprintf(text[i], sizeof text[i], "e%d", i % 4000)};
  ledger l = {.refuse_at = -1};
  trouble what = NONE;
  lepton_session *session = NULL;
  CHECK(create(&l, &what, &session) == LEPTON_OK);
  int64_t before = 0;
  for (int round = 0; round < 3; round++) {
    lepton_tensor in = strings(many, MANY), out = {.data = NULL};
    CHECK(lpt_run(session, &in, &out) == LEPTON_OK && out.shape[0] == MANY);
    const lepton_string *got = out.data;
    for (int i = 0; i < MANY; i++) {
      CHECK(got[i].size == many[i].size + 1 && !memcmp(got[i].data, many[i].data, many[i].size));
      CHECK(got[i].data == got[i % 4000].data);
    }
    if (round) CHECK(l.granted == before);
    before = l.granted;
  }
  lpt_destroy(session);
  CHECK(l.alive == 0);
}

int main(void) {
  RUN(functions_give_sizes_and_strings);
  RUN(troubles_are_told);
  RUN(functions_must_be_registered);
  RUN(damaged_calls_are_refused);
  RUN(every_allocation_may_fail);
  RUN(tables_grow);
  return failures != 0;
}

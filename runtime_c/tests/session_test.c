/* session_test.c: hand-written programs through the whole of lepton.h, right and wrong. */
#define _GNU_SOURCE
#include <pthread.h>

#include "check.h"
#include "programs.h"

/* What the code generator would define: the best program first, one that no machine can run before it. */
static const lpt_program impossible_program = {
  .target = "test-impossible", .cpu_features = (uint64_t)1 << 40, .inputs = static_in, .outputs = static_out,
  .input_slots = static_slots, .output_slots = static_slots, .env = static_env, .n_inputs = 1, .n_outputs = 1,
  .n_env = LENGTH(static_env),
};
static const lpt_program *const programs[] = {&impossible_program, &static_program, &dynamic_program};
static const uint32_t model_of[] = {0, 0, 1};
__attribute__((visibility("hidden"))) extern const lpt_artifact_table lpt_artifact;
const lpt_artifact_table lpt_artifact = {programs, 3, model_of, 2};

const lepton_api *lepton_query(uint32_t abi_version);

static lepton_tensor f32(const float *data, int32_t rank, int64_t d0, int64_t d1) {
  return (lepton_tensor){.data = (void *)(uintptr_t)data, .dtype = LEPTON_F32, .rank = rank, .shape = {d0, d1}};
}

static lepton_session *make(const lpt_program *program, uint32_t threads) {
  lepton_options options = {.struct_size = sizeof options, .threads = threads};
  lepton_session *session = NULL;
  CHECK(lpt_create(program, NULL, &options, &session) == LEPTON_OK);
  if (!session) exit(1);
  return session;
}

/* ---- runs that are right ------------------------------------------------------------------------------ */

static void the_table_gives_a_working_session(void) {
  CHECK(lepton_query(LEPTON_ABI_VERSION + 1) == NULL);
  const lepton_api *api = lepton_query(LEPTON_ABI_VERSION);
  CHECK(api && api == lepton_query(LEPTON_ABI_VERSION));
  CHECK(!strcmp(api->target, "test") && api->n_inputs == 1 && api->n_outputs == 1 && api->workspace_size == 64);
  lepton_session *session = NULL;
  CHECK(api->create(NULL, &session) == LEPTON_OK);
  float x[4] = {0, 1, 2, 3}, y[4] = {0};
  lepton_tensor in = f32(x, 1, 4, 0), out = f32(y, 1, 4, 0);
  CHECK(api->run(session, &in, &out) == LEPTON_OK && !*api->message(session));
  for (int i = 0; i < 4; i++) CHECK(y[i] == 2 * x[i] + 7);
  api->destroy(session);
  api->destroy(NULL);
}

static void a_file_of_two_models_gives_a_table_for_each(void) {
  const lepton_api *first = lepton_query(LEPTON_ABI_VERSION | LEPTON_MODEL(0));
  const lepton_api *second = lepton_query(LEPTON_ABI_VERSION | LEPTON_MODEL(1));
  CHECK(first == lepton_query(LEPTON_ABI_VERSION) && second && second != first);
  CHECK(second->n_inputs == dynamic_program.n_inputs && second->inputs == dynamic_program.inputs);
  CHECK(second->create != first->create);
  lepton_session *session = NULL;
  CHECK(second->create(NULL, &session) == LEPTON_OK);
  second->destroy(session);
  CHECK(lepton_query(LEPTON_ABI_VERSION | LEPTON_ON_CPU | LEPTON_MODEL(1))->inputs == second->inputs);
  for (uint32_t i = 2; i < 256; i++) CHECK(!lepton_query(LEPTON_ABI_VERSION | LEPTON_MODEL(i)));
  CHECK(!lepton_query(LEPTON_ABI_VERSION | 4u << 16));
}

static void an_output_without_memory_gets_the_sessions(void) {
  lepton_session *session = make(&static_program, 2);
  float x[4] = {0, 1, 2, 3};
  lepton_tensor in = f32(x, 1, 4, 0), out = {.data = NULL};
  CHECK(lpt_run(session, &in, &out) == LEPTON_OK);
  CHECK(out.data && out.dtype == LEPTON_F32 && out.rank == 1 && out.shape[0] == 4 && ((float *)out.data)[3] == 13);
  lepton_tensor back = out; /* its result as its input: where the next result would be written */
  CHECK(lpt_run(session, &back, &out) == LEPTON_INVALID_ARGUMENT);
  CHECK_TEXT(lpt_message(session), "input 'x' lies in memory that the session lent for output 'y' until this call");
  lepton_tensor own = f32(x, 1, 4, 0);
  CHECK(lpt_run(session, &back, &own) == LEPTON_OK && x[3] == 2 * 13 + 7);
  lpt_destroy(session);
}

static void check_dynamic(lepton_session *session, int64_t n, int64_t m) {
  float a[64], b[8], y[64];
  for (int i = 0; i < n * m; i++) a[i] = (float)i;
  for (int i = 0; i < m; i++) b[i] = (float)(100 * i);
  lepton_tensor in[] = {f32(a, 2, n, m), f32(b, 1, m, 0)}, out = f32(y, 2, n, m), want = {.rank = 0};
  CHECK(lpt_resolve(session, in, &want) == LEPTON_OK);
  CHECK(want.dtype == LEPTON_F32 && want.rank == 2 && want.shape[0] == n && want.shape[1] == m && !want.data);
  for (int round = 0; round < 2; round++) {
    memset(y, 0xff, sizeof y);
    CHECK(lpt_run(session, in, &out) == LEPTON_OK);
    for (int i = 0; i < n * m; i++) CHECK(y[i] == 2 * a[i] + b[i % m]);
  }
}

static void dynamic_shapes_come_and_go(void) {
  static const int64_t shapes[][2] = {{1, 2}, {8, 8}, {3, 4}, {1, 2}, {0, 4}, {5, 6}, {7, 0}, {8, 8}};
  for (uint32_t threads = 1; threads <= 3; threads++) {
    lepton_session *session = make(&dynamic_program, threads);
    for (size_t i = 0; i < LENGTH(shapes); i++) check_dynamic(session, shapes[i][0], shapes[i][1]);
    lpt_destroy(session);
  }
}

static void check_loop(const lpt_program *program) {
  lepton_session *session = make(program, 1);
  for (int64_t n = 0; n < 20; n++) {
    int64_t total = -1;
    lepton_tensor in = {.data = &n, .dtype = LEPTON_I64}, out = {.data = &total, .dtype = LEPTON_I64};
    CHECK(lpt_run(session, &in, &out) == LEPTON_OK && total == n * (n + 1) / 2);
  }
  lpt_destroy(session);
}

static void loops_jump(void) { check_loop(&loop_program); }

static void rounds_are_counted(void) { check_loop(&rounds_program); }

static void late_sizes_are_found_while_running(void) {
  lepton_session *session = make(&late_program, 2);
  float x[8] = {1, -1, 2, -2, 3, -3, 4, 5};
  for (int64_t n = 0; n <= 8; n++) {
    lepton_tensor in = f32(x, 1, n, 0), out = {.data = NULL};
    CHECK(lpt_resolve(session, &in, &out) == LEPTON_OK && out.shape[0] == -1);
    CHECK(lpt_run(session, &in, &out) == LEPTON_OK);
    int64_t k = 0;
    for (int64_t i = 0; i < n; i++)
      if (x[i] > 0) CHECK(k < out.shape[0] && ((float *)out.data)[k++] == 2 * x[i]);
    CHECK(out.shape[0] == k && out.rank == 1 && out.dtype == LEPTON_F32 && out.data);
  }
  lepton_tensor in = f32(x, 1, 8, 0), own = f32(x, 1, 5, 0);
  CHECK(lpt_run(session, &in, &own) == LEPTON_INVALID_ARGUMENT);
  CHECK_TEXT(lpt_message(session), "output 'y': its size depends on the data");
  float many[7] = {1, 1, 1, 1, 1, 1, 1};
  lepton_tensor too_many = f32(many, 1, 7, 0), out = {.data = NULL};
  CHECK(lpt_run(session, &too_many, &out) == LEPTON_INVALID_ARGUMENT && !out.data);
  CHECK_TEXT(lpt_message(session), "node 'pick': at most 5 (1 against 0)");
  CHECK(lpt_run(session, &in, &out) == LEPTON_OK && out.shape[0] == 5);
  lpt_destroy(session);
}

static void steps_are_timed(void) {
  lepton_session *session = make(&static_program, 1);
  float x[4] = {0}, y[4];
  lepton_tensor in = f32(x, 1, 4, 0), out = f32(y, 1, 4, 0);
  const lepton_step_time *steps = NULL;
  size_t count = 99;
  CHECK(lpt_profile(session, 0, &steps, &count) == LEPTON_OK && !steps && count == 0);
  CHECK(lpt_profile(session, 1, &steps, &count) == LEPTON_OK && steps && count == 2);
  for (int i = 0; i < 3; i++) CHECK(lpt_run(session, &in, &out) == LEPTON_OK);
  CHECK(steps[0].calls == 3 && !strcmp(steps[0].name, "twice") && steps[1].calls == 3);
  CHECK(lpt_profile(session, 0, NULL, NULL) == LEPTON_OK && lpt_run(session, &in, &out) == LEPTON_OK);
  CHECK(steps[0].calls == 3);
  CHECK(lpt_profile(session, 1, NULL, NULL) == LEPTON_OK && steps[0].calls == 0 && steps[0].nanoseconds == 0);
  lpt_destroy(session);
}

/* ---- arguments that are wrong --------------------------------------------------------------------------- */

static void wrong_inputs_are_named(void) {
  lepton_session *session = make(&dynamic_program, 1);
  float a[64] = {0}, b[64] = {0}, y[64];
  lepton_tensor good[] = {f32(a, 2, 2, 4), f32(b, 1, 4, 0)}, out = f32(y, 2, 2, 4);
  struct {
    lepton_tensor a, b;
    const char *message;
  } rows[] = {
    {f32(a, 1, 8, 0), good[1], "input 'a': expected f32[N,M], got f32[8]"},
    {{a, LEPTON_I32, 2, 0, {2, 4}}, good[1], "input 'a': expected f32[N,M], got i32[2,4]"},
    {{a, (lepton_dtype)99, 2, 0, {2, 4}}, good[1], "got dtype 99[2,4]"},
    {{a, LEPTON_F32, 17, 0, {2, 4}}, good[1], "got f32 of rank 17"},
    {{a, LEPTON_F32, -1, 0, {2, 4}}, good[1], "got f32 of rank -1"},
    {f32(a, 2, -2, 4), good[1], "got f32[-2,4]"},
    {good[0], f32(b, 1, 6, 0), "input 'b': expected f32[M=4], got f32[6]"},
    {f32(a, 2, 2, 3), f32(b, 1, 3, 0), "node 'halve': M must be even (1 against 0)"},
    {f32(NULL, 2, 2, 4), good[1], "input 'a': data is NULL"},
    {f32((float *)((char *)a + 2), 2, 2, 4), good[1], "is not aligned to 4 bytes"},
    {f32(a, 2, INT64_MAX, 4), good[1], "is larger than memory can be"},
    {{a, LEPTON_F32, 2, LEPTON_CUDA, {2, 4}}, good[1], "input 'a' lies on a GPU; the model was compiled for test"},
    {{a, LEPTON_F32, 2, 7, {2, 4}}, good[1], "input 'a': unknown device 7"},
    {f32(a, 2, 0, INT64_MAX), good[1], "is larger than memory can be"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    lepton_tensor in[] = {rows[i].a, rows[i].b};
    CHECK(lpt_run(session, in, &out) == LEPTON_INVALID_ARGUMENT);
    CHECK_TEXT(lpt_message(session), rows[i].message);
    CHECK(lpt_run(session, good, &out) == LEPTON_OK); /* as good as new */
  }
  lpt_destroy(session);
}

static void wrong_outputs_are_named(void) {
  lepton_session *session = make(&static_program, 1);
  float x[8] = {0}, y[8] = {0};
  lepton_tensor in = f32(x, 1, 4, 0);
  struct {
    lepton_tensor y;
    const char *message;
  } rows[] = {
    {f32(y, 1, 5, 0), "output 'y': expected f32[4], got f32[5]"},
    {{y, LEPTON_F64, 1, 0, {4}}, "output 'y': expected f32[4], got f64[4]"},
    {f32(y, 2, 4, 1), "output 'y': expected f32[4], got f32[4,1]"},
    {f32((float *)((char *)y + 1), 1, 4, 0), "is not aligned to 4 bytes"},
    {f32(x + 3, 1, 4, 0), "output 'y': its memory overlaps 'x'"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    lepton_tensor out = rows[i].y;
    CHECK(lpt_run(session, &in, &out) == LEPTON_INVALID_ARGUMENT);
    CHECK_TEXT(lpt_message(session), rows[i].message);
  }
  lepton_tensor beside = f32(x + 4, 1, 4, 0);
  CHECK(lpt_run(session, &in, &beside) == LEPTON_OK);
  lpt_destroy(session);
}

static void nulls_are_refused(void) {
  lepton_session *session = NULL;
  lepton_tensor tensor = {.data = NULL};
  CHECK(lpt_create(&static_program, NULL, NULL, NULL) == LEPTON_INVALID_ARGUMENT);
  CHECK_TEXT(lpt_message(NULL), "out_session is NULL");
  CHECK(lpt_run(NULL, &tensor, &tensor) == LEPTON_INVALID_ARGUMENT);
  CHECK(lpt_resolve(NULL, &tensor, &tensor) == LEPTON_INVALID_ARGUMENT);
  CHECK(lpt_profile(NULL, 1, NULL, NULL) == LEPTON_INVALID_ARGUMENT);
  session = make(&static_program, 1);
  CHECK(lpt_run(session, NULL, &tensor) == LEPTON_INVALID_ARGUMENT);
  CHECK_TEXT(lpt_message(session), "inputs is NULL");
  float x[4] = {0};
  lepton_tensor in = f32(x, 1, 4, 0);
  CHECK(lpt_run(session, &in, NULL) == LEPTON_INVALID_ARGUMENT);
  CHECK_TEXT(lpt_message(session), "outputs is NULL");
  CHECK(lpt_resolve(session, &in, NULL) == LEPTON_INVALID_ARGUMENT);
  lpt_destroy(session);
}

static void *unused_allocate(void *context, size_t size, size_t alignment) {
  (void)context, (void)size, (void)alignment;
  return NULL;
}

static void wrong_options_are_refused(void) {
  lepton_session *session = NULL;
  lepton_options small = {.struct_size = 4}, half = {.struct_size = sizeof half, .allocate = unused_allocate};
  CHECK(lpt_create(&static_program, NULL, &small, &session) == LEPTON_INVALID_ARGUMENT);
  CHECK_TEXT(lpt_message(NULL), "struct_size is 4");
  CHECK(lpt_create(&static_program, NULL, &half, &session) == LEPTON_INVALID_ARGUMENT);
  CHECK_TEXT(lpt_message(NULL), "together");
  CHECK(lpt_create(&static_program, (const uint8_t *)static_weights + 4, NULL, &session) == LEPTON_INVALID_ARGUMENT);
  CHECK_TEXT(lpt_message(NULL), "aligned to 64");
  CHECK(!session);
}

static void a_wrong_machine_is_unsupported(void) {
  lepton_session *session = NULL;
  CHECK(lpt_create(&impossible_program, NULL, NULL, &session) == LEPTON_UNSUPPORTED && !session);
  CHECK_TEXT(lpt_message(NULL), "compiled for test-impossible; this machine lacks features 0x10000000000");
}

/* ---- memory -------------------------------------------------------------------------------------------- */

typedef struct ledger {
  int64_t granted, refuse_at, alive; /* refuse_at: which request fails; -1: none */
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

/* create, run with the session's outputs, profile, destroy. The run is repeated after a failure. */
static bool whole_life(const lpt_program *program, const lepton_tensor *inputs, ledger *l) {
  lepton_options options = {.struct_size = sizeof options, .threads = 1, .allocate = ledger_allocate,
                            .release = ledger_release, .context = l};
  lepton_session *session = NULL;
  lepton_status status = lpt_create(program, NULL, &options, &session);
  if (status) {
    CHECK(status == LEPTON_OUT_OF_MEMORY && !session && *lpt_message(NULL));
    return false;
  }
  lepton_tensor out = {.data = NULL};
  bool failed = (status = lpt_run(session, inputs, &out)) != LEPTON_OK;
  if (!status) failed = (status = lpt_profile(session, 1, NULL, NULL)) != LEPTON_OK;
  if (failed) {
    CHECK(status == LEPTON_OUT_OF_MEMORY && *lpt_message(session));
    out.data = NULL;
    CHECK(lpt_run(session, inputs, &out) == LEPTON_OK && out.data); /* memory is back: so is the session */
  }
  void *lent = out.data;
  int64_t before = l->granted;
  CHECK(lpt_run(session, inputs, &out) == LEPTON_OK && l->granted == before && out.data == lent);
  lpt_destroy(session);
  return !failed;
}

static void every_allocation_may_fail(void) {
  float x[8] = {1, -1, 2, -2, 3, -3, 4, 5};
  int64_t n = 3;
  struct {
    const lpt_program *program;
    lepton_tensor inputs[2];
  } rows[] = {
    {&static_program, {f32(x, 1, 4, 0)}},
    {&dynamic_program, {f32(x, 2, 2, 4), f32(x, 1, 4, 0)}},
    {&loop_program, {{.data = &n, .dtype = LEPTON_I64}}},
    {&late_program, {f32(x, 1, 8, 0)}},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    int64_t at = 0;
    for (bool done = false; !done && at < 100; at++) {
      ledger l = {.refuse_at = at};
      done = whole_life(rows[i].program, rows[i].inputs, &l);
      CHECK(l.alive == 0);
      CHECK(done == (l.granted <= at)); /* every refusal was seen */
    }
    CHECK(at > 8 && at < 100);
  }
}

/* ---- threads ------------------------------------------------------------------------------------------- */

static void *run_dynamic(void *argument) {
  lepton_session *session = make(&dynamic_program, 2);
  for (int i = 0; i < 100; i++) check_dynamic(session, 1 + i % 8, 2 + 2 * (i % 3));
  lpt_destroy(session);
  return argument;
}

static void sessions_run_side_by_side(void) {
  pthread_t threads[4];
  for (int i = 0; i < 4; i++) CHECK(!pthread_create(&threads[i], NULL, run_dynamic, NULL));
  for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
}

/* ---- state that outlives a run ---------------------------------------------------------------------------- */

static int64_t drawn(lepton_session *session) {
  int64_t y = -1;
  lepton_tensor out = {.data = &y, .dtype = LEPTON_I64};
  CHECK(lpt_run(session, NULL, &out) == LEPTON_OK);
  return y;
}

static void draws_follow_the_seed(void) {
  lepton_session *one = make(&draws_program, 1), *two = make(&draws_program, 1);
  CHECK(drawn(one) == 700 && drawn(one) == 701 && drawn(two) == 700);
  CHECK(lpt_seed(one, 3) == LEPTON_OK && drawn(one) == 300 && drawn(one) == 301 && drawn(two) == 701);
  CHECK(lpt_seed(NULL, 3) == LEPTON_INVALID_ARGUMENT);
  lpt_destroy(one), lpt_destroy(two);
  lpt_buffer buffers[3] = {draws_buffers[0], draws_buffers[1], draws_buffers[2]};
  lpt_program damaged = draws_program;
  damaged.buffers = buffers, buffers[1].index = 3;
  CHECK(lpt_create(&damaged, NULL, NULL, &one) == LEPTON_INTERNAL);
  CHECK_TEXT(lpt_message(NULL), "buffer 1: no such state");
}

int main(void) {
  RUN(the_table_gives_a_working_session);
  RUN(a_file_of_two_models_gives_a_table_for_each);
  RUN(an_output_without_memory_gets_the_sessions);
  RUN(dynamic_shapes_come_and_go);
  RUN(loops_jump);
  RUN(rounds_are_counted);
  RUN(late_sizes_are_found_while_running);
  RUN(steps_are_timed);
  RUN(wrong_inputs_are_named);
  RUN(wrong_outputs_are_named);
  RUN(nulls_are_refused);
  RUN(wrong_options_are_refused);
  RUN(a_wrong_machine_is_unsupported);
  RUN(every_allocation_may_fail);
  RUN(sessions_run_side_by_side);
  RUN(draws_follow_the_seed);
  return failures != 0;
}

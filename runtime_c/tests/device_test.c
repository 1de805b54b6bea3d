/* device_test.c: CUDA programs on the fake driver (fakecuda/): every kind of step, threads, and each call of the driver
 * failing in its turn. IMAGES is the folder of the driver, the kernels and their image. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "cuda.h"
#include "programs.h"

enum { ILLEGAL_ADDRESS = 700, NO_DEVICE = 100, MOST_STEPS = 8, ROUNDS = 5 };

/* ---- the fake driver ---------------------------------------------------------------------------------- */

static void (*counts)(long long *row);
static void (*set)(int capability, int devices, size_t memory);
static long long (*fail)(const char *function, long long nth, int result);

static void *symbol(const char *name) {
  static void *library;
  if (!library) library = dlopen(IMAGES "/libfakecuda.so", RTLD_NOW);
  void *found = library ? dlsym(library, name) : NULL;
  if (!found) {
    fprintf(stderr, "no %s: %s\n", name, dlerror());
    exit(1);
  }
  return found;
}

static void find_driver(void) {
  *(void **)&counts = symbol("fakecuda_counts");
  *(void **)&set = symbol("fakecuda_set");
  *(void **)&fail = symbol("fakecuda_fail");
  CHECK(!setenv("LEPTON_LIBCUDA", IMAGES "/libfakecuda.so", 1) && !setenv("LEPTON_FAKECUDA", IMAGES, 1));
}

static void all_as_usual(void) {
  fail("", 0, 0);
  set(90, 1, (size_t)1 << 30);
}

static long long lost[2]; /* allocations and handles that nobody can free any more */

/* `may_lose`: the driver refused to take something back. */
static void nothing_is_left(const char *after, long long number, bool may_lose) {
  long long row[6]; /* allocations, their bytes, handles, ... */
  counts(row);
  if (may_lose) lost[0] = row[0], lost[1] = row[2];
  if (row[0] == lost[0] && row[2] == lost[1]) return;
  fprintf(stderr, "after %s %lld: %lld allocations and %lld handles are left\n", after, number, row[0], row[2]);
  exit(1); /* whatever comes next would fail for the same reason */
}

/* ---- programs.h's programs for a GPU -------------------------------------------------------------------- */

static const lpt_cuda_image images[] = {{IMAGE, sizeof IMAGE, 90, LPT_CUBIN_EXACT}};
static const struct { lpt_kernel kernel; lpt_cuda_kernel row; } rows[] = {
  {twice_by_scratch, {"twice_by_scratch", 128, 128, 0, 0, 2, 0, 1, 0}}, {add, {"add", 128, 2, 512, 0, 3, 1, 0, 0}},
  {twice, {"twice", 64, 1, 0, 2, 2, 0, 0, 0}}, {start, {"start", 32, 32, 0, 0, 3, 0, 0, 0}},
  {positive, {"positive", 32, 32, 0, 0, 2, 0, 0, 0}}, {body, {"body", 32, 32, 0, 0, 2, 0, 0, 0}},
  {count_positive, {"count_positive", 32, 32, 50000, 0, 2, 1, 0, 0}},
  {pick_positive, {"pick_positive", 32, 32, 0, 0, 2, 1, 0, 0}}, {draw, {"draw", 32, 32, 0, 0, 3, 0, 0, 0}},
};
static lpt_cuda_kernel kernels[LENGTH(rows)];

/* The positive ones of a tensor: a function on the CPU that gives the size of its result. */
static lepton_status positives(lepton_call *call) {
  const float *x = call->inputs[0].data;
  int64_t k = 0;
  for (int64_t i = 0; i < call->inputs[0].shape[0]; i++) k += x[i] > 0;
  lepton_status status = call->resize(call, &k);
  if (status) return status;
  float *y = call->outputs[0].data;
  for (int64_t i = 0; i < call->inputs[0].shape[0]; i++)
    if (x[i] > 0) *y++ = x[i];
  return LEPTON_OK;
}

static const lpt_call_tensor call_tensors[] = {{LEPTON_F32, 1, {{LATE_N}}}, {LEPTON_F32, 1, {{LATE_K | LPT_SLOT_LATE}}}};
static const uint32_t call_bound[] = {LATE_K};
static const lpt_host_call host_calls[] = {{"test::positives", "", 0, call_tensors, call_bound, 1, 1, 1, 0}};
static const char *const call_names[] = {"test::positives"};
static const lpt_buffer call_buffers[] = {
  {LPT_INPUT, 0, 0, LATE_N_BYTES, 0, 0, 0}, {LPT_WORKSPACE, 0, 0, LATE_K_BYTES, 0, 1, 0},
  {LPT_OUTPUT, 0, 0, LATE_K_BYTES, 0, 0, 0},
};
static const lpt_operand call_operands[] = {{0, 0}, {1, 0}, {1, 0}, {2, 0}};
static const lpt_step call_steps[] = {
  {NULL, "positives", LPT_HOST_CALL, 0, 2, 0, 1, 0, 1, 0}, {twice, "twice", LPT_CALL, 2, 2, 0, LATE_K, 0, 1, 0},
};

static lpt_program call_program(void) {
  lpt_program p = late_program;
  p.buffers = call_buffers, p.operands = call_operands, p.steps = call_steps, p.guards = NULL;
  p.calls = host_calls, p.functions = call_names, p.n_calls = p.n_functions = 1, p.n_guards = 0;
  p.n_buffers = LENGTH(call_buffers), p.n_operands = LENGTH(call_operands), p.n_steps = LENGTH(call_steps);
  return p;
}

static lepton_tensor tensor(lepton_dtype dtype, const void *data, int16_t rank, int64_t d0, int64_t d1) {
  return (lepton_tensor){.data = (void *)(uintptr_t)data, .dtype = dtype, .rank = rank, .shape = {d0, d1}};
}

static lepton_status run_static(lepton_session *s, int round) {
  float x[4] = {0, 1, 2, (float)round}, y[4] = {0};
  lepton_tensor in = tensor(LEPTON_F32, x, 1, 4, 0), out = tensor(LEPTON_F32, y, 1, 4, 0);
  lepton_status status = lpt_run(s, &in, &out);
  for (int i = 0; i < 4 && !status; i++) CHECK(y[i] == 2 * x[i] + 7);
  return status;
}

static lepton_status run_dynamic(lepton_session *s, int round) {
  static const int64_t shapes[ROUNDS][2] = {{8, 8}, {3, 4}, {3, 4}, {0, 4}, {3, 4}};
  int64_t n = shapes[round][0], m = shapes[round][1];
  float a[64], b[8], y[64];
  for (int i = 0; i < 64; i++) a[i] = (float)(i + round), b[i % 8] = (float)(100 * i);
  lepton_tensor in[] = {tensor(LEPTON_F32, a, 2, n, m), tensor(LEPTON_F32, b, 1, m, 0)};
  lepton_tensor out = tensor(LEPTON_F32, y, 2, n, m), described;
  lepton_status status = lpt_resolve(s, in, &described);
  if (!status) status = lpt_run(s, in, &out);
  for (int i = 0; i < n * m && !status; i++) CHECK(y[i] == 2 * a[i] + b[i % m]);
  return status;
}

static lepton_status run_loop(lepton_session *s, int round) {
  int64_t n = round, total = -1;
  lepton_tensor in = tensor(LEPTON_I64, &n, 0, 0, 0), out = tensor(LEPTON_I64, &total, 0, 0, 0);
  lepton_status status = lpt_run(s, &in, &out);
  if (!status) CHECK(total == n * (n + 1) / 2);
  return status;
}

static lepton_status run_late(lepton_session *s, int round) {
  const float x[8] = {1, -1, 2, -2, 3, -3, 4, 5};
  lepton_tensor in = tensor(LEPTON_F32, x, 1, 2 * round, 0), out = {.data = NULL};
  lepton_status status = lpt_run(s, &in, &out);
  for (int64_t i = 0, k = 0; i < 2 * round && !status; i++)
    if (x[i] > 0) CHECK(k < out.shape[0] && ((float *)out.data)[k++] == 2 * x[i]);
  if (status) CHECK(!out.data);
  return status;
}

static lepton_status run_draws(lepton_session *s, int round) {
  int64_t y = 0;
  lepton_tensor out = tensor(LEPTON_I64, &y, 0, 0, 0);
  lepton_status status = lpt_seed(s, (uint64_t)round);
  if (!status) status = lpt_run(s, NULL, &out);
  if (!status) CHECK(y == 100 * round);
  return status;
}

typedef struct device_program {
  lpt_program program;
  lepton_status (*run)(lepton_session *session, int round);
  lpt_step steps[MOST_STEPS];
} device_program;

static device_program programs[7];

static void make(device_program *d, const lpt_program *p, lepton_status (*run)(lepton_session *, int)) {
  d->program = *p, d->run = run;
  d->program.kind = LPT_CUDA, d->program.steps = d->steps, d->program.images = images, d->program.kernels = kernels;
  d->program.n_images = 1, d->program.n_kernels = LENGTH(rows);
  memcpy(d->steps, p->steps, p->n_steps * sizeof *p->steps);
  for (uint32_t i = 0; i < p->n_steps; i++)
    for (uint32_t k = 0; k < LENGTH(rows) && d->steps[i].kernel; k++)
      if (rows[k].kernel == p->steps[i].kernel) d->steps[i].kernel = NULL, d->steps[i].target = k;
}

static void make_programs(void) {
  lpt_program calls = call_program();
  for (uint32_t k = 0; k < LENGTH(rows); k++) kernels[k] = rows[k].row;
  make(&programs[0], &static_program, run_static);
  make(&programs[1], &dynamic_program, run_dynamic);
  make(&programs[2], &loop_program, run_loop);
  make(&programs[3], &late_program, run_late);
  make(&programs[4], &draws_program, run_draws);
  make(&programs[5], &calls, run_late);
  make(&programs[6], &rounds_program, run_loop);
}

/* ---- a session's life ------------------------------------------------------------------------------------- */

typedef struct ledger {
  int64_t granted, refuse_at, alive;
} ledger;

static void *ledger_allocate(void *context, size_t size, size_t alignment) {
  ledger *l = context;
  if (l->granted++ == l->refuse_at) return NULL;
  l->alive++;
  return aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
}

static void ledger_release(void *context, void *block) {
  ((ledger *)context)->alive--;
  free(block);
}

static bool passed; /* a planned failure had happened when the last life's session was ended */

/* Create, runs, one of them timed. The first failure's status, its words in `message`; what comes behind it in the same
 * session must go well, unless the device itself is `broken`. */
static lepton_status live(const device_program *d, ledger *l, bool broken, char *message, size_t size) {
  const lepton_registration function = {"test::positives", positives, NULL};
  lepton_options options = {.struct_size = sizeof options, .functions = &function, .n_functions = 1};
  if (l) options.allocate = ledger_allocate, options.release = ledger_release, options.context = l;
  lepton_session *session = NULL;
  lepton_status first = lpt_create(&d->program, NULL, &options, &session);
  if (first) return snprintf(message, size, "%s", lpt_message(NULL)), first;
  for (int round = 0; round < ROUNDS; round++) {
    lepton_status status = lpt_profile(session, round == ROUNDS - 1, NULL, NULL);
    if (!status) status = d->run(session, round);
    if (status && first && !broken) fprintf(stderr, "round %d: %s\n", round, lpt_message(session)), failures++;
    if (status && !first) first = status, snprintf(message, size, "%s", lpt_message(session));
  }
  passed = fail(NULL, 0, 0) <= 0;
  lpt_destroy(session);
  return first;
}

static lepton_status usual(const device_program *d) {
  char message[LPT_MESSAGE_SIZE] = "";
  lepton_status status = live(d, NULL, false, message, sizeof message);
  if (status) fprintf(stderr, "%s\n", message);
  return status;
}

/* ---- tests ---------------------------------------------------------------------------------------------------- */

/* The driver is asked for once in a process: each of these starts in one of its own. */
static void in_a_process(void (*test)(const char *), const char *argument) {
  int status = -1;
  fflush(NULL);
  pid_t child = fork();
  if (child == 0) {
    failures = 0;
    test(argument);
    _exit(failures != 0);
  }
  CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0);
}

static void refused(const char *words) {
  lepton_session *session = NULL;
  CHECK(lpt_create(&programs[0].program, NULL, NULL, &session) == LEPTON_UNSUPPORTED && !session);
  CHECK_TEXT(lpt_message(NULL), "needs an NVIDIA GPU: ");
  CHECK_TEXT(lpt_message(NULL), words);
}

static void without(const char *function) {
  fail(function, 1, NO_DEVICE);
  refused("CUDA_ERROR_NO_DEVICE: as the fake driver says");
}

static void with_another_library(const char *name) {
  CHECK(!setenv("LEPTON_LIBCUDA", name, 1));
  refused("the CUDA driver has no cuInit: it is older than CUDA 12");
}

static void with_an_old_device(const char *unused) {
  lepton_session *session = NULL;
  (void)unused;
  set(80, 1, (size_t)1 << 30);
  CHECK(lpt_create(&programs[0].program, NULL, NULL, &session) == LEPTON_UNSUPPORTED);
  CHECK_TEXT(lpt_message(NULL), "compiled for test (compute capability 9.0 alone); this GPU, Fake GPU, has 8.0");
}

static void a_driver_that_does_not_start_is_told(void) {
  static const char *const functions[] = {"cuInit", "cuDeviceGetCount", "cuDeviceGet", "cuDeviceGetName",
                                          "cuDeviceGetAttribute", "cuDevicePrimaryCtxRetain"};
  for (size_t i = 0; i < LENGTH(functions); i++) in_a_process(without, functions[i]);
  in_a_process(with_another_library, "libm.so.6");
  in_a_process(with_an_old_device, NULL);
}

static void programs_run(void) {
  for (size_t i = 0; i < LENGTH(programs); i++) CHECK(usual(&programs[i]) == LEPTON_OK);
  nothing_is_left("runs", 0, false);
}

/* What is refused when a session ends is lost, and nobody is there to be told. */
static bool may_lose(const char *function) {
  return strstr(function, "Destroy") || strstr(function, "Free") || strstr(function, "Unload") || !passed;
}

/* Graphs are not needed, nor launches that would be recorded in one. */
static bool may_pass(const char *function) {
  return may_lose(function) || strstr(function, "Capture") || strstr(function, "Graph") ||
         strstr(function, "Launch");
}

static void fail_each(const device_program *d, const char *function) {
  for (long long nth = 1; nth < 1000; nth++) {
    char message[LPT_MESSAGE_SIZE] = "";
    fail(function, nth, ILLEGAL_ADDRESS);
    bool broken = !strcmp(function, "kernel") || strstr(function, "Synchronize");
    lepton_status status = live(d, NULL, broken, message, sizeof message);
    long long left = fail("", 0, 0);
    set(90, 1, (size_t)1 << 30); /* and what is broken is whole again */
    if (left > 0) return;
    if (status) CHECK_TEXT(message, "CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access");
    if (!status && !may_pass(function)) fprintf(stderr, "%s %lld: passed over\n", function, nth), failures++;
    nothing_is_left(function, nth, !status && may_lose(function));
  }
  CHECK(!"ends");
}

static void every_call_of_the_driver_may_fail(void) {
  static const char *const functions[] = {
#define LPT_NAME(field, symbol, parameters) symbol,
    LPT_CUDA_FUNCTIONS(LPT_NAME)
#undef LPT_NAME
    "kernel"};
  for (size_t i = 0; i < LENGTH(functions); i++)
    for (size_t k = 0; k < LENGTH(programs); k++) fail_each(&programs[k], functions[i]);
  for (size_t k = 0; k < LENGTH(programs); k++) CHECK(usual(&programs[k]) == LEPTON_OK);
}

static void memory_may_end_anywhere(void) {
  for (size_t k = 0; k < LENGTH(programs); k++)
    for (size_t limit = 0, good = 0; limit < 4096 && good < 3; limit += 16) {
      char message[LPT_MESSAGE_SIZE] = "";
      set(90, 1, limit);
      lepton_status status = live(&programs[k], NULL, true, message, sizeof message);
      CHECK(status == LEPTON_OK || status == LEPTON_OUT_OF_MEMORY);
      if (status) CHECK_TEXT(message, "out of memory");
      good += status == LEPTON_OK;
      nothing_is_left("little memory", (long long)limit, false);
    }
  all_as_usual();
}

static void memory_of_the_host_may_end_anywhere(void) {
  for (size_t k = 0; k < LENGTH(programs); k++)
    for (int64_t at = 0;; at++) {
      char message[LPT_MESSAGE_SIZE] = "";
      ledger l = {.refuse_at = at};
      lepton_status status = live(&programs[k], &l, true, message, sizeof message);
      CHECK(l.alive == 0 && (status == LEPTON_OK || status == LEPTON_OUT_OF_MEMORY));
      nothing_is_left("a refusal", at, false);
      if (l.granted <= at) break;
      if (status) CHECK_TEXT(message, "memory");
    }
}

static void *work(void *context) {
  uintptr_t number = (uintptr_t)context;
  lepton_status status = LEPTON_OK;
  for (uintptr_t turn = 0; turn < 12 && !status; turn++) status = usual(&programs[(number + turn) % LENGTH(programs)]);
  return (void *)(uintptr_t)status;
}

static void sessions_run_in_threads(void) {
  pthread_t threads[4];
  void *status = NULL;
  for (uintptr_t i = 0; i < LENGTH(threads); i++) CHECK(!pthread_create(&threads[i], NULL, work, (void *)i));
  for (size_t i = 0; i < LENGTH(threads); i++) CHECK(!pthread_join(threads[i], &status) && !status);
  nothing_is_left("threads", 0, false);
}

int main(void) {
  find_driver();
  make_programs();
  RUN(a_driver_that_does_not_start_is_told);
  RUN(programs_run);
  RUN(every_call_of_the_driver_may_fail);
  RUN(memory_may_end_anywhere);
  RUN(memory_of_the_host_may_end_anywhere);
  RUN(sessions_run_in_threads);
  return failures != 0;
}

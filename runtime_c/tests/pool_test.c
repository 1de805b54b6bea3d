/* pool_test.c: every task once, whoever else is busy. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "runtime.h"

enum { MOST = 4096 };

typedef struct record {
  _Atomic int count[MOST];
  _Atomic bool running[LPT_MAX_THREADS];
  _Atomic uint32_t calls, together;  /* together: calls that ran beside one of the same thread */
  _Atomic uint32_t seen[LPT_MAX_THREADS];
  _Atomic int64_t smallest;
} record;

static void note(void *context, uint32_t thread, int64_t lo, int64_t hi) {
  record *r = context;
  if (atomic_exchange(&r->running[thread], true)) atomic_fetch_add(&r->together, 1);
  atomic_fetch_add(&r->calls, 1);
  atomic_fetch_add(&r->seen[thread], 1);
  int64_t smallest = atomic_load(&r->smallest);
  while ((!smallest || hi - lo < smallest) && !atomic_compare_exchange_weak(&r->smallest, &smallest, hi - lo)) continue;
  for (int64_t i = lo; i < hi; i++) atomic_fetch_add(&r->count[i], 1);
  atomic_store(&r->running[thread], false);
}

/* Threads that ran something; UINT32_MAX if one beyond `limit` did. */
static uint32_t threads_used(record *r, uint32_t limit) {
  uint32_t used = 0;
  for (uint32_t i = 0; i < LPT_MAX_THREADS; i++) {
    if (atomic_load(&r->seen[i]) && i >= limit) return UINT32_MAX;
    used += atomic_load(&r->seen[i]) > 0;
  }
  return used;
}

static bool each_once(record *r, int64_t tasks) {
  for (int64_t i = 0; i < MOST; i++)
    if (atomic_load(&r->count[i]) != (i < tasks)) return false;
  return atomic_load(&r->together) == 0;
}

static void every_task_runs_once(void) {
  static const int64_t sizes[] = {0, 1, 2, 3, 7, 8, 9, 100, 1023, MOST};
  for (uint32_t threads = 1; threads <= 9; threads += 2) {
    lpt_pool_acquire(threads);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
      record r = {.calls = 0};
      lpt_parallel_for(threads, sizes[i], 1, note, &r);
      CHECK(each_once(&r, sizes[i]));
      CHECK(threads_used(&r, threads) <= threads);
    }
    lpt_pool_release();
  }
}

/* Each part waits until all have begun, so nobody can take another's. */
static void meet(void *context, uint32_t thread, int64_t lo, int64_t hi) {
  _Atomic int64_t *begun = context;
  (void)thread;
  atomic_fetch_add(begun, hi - lo);
  while (atomic_load(begun) < 4) sched_yield();
}

typedef struct cores {
  _Atomic int64_t begun;
  cpu_set_t of[4];
} cores;

static void note_cores(void *context, uint32_t thread, int64_t lo, int64_t hi) {
  cores *c = context;
  sched_getaffinity(0, sizeof c->of[thread], &c->of[thread]);
  meet(&c->begun, thread, lo, hi);
}

/* They begin beside the core of who starts them, and may then be moved to any. */
static void workers_may_use_every_core(void) {
  cores c = {.begun = 0};
  uint32_t threads = lpt_cores() < 4 ? lpt_cores() : 4;
  atomic_store(&c.begun, 4 - threads);
  lpt_pool_acquire(threads);
  lpt_parallel_for(threads, threads, 1, note_cores, &c);
  for (uint32_t i = 1; i < threads; i++) CHECK(CPU_EQUAL(&c.of[0], &c.of[i]));
  lpt_pool_release();
}

static void the_threads_run_at_the_same_time(void) {
  _Atomic int64_t begun = 0;
  lpt_pool_acquire(4);
  lpt_parallel_for(4, 4, 1, meet, &begun); /* would hang on fewer than four threads */
  CHECK(atomic_load(&begun) == 4);
  lpt_pool_release();
}

static void grain_limits_the_threads(void) {
  lpt_pool_acquire(8);
  static const struct { int64_t tasks, grain; uint32_t threads, most; } rows[] = { /* most: calls */
    {10, 10, 1, 1}, {19, 10, 1, 1}, {20, 10, 2, 16}, {35, 10, 3, 24}, {1000, 10, 8, 64}, {5, 0, 5, 5}, {5, -3, 5, 5},
    {5, INT64_MAX, 1, 1},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    record r = {.calls = 0};
    lpt_parallel_for(8, rows[i].tasks, rows[i].grain, note, &r);
    CHECK(threads_used(&r, rows[i].threads) <= rows[i].threads);
    CHECK(atomic_load(&r.calls) <= rows[i].most && atomic_load(&r.calls) >= rows[i].threads);
    CHECK(atomic_load(&r.smallest) >= rows[i].tasks / rows[i].most);
    CHECK(each_once(&r, rows[i].tasks));
  }
  lpt_pool_release();
}

static void late_part(void *context, uint32_t thread, int64_t lo, int64_t hi) {
  if (thread) nanosleep(&(struct timespec){0, 30000000}, NULL);
  note(context, thread, lo, hi);
}

static void who_is_done_helps_the_others(void) {
  lpt_pool_acquire(2);
  record r = {.calls = 0};
  lpt_parallel_for(2, 8, 1, late_part, &r); /* four pieces each, but the worker is slow: with three in hand */
  CHECK(each_once(&r, 8) && atomic_load(&r.seen[0]) >= 3);
  lpt_pool_release();
}

static void without_a_pool_it_is_serial(void) {
  record r = {.calls = 0};
  lpt_parallel_for(4, 100, 1, note, &r);
  CHECK(atomic_load(&r.calls) == 1 && each_once(&r, 100));
}

static void small_jobs_after_large_ones(void) {
  lpt_pool_acquire(6);
  for (int i = 0; i < 3000; i++) {
    record r = {.calls = 0};
    uint32_t threads = 1 + (uint32_t)i % 6;
    lpt_parallel_for(threads, 12, 1, note, &r);
    CHECK(each_once(&r, 12) && threads_used(&r, threads) <= threads);
  }
  lpt_pool_release();
}

static void sleeping_workers_wake(void) {
  lpt_pool_acquire(3);
  for (int i = 0; i < 20; i++) {
    nanosleep(&(struct timespec){0, 2000000}, NULL); /* longer than anyone spins */
    record r = {.calls = 0};
    lpt_parallel_for(3, 30, 1, note, &r);
    CHECK(each_once(&r, 30) && threads_used(&r, 3) <= 3);
  }
  lpt_pool_release();
}

static int64_t nanoseconds(void) {
  struct timespec at;
  clock_gettime(CLOCK_MONOTONIC, &at);
  return at.tv_sec * (int64_t)1000000000 + at.tv_nsec;
}

/* How many calls a region of two tasks takes, at least `after` nanoseconds into a row of regions that finds the workers
 * asleep; `*after` becomes how far into the row it began: a slow clock, or one's core taken by others, makes that late. */
static uint32_t calls_after(int64_t *after) {
  record r = {.calls = 0}; /* before the clock starts: a sanitizer takes 20 us to clear it */
  nanosleep(&(struct timespec){0, 2000000}, NULL);
  int64_t start = nanoseconds(), at;
  lpt_pool_check();
  do at = nanoseconds() - start;
  while (at < *after);
  *after = at;
  lpt_parallel_for(2, 2, 1, note, &r);
  return each_once(&r, 2) ? atomic_load(&r.calls) : 0;
}

static void short_rows_let_workers_sleep(void) {
  bool serial = false, seen = false; /* an early region at all */
  lpt_pool_acquire(2);
  for (int i = 0; i < 500 && !serial; i++) {
    int64_t after = 0;
    serial = calls_after(&after) == 1;
    seen |= after < 8000;
  }
  CHECK(serial || !seen);
  CHECK(calls_after(&(int64_t){100000}) == 2);
  lpt_pool_release();
}

static void slow_part(void *context, uint32_t thread, int64_t lo, int64_t hi) {
  if (thread) nanosleep(&(struct timespec){0, 1000000}, NULL);
  note(context, thread, lo, hi);
}

static void the_caller_sleeps_and_wakes(void) {
  lpt_pool_acquire(3);
  for (int i = 0; i < 20; i++) {
    record r = {.calls = 0};
    lpt_parallel_for(3, 30, 1, slow_part, &r);
    CHECK(each_once(&r, 30));
  }
  lpt_pool_release();
}

static void inner(void *context, uint32_t thread, int64_t lo, int64_t hi) {
  (void)thread;
  for (int64_t i = lo; i < hi; i++) {
    record r = {.calls = 0};
    lpt_parallel_for(4, 50, 1, note, &r);
    if (each_once(&r, 50) && atomic_load(&r.calls) == 1) atomic_fetch_add((_Atomic int *)context, 1);
  }
}

static void nested_regions_run_serially(void) {
  _Atomic int good = 0;
  lpt_pool_acquire(4);
  lpt_parallel_for(4, 16, 1, inner, &good);
  CHECK(atomic_load(&good) == 16);
  lpt_pool_release();
}

static void *many_regions(void *argument) {
  _Atomic int *bad = argument;
  lpt_pool_acquire(3);
  for (int i = 0; i < 500; i++) {
    record r = {.calls = 0};
    lpt_parallel_for(3, 64, 1, note, &r);
    if (!each_once(&r, 64)) atomic_fetch_add(bad, 1);
    if (i % 100 == 0) { /* the pool grows, shrinks and ends under the others' feet */
      lpt_pool_acquire(5);
      lpt_pool_release();
    }
  }
  lpt_pool_release();
  return NULL;
}

static void concurrent_callers_are_correct(void) {
  pthread_t threads[4];
  _Atomic int bad = 0;
  for (int i = 0; i < 4; i++) CHECK(!pthread_create(&threads[i], NULL, many_regions, &bad));
  for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
  CHECK(atomic_load(&bad) == 0);
}

static void *acquire_and_release(void *argument) {
  for (int i = 0; i < 50; i++) {
    lpt_pool_acquire(4);
    lpt_pool_release();
  }
  return argument;
}

static void starting_and_ending_from_many_threads(void) {
  pthread_t threads[4];
  for (int i = 0; i < 4; i++) CHECK(!pthread_create(&threads[i], NULL, acquire_and_release, NULL));
  for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
  without_a_pool_it_is_serial(); /* the last one ended the workers */
}

/* ThreadSanitizer does not follow threads made by a child; AddressSanitizer's allocator, unlike malloc, may be locked in a
   child for good where another thread allocated during the fork. */
#if !defined(__SANITIZE_THREAD__)
static int in_child(void) {
  record r = {.calls = 0};
  lpt_parallel_for(1, 100, 1, note, &r);
  bool good = each_once(&r, 100);
  lpt_pool_check(); /* new workers */
  record again = {.calls = 0};
  lpt_parallel_for(3, 100, 1, note, &again);
  _Atomic int64_t begun = 1;
  lpt_parallel_for(3, 3, 1, meet, &begun); /* on three threads of its own */
  good = good && each_once(&again, 100) && atomic_load(&begun) == 4;
  lpt_pool_release();
  return good ? 0 : 1;
}

static void a_forked_child_gets_its_own_workers(void) {
  lpt_pool_acquire(3);
  record r = {.calls = 0};
  lpt_parallel_for(3, 100, 1, note, &r);
  pid_t child = fork();
  if (child == 0) _exit(in_child());
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
  record after = {.calls = 0};
  lpt_parallel_for(3, 100, 1, note, &after);
  CHECK(each_once(&after, 100));
  lpt_pool_release();
}

#if !defined(__SANITIZE_ADDRESS__)
static void a_child_forked_while_others_run_survives(void) {
  pthread_t other;
  _Atomic int bad = 0;
  lpt_pool_acquire(3);
  CHECK(!pthread_create(&other, NULL, many_regions, &bad));
  for (int i = 0; i < 10; i++) {
    pid_t child = fork();
    if (child == 0) _exit(in_child());
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
  }
  pthread_join(other, NULL);
  CHECK(atomic_load(&bad) == 0);
  lpt_pool_release();
}
#endif
#endif

int main(void) {
  RUN(every_task_runs_once);
  RUN(the_threads_run_at_the_same_time);
  RUN(workers_may_use_every_core);
  RUN(grain_limits_the_threads);
  RUN(who_is_done_helps_the_others);
  RUN(without_a_pool_it_is_serial);
  RUN(small_jobs_after_large_ones);
  RUN(sleeping_workers_wake);
  RUN(short_rows_let_workers_sleep);
  RUN(the_caller_sleeps_and_wakes);
  RUN(nested_regions_run_serially);
  RUN(concurrent_callers_are_correct);
  RUN(starting_and_ending_from_many_threads);
#if !defined(__SANITIZE_THREAD__)
  RUN(a_forked_child_gets_its_own_workers);
#if !defined(__SANITIZE_ADDRESS__)
  RUN(a_child_forked_while_others_run_survives);
#endif
#endif
  return failures != 0;
}

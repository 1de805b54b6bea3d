/*
 * pool.c: one small thread pool per process (per library that holds this runtime).
 *
 * A parallel region is one store: `job` holds a counter and the number of threads taking part. Each
 * thread has a range of chunks of its own, in order. It takes them from the front: as one call as many
 * as leave a quarter, then the rest, since a kernel prepares something at the start of each call; who
 * has run out takes single ones from the end of another's. So a thread that the system has not woken
 * or keeps off its core costs its share of the work, not the wait for it: on a busy machine that is
 * the difference between microseconds and a time slice.
 *
 * Both sides spin for a moment and then sleep on a futex: unbounded spinning costs milliseconds as
 * soon as something else wants the core.
 *
 * A late worker may hold the word of a job that is over. All it does with it is to try ranges, and
 * these carry the job's counter, so it takes nothing. The rest of a job is read only with a chunk in
 * hand, which keeps the caller from going on to the next.
 */
#define _GNU_SOURCE
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "runtime.h"

enum { FIRST_SPIN_NANOSECONDS = 2000000, PAUSES_PER_LOOK = 16 };
enum { STOP = 0xffff, CHUNKS_PER_THREAD = 8 };
/* Waking a thread takes its caller 8 us on a virtual machine, and the thread comes 8 us later: workers look for the next
 * job about as long. Longer would keep them from the core's other users, who take the core back in the middle of a job. */
enum { IDLE_NANOSECONDS = 12000, SPIN_NANOSECONDS = 25000, WAKE_NANOSECONDS = 20000, GRAINS_WORTH_WAKING = 8 };

typedef struct range {
  _Alignas(64) _Atomic uint64_t word; /* low half of the job's counter << 32 | next << 16 | end */
} range;

static struct {
  /* The job: written by the caller that holds `busy`, before `job` tells the workers. */
  _Alignas(64) _Atomic uint64_t job; /* counter << 16 | threads taking part (STOP: end) */
  lpt_part part;
  void *context;
  int64_t tasks;
  uint32_t chunks;
  range ranges[LPT_MAX_THREADS];
  _Alignas(64) _Atomic uint32_t pending; /* chunks not finished */
  _Atomic uint32_t caller_sleeps;
  _Alignas(64) _Atomic uint32_t sleepers; /* workers waiting on the futex */
  _Atomic int64_t began;                  /* when the last row of regions did */
  _Alignas(64) atomic_flag busy;          /* held for the length of a job, and while workers change */
  _Atomic int owner;                      /* process that started the workers; 0: none;
                                             negative: that process is making the pool new */
  pthread_mutex_t lock;                   /* guards `users`, and starting and ending workers */
  uint32_t users;
  uint32_t workers;                       /* changed under `lock` and `busy`, read under either */
  uint32_t wanted;                        /* workers some session has asked for */
  _Atomic int64_t first_wait;             /* nanoseconds awake: a first job comes soon, and sleepers wake late */
  uint64_t seen[LPT_MAX_THREADS];         /* per worker: `job` when it was started */
  pthread_t threads[LPT_MAX_THREADS];
} pool = {.busy = ATOMIC_FLAG_INIT, .lock = PTHREAD_MUTEX_INITIALIZER};

static void pause_briefly(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("isb"); /* `yield` is a no-op on most cores */
#endif
}

static int64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* The half of the 64-bit word that changes with every job; both our targets are little-endian. */
static uint32_t *low_half(_Atomic uint64_t *word) { return (uint32_t *)(void *)word; }

static void futex_wait(uint32_t *word, uint32_t value, uint32_t bits) {
  syscall(SYS_futex, word, FUTEX_WAIT_BITSET_PRIVATE, value, NULL, NULL, bits);
}

static void futex_wake(uint32_t *word, uint32_t bits) {
  syscall(SYS_futex, word, FUTEX_WAKE_BITSET_PRIVATE, INT_MAX, NULL, NULL, bits);
}

/* Workers sleep under a bit of their number, so that a small job wakes few. */
static uint32_t bit_of(uint32_t thread) { return 1u << (thread < 31 ? thread : 31); }
static uint32_t bits_below(uint32_t threads) { return threads > 31 ? ~0u : (1u << threads) - 1; }

/* ---- chunks ------------------------------------------------------------------------------------- */

typedef struct chunks {
  uint32_t first, count;
} chunks;

/* Of thread `owner`'s range, if the job still is the one with this tag and any are left: one from the
 * end, or from the front all but a quarter, rounded down: the last three at once. */
static chunks take(uint32_t owner, uint32_t tag, bool from_end) {
  _Atomic uint64_t *word = &pool.ranges[owner].word;
  uint64_t old = atomic_load_explicit(word, memory_order_relaxed), new;
  chunks taken;
  do {
    uint32_t next = old >> 16 & 0xffff, end = old & 0xffff;
    if (old >> 32 != tag || next >= end) return (chunks){0, 0};
    uint32_t left = end - next, count = from_end ? 1 : left - left / 4;
    taken = (chunks){from_end ? end - 1 : next, count};
    new = from_end ? old - 1 : old + ((uint64_t)count << 16);
  } while (!atomic_compare_exchange_weak_explicit(word, &old, new, memory_order_acq_rel, memory_order_relaxed));
  return taken;
}

/* Chunks differ in size by one task at most, and so do the ranges of threads that have as many. */
static int64_t start_of(uint32_t chunk) {
  return chunk * (pool.tasks / pool.chunks) + chunk * (pool.tasks % pool.chunks) / pool.chunks;
}

/* The thread's own range, then what others have left. How many chunks it ran. */
static uint32_t run_chunks(uint64_t job, uint32_t self) {
  uint32_t tag = (uint32_t)(job >> 16), parts = job & 0xffff, done = 0;
  for (uint32_t i = 0; i < parts;) {
    chunks taken = take((self + i) % parts, tag, i > 0);
    if (!taken.count) {
      i++;
      continue;
    }
    pool.part(pool.context, self, start_of(taken.first), start_of(taken.first + taken.count));
    done += taken.count;
  }
  return done;
}

/* ---- workers ----------------------------------------------------------------------------------- */

static uint64_t next_job(uint64_t seen, uint32_t self, int64_t awake) {
  uint64_t job;
  int64_t start = now();
  do {
    for (int i = 0; i < PAUSES_PER_LOOK; i++) {
      if ((job = atomic_load_explicit(&pool.job, memory_order_acquire)) != seen) return job;
      pause_briefly();
    }
  } while (now() - start < awake);
  atomic_fetch_add(&pool.sleepers, 1);
  while ((job = atomic_load(&pool.job)) == seen)
    futex_wait(low_half(&pool.job), (uint32_t)seen, bit_of(self));
  atomic_fetch_sub(&pool.sleepers, 1);
  return job;
}

static void *worker(void *argument) {
  uint32_t self = (uint32_t)(uintptr_t)argument;
  uint64_t job = pool.seen[self];
  for (int64_t awake = atomic_load(&pool.first_wait);; awake = IDLE_NANOSECONDS) {
    job = next_job(job, self, awake);
    uint32_t parts = job & 0xffff;
    if (parts == STOP) return NULL;
    if (self >= parts) continue;
    uint32_t done = run_chunks(job, self);
    if (done && atomic_fetch_sub(&pool.pending, done) == done && atomic_load(&pool.caller_sleeps))
      futex_wake((uint32_t *)(void *)&pool.pending, ~0u);
  }
}

/* ---- callers ------------------------------------------------------------------------------------ */

static uint64_t next_word(uint32_t parts) {
  return ((atomic_load_explicit(&pool.job, memory_order_relaxed) >> 16) + 1) << 16 | parts;
}

static void post(uint64_t job) {
  atomic_store(&pool.job, job);
  if (atomic_load(&pool.sleepers)) futex_wake(low_half(&pool.job), bits_below(job & 0xffff));
}

/* With `busy` held: the job's chunks, dealt out, and the word that starts it. */
static uint64_t deal(uint32_t parts, uint32_t chunks, int64_t tasks, lpt_part part, void *context) {
  uint64_t job = next_word(parts);
  pool.part = part;
  pool.context = context;
  pool.tasks = tasks;
  pool.chunks = chunks;
  atomic_store_explicit(&pool.pending, chunks, memory_order_relaxed);
  for (uint32_t i = 0; i < parts; i++) {
    uint64_t next = (uint64_t)i * chunks / parts, end = (uint64_t)(i + 1) * chunks / parts;
    atomic_store_explicit(&pool.ranges[i].word, job >> 16 << 32 | next << 16 | end, memory_order_release);
  }
  return job;
}

static void wait_for_workers(void) {
  int64_t start = now();
  do {
    for (int i = 0; i < PAUSES_PER_LOOK; i++) {
      if (atomic_load_explicit(&pool.pending, memory_order_acquire) == 0) return;
      pause_briefly();
    }
  } while (now() - start < SPIN_NANOSECONDS);
  atomic_store(&pool.caller_sleeps, 1);
  uint32_t pending;
  while ((pending = atomic_load(&pool.pending)) != 0)
    futex_wait((uint32_t *)(void *)&pool.pending, pending, ~0u);
  atomic_store(&pool.caller_sleeps, 0);
}

/* Sleeping workers are woken by much work, or once a row of regions has lasted as long as waking does: the rest of a
 * short one would be over before they come. */
static bool worth_waking(int64_t grains) {
  if (grains >= GRAINS_WORTH_WAKING || !atomic_load_explicit(&pool.sleepers, memory_order_relaxed)) return true;
  return now() - atomic_load_explicit(&pool.began, memory_order_relaxed) >= WAKE_NANOSECONDS;
}

void lpt_parallel_for(uint32_t threads, int64_t tasks, int64_t grain, lpt_part part, void *context) {
  if (tasks <= 0) return;
  int64_t grains = tasks / (grain > 0 ? grain : 1), most = grains < threads ? grains : threads;
  if (most <= 1 || !worth_waking(grains) || atomic_flag_test_and_set_explicit(&pool.busy, memory_order_acquire)) {
    part(context, 0, 0, tasks);
    return;
  }
  if (most > (int64_t)pool.workers + 1) most = (int64_t)pool.workers + 1;
  if (most <= 1) {
    atomic_flag_clear_explicit(&pool.busy, memory_order_release);
    part(context, 0, 0, tasks);
    return;
  }
  int64_t chunks = tasks < most * CHUNKS_PER_THREAD ? tasks : most * CHUNKS_PER_THREAD;
  uint64_t job = deal((uint32_t)most, (uint32_t)chunks, tasks, part, context);
  post(job);
  uint32_t done = run_chunks(job, 0);
  if (atomic_fetch_sub(&pool.pending, done) != done) wait_for_workers();
  atomic_flag_clear_explicit(&pool.busy, memory_order_release);
}

/* ---- starting and ending workers ---------------------------------------------------------------- */

static void hold(void) {
  while (atomic_flag_test_and_set_explicit(&pool.busy, memory_order_acquire)) sched_yield();
}

static void let_go(void) { atomic_flag_clear_explicit(&pool.busy, memory_order_release); }

static bool start_worker(uint32_t self, const pthread_attr_t *attributes) {
  return !pthread_create(&pool.threads[self], attributes, worker, (void *)(uintptr_t)self);
}

/* Linux may put a new thread on the core of who starts it, to run when that one's time slice ends, milliseconds later:
 * under a hypervisor an idle core looks like one that is taken. So it begins on one of the `others`, and is free to
 * move from then on. */
static bool start_elsewhere(uint32_t self, const cpu_set_t *all, const cpu_set_t *others) {
  pthread_attr_t attributes;
  if (pthread_attr_init(&attributes)) return false;
  bool started = !pthread_attr_setaffinity_np(&attributes, sizeof *others, others) && start_worker(self, &attributes);
  pthread_attr_destroy(&attributes);
  if (started) pthread_setaffinity_np(pool.threads[self], sizeof *all, all);
  return started;
}

/* The cores that this thread may use, and those without the one it is on; how many there are, 0: not known. */
static uint32_t allowed_cores(cpu_set_t *all, cpu_set_t *others) {
  unsigned core;
  CPU_ZERO(all);
  if (syscall(SYS_getcpu, &core, NULL, NULL) || syscall(SYS_sched_getaffinity, 0, sizeof *all, all) < 0) return 0;
  *others = *all;
  CPU_CLR(core, others);
  uint32_t count = 0;
  for (uint32_t i = 0; i < CPU_SETSIZE; i++) count += CPU_ISSET(i, all) != 0;
  return count;
}

/* With `lock` held. As many as the system will start; signals stay with the program's threads. */
static void start_workers(void) {
  cpu_set_t all, others;
  bool fit = pool.wanted < allowed_cores(&all, &others);
  atomic_store(&pool.first_wait, fit ? FIRST_SPIN_NANOSECONDS : IDLE_NANOSECONDS);
  sigset_t every, before;
  sigfillset(&every);
  hold();
  pthread_sigmask(SIG_SETMASK, &every, &before);
  while (pool.workers < pool.wanted) {
    uint32_t self = pool.workers + 1; /* the caller is thread 0 */
    pool.seen[self] = atomic_load(&pool.job);
    if (!(fit && start_elsewhere(self, &all, &others)) && !start_worker(self, NULL)) break;
    pool.workers++;
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  atomic_store(&pool.owner, (int)getpid());
  let_go();
}

static void end_workers(void) {
  hold();
  post(next_word(STOP));
  for (uint32_t self = 1; self <= pool.workers; self++) pthread_join(pool.threads[self], NULL);
  pool.workers = 0;
  let_go();
}

/* After a fork the child has the pool's memory but none of its threads, and any lock may have been
 * held by one of them. One thread of the child makes everything new; others wait for it. */
static void forget_parent(void) {
  int owner = atomic_load(&pool.owner), self = (int)getpid();
  if (owner == 0 || owner == self) return;
  if (owner == -self || !atomic_compare_exchange_strong(&pool.owner, &owner, -self)) {
    while (atomic_load(&pool.owner) == -self) sched_yield(); /* another thread is at it */
    return;
  }
  pthread_mutex_init(&pool.lock, NULL);
  pool.workers = 0;
  atomic_store(&pool.sleepers, 0);
  atomic_store(&pool.caller_sleeps, 0);
  atomic_store(&pool.pending, 0);
  atomic_flag_clear(&pool.busy);
  atomic_store(&pool.owner, 0);
}

void lpt_pool_check(void) {
  atomic_store_explicit(&pool.began, now(), memory_order_relaxed);
  if (atomic_load(&pool.owner) == (int)getpid()) return;
  forget_parent();
  pthread_mutex_lock(&pool.lock);
  if (pool.workers < pool.wanted) start_workers();
  pthread_mutex_unlock(&pool.lock);
}

void lpt_pool_acquire(uint32_t threads) {
  forget_parent();
  pthread_mutex_lock(&pool.lock);
  pool.users++;
  if (threads > LPT_MAX_THREADS) threads = LPT_MAX_THREADS;
  if (threads > pool.wanted + 1) pool.wanted = threads - 1;
  if (pool.workers < pool.wanted) start_workers();
  pthread_mutex_unlock(&pool.lock);
}

void lpt_pool_release(void) {
  forget_parent();
  pthread_mutex_lock(&pool.lock);
  if (--pool.users == 0) {
    if (pool.workers) end_workers();
    pool.wanted = 0;
  }
  pthread_mutex_unlock(&pool.lock);
}

// A GPU on a CPU: what device.cuh says, for g++. One fiber per CUDA thread, one block after the other; fibers change
// places only where threads wait for each other, in an order drawn anew for each block. What would hang on a GPU, a
// barrier that not all threads reach, ends the program with a message.
#pragma once
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <deque>
#include <functional>
#include <vector>

typedef int8_t i8; typedef uint8_t u8; typedef int16_t i16; typedef uint16_t u16;
typedef int32_t i32; typedef uint32_t u32; typedef long long i64; typedef unsigned long long u64;
#define LP_INLINE static inline
#define LP_MEMBER static inline
#define LP_KERNEL(threads) extern "C" void
#define LP_MEMCPY memcpy
#define LP_UNROLL
#define LP_SHARED unsigned char *lp_shared = lp_sim::shared;
#define LP_THREAD ((i64)lp_sim::now->thread)
#define LP_THREADS ((i64)lp_sim::threads)
#define LP_BLOCK ((i64)lp_sim::block)
#define LP_BLOCKS ((i64)lp_sim::blocks)

namespace lp_sim {
struct Fiber { void *stack; int thread; bool done; u32 slot; };
struct Barrier { std::vector<int> waiting; };
static const size_t STACK = 128 * 1024;
static std::vector<Fiber> fibers;
static std::deque<int> ready;
static Fiber *now;
static void *scheduler;
static char *stacks;
static size_t n_stacks;
static unsigned char *shared;
static int threads, live;
static i64 block, blocks;
static Barrier everyone;
static std::vector<Barrier> warps;
static std::function<void()> *body;
static u64 seed = 88172645463325252ull;

static inline u64 draw() { seed ^= seed << 13; seed ^= seed >> 7; seed ^= seed << 17; return seed; }

extern "C" void lp_sim_switch(void **from, void *to);
asm(R"(
.text
.globl lp_sim_switch
.type lp_sim_switch,@function
lp_sim_switch:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
)");

static void fail(const char *what) {
  fprintf(stderr, "lp_sim: %s (block %lld, %d threads live)\n", what, block, live);
  abort();
}
static void next(Fiber *me) {
  if (ready.empty()) fail("deadlock: a barrier that not all threads reach");
  Fiber *other = &fibers[ready.front()];
  ready.pop_front();
  if (other == me) return;
  now = other;
  lp_sim_switch(&me->stack, other->stack);
}
static void release(Barrier &b) {
  for (int i : b.waiting) ready.push_back(i);
  b.waiting.clear();
}
static void start() {
  (*body)();
  Fiber *me = now;
  me->done = true;
  if (--live == 0) lp_sim_switch(&me->stack, scheduler);
  if (!everyone.waiting.empty()) fail("a thread left where others wait at a barrier");
  next(me);
}
static inline void wait(Barrier &b, int all) {
  Fiber *me = now;
  b.waiting.push_back(me->thread);
  if ((int)b.waiting.size() == all) release(b);
  next(me);
}

// Run a kernel: `call` is it with its arguments. Shared memory starts as 0xFF bytes: floats that are NaN.
static void launch(i64 grid, int size, size_t shared_bytes, std::function<void()> call) {
  if (size % 32 || size > 1024 || size < 32) fail("a block of other than 32, 64 ... 1024 threads");
  if (n_stacks < (size_t)size) {
    if (stacks) munmap(stacks, n_stacks * STACK);
    stacks = (char *)mmap(0, size * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    n_stacks = size;
  }
  body = &call;
  blocks = grid;
  threads = size;
  fibers.resize(size);
  warps.assign(size / 32, Barrier());
  shared = (unsigned char *)aligned_alloc(1024, (shared_bytes / 1024 + 1) * 1024);
  for (block = 0; block < grid; ++block) {
    memset(shared, 0xFF, shared_bytes);
    everyone = Barrier();
    ready.clear();
    live = size;
    std::vector<int> order(size);
    for (int i = 0; i < size; ++i) order[i] = i;
    for (int i = size - 1; i > 0; --i) std::swap(order[i], order[draw() % (i + 1)]);
    for (int i = 0; i < size; ++i) {
      void **top = (void **)(stacks + (size_t)(i + 1) * STACK);
      *--top = nullptr;
      *--top = (void *)start;
      for (int k = 0; k < 6; ++k) *--top = nullptr;
      fibers[i] = Fiber{top, i, false, 0};
    }
    for (int i : order) ready.push_back(i);
    now = &fibers[ready.front()];
    ready.pop_front();
    lp_sim_switch(&scheduler, now->stack);
  }
  free(shared);
}
}  // namespace lp_sim

LP_INLINE void lp_sync() { lp_sim::wait(lp_sim::everyone, lp_sim::threads); }
LP_INLINE void lp_sync_warp() { lp_sim::wait(lp_sim::warps[lp_sim::now->thread / 32], 32); }
LP_INLINE u32 lp_shuffle_down(u32 x, int by) {
  lp_sim::Fiber *me = lp_sim::now;
  me->slot = x;
  lp_sync_warp();
  u32 y = me->thread % 32 + by < 32 ? lp_sim::fibers[me->thread + by].slot : x;
  lp_sync_warp();
  return y;
}
LP_INLINE float lp_from_f16(u16 h) { _Float16 x; memcpy(&x, &h, 2); return (float)x; }
LP_INLINE u16 lp_to_f16(float f) { _Float16 x = (_Float16)f; u16 h; memcpy(&h, &x, 2); return h; }

#define LP_MATH1(name, single, both) \
  LP_INLINE float name(float x) { return single(x); } LP_INLINE double name(double x) { return both(x); }
#define LP_MATH2(name, single, both) \
  LP_INLINE float name(float x, float y) { return single(x, y); } \
  LP_INLINE double name(double x, double y) { return both(x, y); }

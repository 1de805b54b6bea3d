// A GPU on a CPU: what device.cuh says, for g++. One fiber per CUDA thread, one block after the other; fibers change
// places only where threads wait for each other, in an order and by a rule drawn anew for each block. What would hang on a GPU, a
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
#define LP_METHOD inline
#define LP_KERNEL(...) extern "C" void
#define LP_MEMCPY memcpy
#define LP_UNROLL
#define LP_SHARED unsigned char *lp_shared = lp_sim::shared;
#define LP_THREAD ((i64)lp_sim::now->thread)
#define LP_THREADS ((i64)lp_sim::threads)
#define LP_BLOCK ((i64)lp_sim::block)
#define LP_BLOCKS ((i64)lp_sim::blocks)

namespace lp_sim {
struct Copy { void *to; const void *from; bool there; };
struct Bulk { void *to; const void *from; u32 bytes; u64 *barrier; };
struct Fiber {
  void *stack; int thread; bool done, begun; u64 slot[4];
  std::vector<Copy> open;                    // asynchronous copies of no group yet
  std::deque<std::vector<Copy>> groups;
  std::vector<std::function<void()>> products;   // of warp groups, not yet committed
  std::deque<std::vector<std::function<void()>>> product_groups;
  std::vector<size_t> written;               // chunks of shared memory that products may not read yet
};
struct Barrier { std::vector<int> waiting; };
static const size_t STACK = 128 * 1024;
// All that belongs to the kernel that runs: put aside as one while another runs in its midst.
struct Machine {
  std::vector<Fiber> fibers;
  std::deque<int> ready;
  Fiber *now;
  void *scheduler;
  char *stacks;
  size_t n_stacks;
  unsigned char *shared;
  size_t shared_size;
  int threads, live, policy, favourite;
  i64 block, blocks;
  Barrier everyone;
  std::vector<Barrier> warps;
  std::function<void()> *body;
  std::vector<Bulk> bulk;             // copies on their way
  std::vector<char> unpublished;      // for each 16 bytes; empty where nobody asks
  int idle;                           // turns of those who wait for barriers in shared memory, without news
};
static Machine machine, aside;
static auto &[fibers, ready, now, scheduler, stacks, n_stacks, shared, shared_size, threads, live, policy, favourite,
              block, blocks, everyone, warps, body, bulk, unpublished, idle] = machine;
static std::function<void()> earlier;  // what was launched before, where a kernel may begin without it
static u64 seed = 88172645463325252ull;
static bool late = true;  // asynchronous copies happen when they are waited for; otherwise at once
static u64 row_reads, row_waves;  // of ldmatrix: reads of eight rows, and turns that shared memory takes for them

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
  // In turn, one warp far ahead of the others, or any.
  if (policy == 1)
    for (int &i : ready)
      if (i / 32 == favourite) { std::swap(ready.front(), i); break; }
  if (policy == 2) std::swap(ready.front(), ready[draw() % ready.size()]);
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
  if (!me->begun) fail("a thread that did not wait for what was launched before its kernel");
  if (!me->products.empty() || !me->product_groups.empty()) fail("products that nobody waited for");
  if (--live == 0 && !bulk.empty()) fail("copies that nobody waited for");
  if (live == 0) lp_sim_switch(&me->stack, scheduler);
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
  shared_size = shared_bytes;
  shared = (unsigned char *)aligned_alloc(1024, (shared_bytes / 1024 + 1) * 1024);
  for (block = 0; block < grid; ++block) {
    memset(shared, 0xFF, shared_bytes);
    everyone = Barrier();
    bulk.clear();
    unpublished.clear();
    idle = 0;
    policy = int((draw() >> 20) % 3);
    favourite = int((draw() >> 20) % (size / 32));
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
      fibers[i] = Fiber{top, i, false, false, {}, {}, {}, {}, {}, {}};
    }
    for (int i : order) ready.push_back(i);
    now = &fibers[ready.front()];
    ready.pop_front();
    lp_sim_switch(&scheduler, now->stack);
  }
  free(shared);
}
}  // namespace lp_sim

LP_INLINE void lp_begin() {
  lp_sim::now->begun = true;
  if (!lp_sim::earlier) return;
  const auto run = std::move(lp_sim::earlier);
  lp_sim::earlier = nullptr;
  std::swap(lp_sim::machine, lp_sim::aside);
  run();
  std::swap(lp_sim::machine, lp_sim::aside);
}
LP_INLINE void lp_sync() { lp_sim::wait(lp_sim::everyone, lp_sim::threads); }
LP_INLINE void lp_sync_warp() { lp_sim::wait(lp_sim::warps[lp_sim::now->thread / 32], 32); }
LP_INLINE u32 lp_shuffle_down(u32 x, int by) {
  lp_sim::Fiber *me = lp_sim::now;
  me->slot[0] = x;
  lp_sync_warp();
  u32 y = me->thread % 32 + by < 32 ? (u32)lp_sim::fibers[me->thread + by].slot[0] : x;
  lp_sync_warp();
  return y;
}
LP_INLINE u32 lp_shuffle_xor(u32 x, int by) {
  lp_sim::Fiber *me = lp_sim::now;
  me->slot[0] = x;
  lp_sync_warp();
  u32 y = (u32)lp_sim::fibers[me->thread ^ by].slot[0];
  lp_sync_warp();
  return y;
}

// --- memory in 16 bytes ---
namespace lp_sim {
static void aligned(const void *p, const char *what) { if ((uintptr_t)p % 16) fail(what); }
static void inside(const void *p) {
  const unsigned char *c = (const unsigned char *)p;
  if (c < shared || c + 16 > shared + shared_size) fail("16 bytes outside shared memory");
}
static void wrote(const void *p) {
  const size_t chunk = ((const unsigned char *)p - shared) / 16;
  if (chunk >= unpublished.size()) return;
  unpublished[chunk] = 1;
  now->written.push_back(chunk);
}
static void do_copy(const Copy &c) {
  wrote(c.to);
  if (c.there) memcpy(c.to, c.from, 16);
  else memset(c.to, 0, 16);
}
}  // namespace lp_sim
LP_INLINE void lp_load16(const void *p, u32 (&x)[4]) { lp_sim::aligned(p, "a load of 16 bytes off its place"); memcpy(x, p, 16); }
LP_INLINE void lp_store16(void *p, const u32 (&x)[4]) { lp_sim::aligned(p, "a store of 16 bytes off its place"); memcpy(p, x, 16); lp_sim::wrote(p); }
LP_INLINE void lp_copy16(void *to, const void *from, bool there) {
  lp_sim::aligned(to, "a copy of 16 bytes to a place off 16");
  lp_sim::inside(to);
  if (there) lp_sim::aligned(from, "a copy of 16 bytes from a place off 16");
  const lp_sim::Copy c{to, from, there};
  if (lp_sim::late) lp_sim::now->open.push_back(c);
  else lp_sim::do_copy(c);
}
LP_INLINE void lp_copy_commit() {
  lp_sim::now->groups.push_back(std::move(lp_sim::now->open));
  lp_sim::now->open.clear();
}
template <int N> static inline void lp_copy_wait() {
  auto &groups = lp_sim::now->groups;
  for (; groups.size() > (size_t)N; groups.pop_front())
    for (const lp_sim::Copy &c : groups.front()) lp_sim::do_copy(c);
}

LP_INLINE float lp_from_f16(u16 h) { _Float16 x; memcpy(&x, &h, 2); return (float)x; }
LP_INLINE u16 lp_to_f16(float f) { _Float16 x = (_Float16)f; u16 h; memcpy(&h, &x, 2); return h; }

#define LP_MATH1(name, single, both) \
  LP_INLINE float name(float x) { return single(x); } LP_INLINE double name(double x) { return both(x); }
#define LP_MATH2(name, single, both) \
  LP_INLINE float name(float x, float y) { return single(x, y); } \
  LP_INLINE double name(double x, double y) { return both(x, y); }
// How the next kernels run: asynchronous copies late or at once, and what the orders are drawn from.
extern "C" void lp_sim_mode(int late, u64 seed) { lp_sim::late = late; lp_sim::seed = seed * 2654435761ull + 1; }
// The next kernel begins before `run` has happened, which then happens when the kernel waits for it.
extern "C" void lp_sim_early(void (*run)(void *), void *what) { lp_sim::earlier = [=] { run(what); }; }
extern "C" double lp_sim_turns() {  // of shared memory for a read of eight rows: 1 without bank conflicts
  return lp_sim::row_reads ? double(lp_sim::row_waves) / double(lp_sim::row_reads) : 1.0;
}

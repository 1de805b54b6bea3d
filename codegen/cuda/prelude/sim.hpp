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
  void *stack; int thread; bool done; u64 slot[4];
  std::vector<Copy> open;                    // asynchronous copies of no group yet
  std::deque<std::vector<Copy>> groups;
  std::vector<std::function<void()>> products;   // of warp groups, not yet committed
  std::deque<std::vector<std::function<void()>>> product_groups;
  std::vector<size_t> written;               // chunks of shared memory that products may not read yet
};
struct Barrier { std::vector<int> waiting; };
static const size_t STACK = 128 * 1024;
static std::vector<Fiber> fibers;
static std::deque<int> ready;
static Fiber *now;
static void *scheduler;
static char *stacks;
static size_t n_stacks;
static unsigned char *shared;
static int threads, live, policy, favourite;
static i64 block, blocks;
static Barrier everyone;
static std::vector<Barrier> warps;
static std::function<void()> *body;
static u64 seed = 88172645463325252ull;
static bool late = true;  // asynchronous copies happen when they are waited for; otherwise at once
static size_t shared_size;
static std::vector<Bulk> bulk;             // copies on their way
static std::vector<char> unpublished;      // for each 16 bytes; empty where nobody asks
static int idle;                           // turns of those who wait for barriers in shared memory, without news
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
      fibers[i] = Fiber{top, i, false, {}, {}, {}, {}, {}, {}};
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

// --- tensor cores ---
namespace lp_sim {
static Fiber *lane(int i) { return &fibers[now->thread / 32 * 32 + i]; }
static void count_waves(int first) {  // of eight rows of 16 bytes: rows in the same four banks take turns
  int taken[8] = {0}, most = 0;
  for (int i = 0; i < 8; ++i) {
    int &n = taken[(lane(first + i)->slot[0] - (u64)shared) / 16 % 8];
    if (++n > most) most = n;
  }
  ++row_reads;
  row_waves += most;
}
static void load_matrices(u32 (&r)[4], const void *at, bool turned) {
  aligned(at, "a row of a matrix off 16 bytes");
  inside(at);
  now->slot[0] = (u64)at;
  lp_sim::wait(warps[now->thread / 32], 32);
  int me = now->thread % 32;
  if (me < 4) count_waves(me * 8);
  for (int j = 0; j < 4; ++j)
    for (int e = 0; e < 2; ++e) {
      int row = turned ? me % 4 * 2 + e : me / 4, column = turned ? me / 4 : me % 4 * 2 + e;
      u16 x;
      memcpy(&x, (const char *)lane(j * 8 + row)->slot[0] + column * 2, 2);
      r[j] = e ? (r[j] & 0xFFFF) | (u32)x << 16 : x;
    }
  lp_sim::wait(warps[now->thread / 32], 32);
}
// d[16 x 8] += a[16 x 32 bytes] b[8 x 32 bytes]; Left::of(word, i) is the i-th of the numbers in 4 bytes of `a`.
template <class T, class Left, class Right> static void mma(T (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  Fiber *me = now;
  me->slot[0] = a[0] | (u64)a[1] << 32;
  me->slot[1] = a[2] | (u64)a[3] << 32;
  me->slot[2] = b0 | (u64)b1 << 32;
  lp_sim::wait(warps[me->thread / 32], 32);
  int group = me->thread % 32 / 4, part = me->thread % 4;
  for (int e = 0; e < 4; ++e)
    for (int half = 0; half < 2; ++half)
      for (int q = 0; q < 4; ++q) {
        u32 x = (u32)(lane(group * 4 + q)->slot[half] >> (e / 2 * 32));
        u32 y = (u32)(lane((part * 2 + e % 2) * 4 + q)->slot[2] >> (half * 32));
        for (int i = 0; i < Left::count; ++i) d[e] += Left::of(x, i) * Right::of(y, i);
      }
  lp_sim::wait(warps[me->thread / 32], 32);
}
struct F16 { static const int count = 2; static float of(u32 w, int i) {
  u16 h = (u16)(w >> 16 * i); _Float16 x; memcpy(&x, &h, 2); return (float)x; } };
struct Bf16 { static const int count = 2; static float of(u32 w, int i) {
  u32 b = w >> 16 * i << 16; float x; memcpy(&x, &b, 4); return x; } };
struct Tf32 { static const int count = 1; static float of(u32 w, int) {
  u32 b = w & 0xFFFFE000u; float x; memcpy(&x, &b, 4); return x; } };
struct S8 { static const int count = 4; static i32 of(u32 w, int i) { return (i8)(w >> 8 * i); } };
struct U8 { static const int count = 4; static i32 of(u32 w, int i) { return (u8)(w >> 8 * i); } };
}  // namespace lp_sim
LP_INLINE void lp_load_matrices(u32 (&r)[4], const void *at) { lp_sim::load_matrices(r, at, false); }
LP_INLINE void lp_load_matrices_turned(u32 (&r)[4], const void *at) { lp_sim::load_matrices(r, at, true); }
#define LP_MMA(name, T, Left, Right) LP_INLINE void name(T (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) { \
  lp_sim::mma<T, lp_sim::Left, lp_sim::Right>(d, a, b0, b1); }
LP_MMA(lp_mma_f16, float, F16, F16) LP_MMA(lp_mma_bf16, float, Bf16, Bf16) LP_MMA(lp_mma_tf32, float, Tf32, Tf32)
LP_MMA(lp_mma_s8s8, i32, S8, S8) LP_MMA(lp_mma_u8s8, i32, U8, S8)
LP_MMA(lp_mma_s8u8, i32, S8, U8) LP_MMA(lp_mma_u8u8, i32, U8, U8)
LP_INLINE u32 lp_to_tf32(u32 x) {  // to the nearest, halves away from 0
  return (x & 0x7F800000u) == 0x7F800000u ? x : (x + 0x1000u) & 0xFFFFE000u;
}

// --- barriers in shared memory, copies of many bytes, products of warp groups ---
#define LP_WARPGROUPS
namespace lp_sim {
struct Counter { i16 all, left; i32 bytes_phase; };  // bytes to come, twice, and the parity of the phase
static Counter *counter(u64 *b) {
  inside((const char *)b - 8);
  return (Counter *)b;
}
static void changed(Counter *c, int arrivals, int bytes) {
  c->left -= arrivals;
  c->bytes_phase += 2 * bytes;
  idle = 0;
  if (c->left < 0) fail("more arrivals at a barrier than it waits for");
  if (c->left == 0 && c->bytes_phase >> 1 == 0) { c->left = c->all; c->bytes_phase ^= 1; }
}
static void do_bulk(const Bulk &b) {
  memcpy(b.to, b.from, b.bytes);
  for (u32 i = 0; i < b.bytes; i += 16) unpublished[((unsigned char *)b.to - shared + i) / 16] = 0;
  changed(counter(b.barrier), 0, -(int)b.bytes);
}
static void some_copy() {
  if (bulk.empty()) return;
  std::swap(bulk[draw() % bulk.size()], bulk.back());
  const Bulk b = bulk.back();
  bulk.pop_back();
  do_bulk(b);
}
static void yield() {  // to each in its turn: nobody is far ahead of those who wait for him
  Fiber *me = now;
  if (++idle > 200000) fail("a barrier in shared memory that stays closed");
  ready.push_back(me->thread);
  now = &fibers[ready.front()];
  ready.pop_front();
  if (now != me) lp_sim_switch(&me->stack, now->stack);
}
static const unsigned char *element(u64 rows, int row, int byte) {
  u32 at = (u32)(rows & 0x3FFF) << 4;
  at += row / 8 * ((u32)(rows >> 32 & 0x3FFF) << 4) + row % 8 * 128 + byte;
  at ^= (at >> 7 & 7) << 4;
  if (at >= shared_size) fail("a product reads outside shared memory");
  if (unpublished[at / 16]) fail("a product reads what was not published");
  return shared + at;
}
template <class T, class Left, class Right, int R> static void products(T (&d)[R], u64 a, u64 b) {
  const int lane = now->thread % 32, first = now->thread / 32 % 4 * 16 + lane / 4;
  for (int i = 0; i < R; ++i) {
    const int row = first + (i >> 1 & 1) * 8, column = (i >> 2) * 8 + lane % 4 * 2 + (i & 1);
    for (int k = 0; k < 32; k += 4) {
      u32 x, y;
      memcpy(&x, element(a, row, k), 4);
      memcpy(&y, element(b, column, k), 4);
      for (int e = 0; e < Left::count; ++e) d[i] += Left::of(x, e) * Right::of(y, e);
    }
  }
}
}  // namespace lp_sim
LP_INLINE void lp_barrier_start(u64 *b, int arrivals) {
  lp_sim::unpublished.resize(lp_sim::shared_size / 16 + 1);
  *lp_sim::counter(b) = {(i16)arrivals, (i16)arrivals, 0};
}
LP_INLINE void lp_barriers_started() {}
LP_INLINE void lp_barrier_expect(u64 *b, u32 bytes) { lp_sim::changed(lp_sim::counter(b), 1, (int)bytes); }
LP_INLINE void lp_barrier_arrive(u64 *b) { lp_sim::changed(lp_sim::counter(b), 1, 0); }
LP_INLINE void lp_barrier_wait(u64 *b, u32 parity) {
  lp_sim::Counter *c = lp_sim::counter(b);
  while ((u32)(c->bytes_phase & 1) == parity) {
    lp_sim::some_copy();
    if ((u32)(c->bytes_phase & 1) == parity) lp_sim::yield();
  }
}
LP_INLINE void lp_copy_bulk(void *to, const void *from, u32 bytes, u64 *b) {
  lp_sim::aligned(to, "a copy to a place off 16");
  lp_sim::aligned(from, "a copy from a place off 16");
  lp_sim::inside(to);
  lp_sim::inside((char *)to + bytes - 16);
  if (bytes % 16) lp_sim::fail("a copy of other than multiples of 16 bytes");
  if (lp_sim::late) lp_sim::bulk.push_back({to, from, bytes, b});
  else lp_sim::do_bulk({to, from, bytes, b});
}
LP_INLINE void lp_publish() {
  for (size_t chunk : lp_sim::now->written) lp_sim::unpublished[chunk] = 0;
  lp_sim::now->written.clear();
}
template <int N> static inline void lp_registers_more() {}
template <int N> static inline void lp_registers_less() {}
LP_INLINE void lp_products_begin() {}
LP_INLINE void lp_products_commit() {
  lp_sim::now->product_groups.push_back(std::move(lp_sim::now->products));
  lp_sim::now->products.clear();
}
template <int N> static inline void lp_products_wait() {
  auto &groups = lp_sim::now->product_groups;
  for (; groups.size() > (size_t)N; groups.pop_front())
    for (auto &product : groups.front()) product();
  lp_sync_warp();
}
LP_INLINE u64 lp_rows128(const void *p) {
  return u64((const unsigned char *)p - lp_sim::shared) >> 4 | 1ull << 16 | 64ull << 32 | 1ull << 62;
}
#define LP_PRODUCTS(name, T, Left, Right) template <int R> static inline void name(T (&d)[R], u64 a, u64 b) { \
  auto all = [&d, a, b] { lp_sim::products<T, lp_sim::Left, lp_sim::Right, R>(d, a, b); }; \
  if (lp_sim::late) lp_sim::now->products.push_back(all); else all(); }
LP_PRODUCTS(lp_products_f16, float, F16, F16) LP_PRODUCTS(lp_products_bf16, float, Bf16, Bf16)
LP_PRODUCTS(lp_products_s8s8, i32, S8, S8) LP_PRODUCTS(lp_products_u8s8, i32, U8, S8)

LP_INLINE float lp_from_f16(u16 h) { _Float16 x; memcpy(&x, &h, 2); return (float)x; }
LP_INLINE u16 lp_to_f16(float f) { _Float16 x = (_Float16)f; u16 h; memcpy(&h, &x, 2); return h; }

#define LP_MATH1(name, single, both) \
  LP_INLINE float name(float x) { return single(x); } LP_INLINE double name(double x) { return both(x); }
#define LP_MATH2(name, single, both) \
  LP_INLINE float name(float x, float y) { return single(x, y); } \
  LP_INLINE double name(double x, double y) { return both(x, y); }
// How the next kernels run: asynchronous copies late or at once, and what the orders are drawn from.
extern "C" void lp_sim_mode(int late, u64 seed) { lp_sim::late = late; lp_sim::seed = seed * 2654435761ull + 1; }
extern "C" double lp_sim_turns() {  // of shared memory for a read of eight rows: 1 without bank conflicts
  return lp_sim::row_reads ? double(lp_sim::row_waves) / double(lp_sim::row_reads) : 1.0;
}

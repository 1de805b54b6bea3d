// What tensor cores and warp groups do, and barriers and copies in shared memory, on a CPU. After sim.hpp.
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
struct E5m2 { static const int count = 4; static float of(u32 w, int i) {
  u16 h = (u16)((w >> 8 * i & 0xFF) << 8); _Float16 x; memcpy(&x, &h, 2); return (float)x; } };
struct E4m3 { static const int count = 4; static float of(u32 w, int i) {
  const int b = w >> 8 * i & 0xFF, e = b >> 3 & 15, m = b & 7;
  const float x = e == 15 && m == 7 ? NAN : ldexpf(float(e ? 8 + m : m), (e ? e : 1) - 10);
  return b >> 7 ? -x : x; } };
struct U8 { static const int count = 4; static i32 of(u32 w, int i) { return (u8)(w >> 8 * i); } };
}  // namespace lp_sim
LP_INLINE void lp_load_matrices(u32 (&r)[4], const void *at) { lp_sim::load_matrices(r, at, false); }
LP_INLINE void lp_load_matrices_turned(u32 (&r)[4], const void *at) { lp_sim::load_matrices(r, at, true); }
#define LP_MMA(name, T, Left, Right) LP_INLINE void name(T (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) { \
  lp_sim::mma<T, lp_sim::Left, lp_sim::Right>(d, a, b0, b1); }
LP_MMA(lp_mma_f16, float, F16, F16) LP_MMA(lp_mma_bf16, float, Bf16, Bf16) LP_MMA(lp_mma_tf32, float, Tf32, Tf32)
LP_MMA(lp_mma_s8s8, i32, S8, S8) LP_MMA(lp_mma_u8s8, i32, U8, S8)
LP_MMA(lp_mma_s8u8, i32, S8, U8) LP_MMA(lp_mma_u8u8, i32, U8, U8)
#define LP_FLOAT8
LP_MMA(lp_mma_e4m3e4m3, float, E4m3, E4m3) LP_MMA(lp_mma_e5m2e4m3, float, E5m2, E4m3)
LP_MMA(lp_mma_e4m3e5m2, float, E4m3, E5m2) LP_MMA(lp_mma_e5m2e5m2, float, E5m2, E5m2)
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
template <class T, class Left, class Right, int R> static void products(T (&d)[R], u64 a, u64 b, int add) {
  const int lane = now->thread % 32, first = now->thread / 32 % 4 * 16 + lane / 4;
  for (int i = 0; i < R; ++i) {
    if (!add) d[i] = T(0);
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
#define LP_PRODUCTS(name, T, Left, Right) template <int R> static inline void name(T (&d)[R], u64 a, u64 b, int add = 1) { \
  auto all = [&d, a, b, add] { lp_sim::products<T, lp_sim::Left, lp_sim::Right, R>(d, a, b, add); }; \
  if (lp_sim::late) lp_sim::now->products.push_back(all); else all(); }
LP_PRODUCTS(lp_products_f16, float, F16, F16) LP_PRODUCTS(lp_products_bf16, float, Bf16, Bf16)
LP_PRODUCTS(lp_products_s8s8, i32, S8, S8) LP_PRODUCTS(lp_products_u8s8, i32, U8, S8)
LP_PRODUCTS(lp_products_e4m3e4m3, float, E4m3, E4m3) LP_PRODUCTS(lp_products_e5m2e4m3, float, E5m2, E4m3)
LP_PRODUCTS(lp_products_e4m3e5m2, float, E4m3, E5m2) LP_PRODUCTS(lp_products_e5m2e5m2, float, E5m2, E5m2)

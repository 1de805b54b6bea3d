// Tiles of matrix products by warp groups (sm_90a): one of them brings what two others multiply. After tensor.cuh.
#ifdef LP_WARPGROUPS
#define LP_OF_KIND(kind, T) template <int R> LP_INLINE void lp_products(lp_##kind, T (&d)[R], u64 a, u64 b, int add) { \
  lp_products_##kind(d, a, b, add); }
LP_OF_KIND(f16, float) LP_OF_KIND(bf16, float) LP_OF_KIND(s8s8, i32) LP_OF_KIND(u8s8, i32)
LP_OF_KIND(e4m3e4m3, float) LP_OF_KIND(e5m2e4m3, float) LP_OF_KIND(e4m3e5m2, float) LP_OF_KIND(e5m2e5m2, float)
#undef LP_OF_KIND

// 128 x BN elements, steps of 128 bytes along k in a ring of Stages places. The left factor is a source, copied 16 bytes
// at a time; the right one was packed when the model was compiled, a place's bytes as they lie in it, and comes as one.
// `step` counts the steps of all tiles of a block: places and phases go on from tile to tile, so that the next tile is on
// its way while results are stored.
template <class Kind, int BN, int Stages> struct lp_warpgroup_tile {
  typedef typename Kind::type T;
  typedef typename Kind::sum Sum;
  static constexpr int BM = 128, BK = 128 / sizeof(T), run = 16 / sizeof(T), stage = (BM + BN) * 128, lag = 2;
  static_assert(lag < Stages, "what is awaited was asked for");

  LP_METHOD static u64 *full(unsigned char *shared, int place) { return (u64 *)(shared + Stages * stage) + place; }
  LP_METHOD static u64 *empty(unsigned char *shared, int place) { return full(shared, Stages + place); }
  LP_METHOD static void start(unsigned char *shared) {
    if (LP_THREAD == 0) {
      for (int i = 0; i < Stages; ++i) {
        lp_barrier_start(full(shared, i), 4 + 1);  // the warps that bring, and who asks for the right factor
        lp_barrier_start(empty(shared, i), 8);     // the warps that multiply
      }
      lp_barriers_started();
      lp_publish();
    }
    lp_sync();
  }
  LP_METHOD static int place(int row, int chunk) { return row * 128 + ((chunk ^ (row & 7)) << 4); }

  // The first warp group. `b`: the packed bytes of this tile's columns.
  template <class A> LP_METHOD static void bring(const A &a, const unsigned char *b, int m0, int ks,
                                                 unsigned char *shared, int &step) {
    const int thread = int(LP_THREAD), chunk = thread % 8, steps = (ks + BK - 1) / BK;
    typename A::Row rows[8];
    LP_UNROLL
    for (int i = 0; i < 8; ++i) rows[i] = a.row(m0 + thread / 8 + i * 16);
    for (int s = 0; s < steps; ++s, ++step) {
      const int at = step % Stages;
      unsigned char *to = shared + at * stage;
      lp_barrier_wait(empty(shared, at), (step / Stages & 1) ^ 1);
      if (thread == 0) {
        lp_barrier_expect(full(shared, at), BN * 128);
        lp_copy_bulk(to + BM * 128, b + i64(s) * (BN * 128), BN * 128, full(shared, at));
      }
      LP_UNROLL
      for (int i = 0; i < 8; ++i) a.copy(to + place(thread / 8 + i * 16, chunk), rows[i], s * BK + chunk * run);
      lp_copy_commit();
      if (step >= lag) {
        lp_copy_wait<lag>();
        arrived(shared, step - lag);
      }
    }
  }
  LP_METHOD static void brought(unsigned char *shared, int step) {  // after the last tile
    lp_copy_wait<0>();
    for (int s = step > lag ? step - lag : 0; s < step; ++s) arrived(shared, s);
  }
  LP_METHOD static void arrived(unsigned char *shared, int step) {
    lp_publish();
    lp_sync_warp();
    if (LP_THREAD % 32 == 0) lp_barrier_arrive(full(shared, step % Stages));
  }

  // The other warp groups, each for 64 rows.
  template <class Out> LP_METHOD static void multiply(int m0, int n0, int ks, unsigned char *shared, int &step,
                                                      const Out &out) {
    const int thread = int(LP_THREAD) - 128, lane = thread % 32, steps = (ks + BK - 1) / BK;
    constexpr bool coarse = Kind::coarse;
    Sum acc[BN / 2], part[coarse ? BN / 2 : 1];  // `part`: of one step
    LP_UNROLL
    for (int i = 0; i < BN / 2; ++i) acc[i] = Sum(0);
    if constexpr (coarse)
      LP_UNROLL
      for (int i = 0; i < BN / 2; ++i) part[i] = Sum(0);
    for (int s = 0; s < steps; ++s, ++step) {
      const int at = step % Stages;
      const unsigned char *from = shared + at * stage;
      lp_barrier_wait(full(shared, at), step / Stages & 1);
      lp_products_begin();
      const unsigned char *left = from + thread / 128 * 8192, *right = from + BM * 128;
      LP_UNROLL
      for (int k = 0; k < 4; ++k) {
        if constexpr (coarse) lp_products(Kind(), part, lp_rows128(left + k * 32), lp_rows128(right + k * 32), k > 0);
        else lp_products(Kind(), acc, lp_rows128(left + k * 32), lp_rows128(right + k * 32), 1);
      }
      lp_products_commit();
      if constexpr (coarse) {
        lp_products_wait<0>();
        if (lane == 0) lp_barrier_arrive(empty(shared, at));
        LP_UNROLL
        for (int i = 0; i < BN / 2; ++i) acc[i] += part[i];
      } else {
        lp_products_wait<1>();
        if (s > 0 && lane == 0) lp_barrier_arrive(empty(shared, (step - 1) % Stages));
      }
    }
    if constexpr (!coarse) {
      lp_products_wait<0>();
      if (steps > 0 && lane == 0) lp_barrier_arrive(empty(shared, (step - 1) % Stages));
    }
    const int row = m0 + thread / 32 * 16 + lane / 4;
    LP_UNROLL
    for (int i = 0; i < BN / 2; i += 2) {
      const Sum sums[2] = {acc[i], acc[i + 1]};
      out(row + (i >> 1 & 1) * 8, n0 + i / 4 * 8 + lane % 4 * 2, sums);
    }
  }
};
#endif

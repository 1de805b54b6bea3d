// Tiles of matrix products on tensor cores. After product.cuh. Fragments are the same bytes for all kinds of numbers:
// 16 x 32 bytes of the left factor, 8 x 32 of the right one, both with k innermost.
#define LP_KIND(name, Type, Sum, multiply, to, from) struct name { \
  typedef Type type; typedef Sum sum; static constexpr bool coarse = false; \
  LP_MEMBER u32 fit(u32 x) { return x; } \
  LP_MEMBER u32 pair(float x, float y) { return u32(to(x)) | u32(to(y)) << 16; } \
  LP_MEMBER float lost(float x) { return x - from(to(x)); } \
  LP_MEMBER void mul(Sum (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) { multiply(d, a, b0, b1); } };
LP_KIND(lp_f16, u16, float, lp_mma_f16, lp_to_f16, lp_from_f16)
LP_KIND(lp_bf16, u16, float, lp_mma_bf16, lp_to_bf16, lp_from_bf16)
LP_KIND(lp_s8s8, u8, i32, lp_mma_s8s8, u8, float) LP_KIND(lp_u8s8, u8, i32, lp_mma_u8s8, u8, float)
LP_KIND(lp_s8u8, u8, i32, lp_mma_s8u8, u8, float) LP_KIND(lp_u8u8, u8, i32, lp_mma_u8u8, u8, float)
#undef LP_KIND
// 8-bit floats, left and right. `coarse`: tensor cores keep fewer bits of sums than f32 has, so a few products at a time
// are summed there, and the rest in f32.
#ifdef LP_FLOAT8
#define LP_KIND(name, multiply) struct name { \
  typedef u8 type; typedef float sum; static constexpr bool coarse = true; \
  LP_MEMBER u32 fit(u32 x) { return x; } \
  LP_MEMBER void mul(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) { \
    float part[4] = {0.0f, 0.0f, 0.0f, 0.0f}; \
    multiply(part, a, b0, b1); \
    LP_UNROLL \
    for (int e = 0; e < 4; ++e) d[e] += part[e]; \
  } };
LP_KIND(lp_e4m3e4m3, lp_mma_e4m3e4m3) LP_KIND(lp_e5m2e4m3, lp_mma_e5m2e4m3)
LP_KIND(lp_e4m3e5m2, lp_mma_e4m3e5m2) LP_KIND(lp_e5m2e5m2, lp_mma_e5m2e5m2)
#undef LP_KIND
#endif
struct lp_tf32 {
  typedef float type;
  typedef float sum;
  LP_MEMBER u32 fit(u32 x) { return lp_to_tf32(x); }
  LP_MEMBER void mul(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) { lp_mma_tf32(d, a, b0, b1); }
};

// Floats as sums of two tf32 numbers, all products but that of the two small ones: errors like those of f32. Eight terms
// at a time are summed by tensor cores, which cut off what does not fit, and added in f32, which rounds.
struct lp_tf32x3 {
  typedef float type;
  typedef float sum;
  struct Pair { u32 whole, large, small; };  // the number and its parts, which are 0 where it has none
  LP_MEMBER Pair split(u32 x) {
    const u32 near = (x + 0x1000u) & 0xFFFFE000u;
    const float rest = lp_bitcast<float>(x) - lp_bitcast<float>(near);
    const bool two = lp_fabs(lp_bitcast<float>(x)) < 0x1.FFEp127f;  // what is larger would become infinite
    return {two ? near : x & 0xFFFFE000u, two ? near : 0u, two ? lp_bitcast<u32>(rest) & 0xFFFFE000u : 0u};
  }
  LP_MEMBER u32 fit(u32 x) { return x; }
  LP_MEMBER void mul(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    const Pair y0 = split(b0), y1 = split(b1);
    u32 whole[4], large[4], small[4];
    LP_UNROLL
    for (int e = 0; e < 4; ++e) {
      const Pair x = split(a[e]);
      whole[e] = x.whole; large[e] = x.large; small[e] = x.small;
    }
    float part[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    lp_mma_tf32(part, small, y0.large, y1.large);
    lp_mma_tf32(part, large, y0.small, y1.small);
    lp_mma_tf32(part, whole, y0.whole, y1.whole);
    LP_UNROLL
    for (int e = 0; e < 4; ++e) d[e] += part[e];
  }
};

// Zero points of bytes: sum of (a - left) (b - right). Where bytes cannot hold b - right, the sums of the rows of `a` are
// needed, and of the columns of `b` where those are not known: products with ones.
struct lp_no_zeros {
  static constexpr bool rows = false, columns = false;
  template <class T> LP_METHOD T less(T sum, T, T, int) const { return sum; }
};
template <bool Columns, class Right> struct lp_zeros {
  static constexpr bool rows = true, columns = Columns;
  i32 left; const Right &right; int ks;
  LP_METHOD i32 less(i32 sum, i32 of_row, i32 of_column, int column) const {
    const u32 zero = u32(right(column)), rest = u32(sum) - zero * u32(of_row);
    return i32(Columns ? rest - u32(left) * (u32(of_column) - zero * u32(ks)) : rest);
  }
};

// Warps of WM x WN elements; stages of 64 bytes along k, so many in flight. Shared memory: Stages * stage bytes.
template <class Kind, int BM, int BN, int WM, int WN, int Stages> struct lp_tensor_tile {
  typedef typename Kind::type T;
  typedef typename Kind::sum Sum;
  static constexpr int warps_m = BM / WM, threads = 32 * warps_m * (BN / WN), stage = (BM + BN) * 64;
  static constexpr int BK = 64 / sizeof(T), AC = BM * 4 / threads, BC = BN * 4 / threads;  // chunks of a thread
  static_assert(AC * threads == BM * 4 && BC * threads == BN * 4, "chunks are dealt out evenly");

  // Rows of 64 bytes, their chunks of 16 permuted so that eight neighbouring rows lie in all banks.
  LP_METHOD static int place(int row, int chunk) { return row * 64 + ((chunk ^ ((row >> 1) & 3)) << 4); }

  template <class S, int Count>
  LP_METHOD static void bring(const S &s, const typename S::Row (&rows)[Count], unsigned char *to, int k0) {
    LP_UNROLL
    for (int i = 0; i < Count; ++i) {
      const int id = int(LP_THREAD) + i * threads, chunk = id % 4;
      s.copy(to + place(id / 4, chunk), rows[i], k0 + chunk * int(16 / sizeof(T)));
    }
  }
  template <class A, class B, class Out, class Zeros = lp_no_zeros>
  LP_METHOD static void run(const A &a, const B &b, int m0, int n0, int ks, unsigned char *shared, const Out &out,
                            const Zeros &zeros = Zeros()) {
    const int lane = int(LP_THREAD) % 32, warp = int(LP_THREAD) / 32;
    const int wm = warp % warps_m * WM, wn = warp / warps_m * WN, steps = (ks + BK - 1) / BK;
    typename A::Row left[AC];
    typename B::Row right[BC];
    LP_UNROLL
    for (int i = 0; i < AC; ++i) left[i] = a.row(m0 + (int(LP_THREAD) + i * threads) / 4);
    LP_UNROLL
    for (int i = 0; i < BC; ++i) right[i] = b.row(n0 + (int(LP_THREAD) + i * threads) / 4);
    Sum acc[WM / 16][WN / 8][4];
    LP_UNROLL
    for (int i = 0; i < WM / 16; ++i)
      LP_UNROLL
      for (int j = 0; j < WN / 8; ++j)
        LP_UNROLL
        for (int e = 0; e < 4; ++e) acc[i][j][e] = Sum(0);
    Sum of_rows[WM / 16][4] = {}, of_columns[WN / 8][4] = {};
    for (int s = 0; s < Stages - 1; ++s) {
      if (s < steps) {
        bring(a, left, shared + s * stage, s * BK);
        bring(b, right, shared + s * stage + BM * 64, s * BK);
      }
      lp_copy_commit();
    }
    for (int s = 0; s < steps; ++s) {
      lp_copy_wait<Stages - 2>();
      lp_sync();
      const int next = s + Stages - 1;
      if (next < steps) {
        unsigned char *to = shared + next % Stages * stage;
        bring(a, left, to, next * BK);
        bring(b, right, to + BM * 64, next * BK);
      }
      lp_copy_commit();
      add<Zeros>(acc, of_rows, of_columns, shared + s % Stages * stage, wm, wn, lane);
    }
    lp_copy_wait<0>();
    lp_sync();
    LP_UNROLL
    for (int i = 0; i < WM / 16; ++i)
      LP_UNROLL
      for (int j = 0; j < WN / 8; ++j)
        LP_UNROLL
        for (int h = 0; h < 2; ++h) {
          const int column = n0 + wn + j * 8 + lane % 4 * 2;
          const Sum sums[2] = {zeros.less(acc[i][j][2 * h], of_rows[i][2 * h], of_columns[j][0], column),
                               zeros.less(acc[i][j][2 * h + 1], of_rows[i][2 * h], of_columns[j][1], column + 1)};
          out(m0 + wm + i * 16 + h * 8 + lane / 4, column, sums);
        }
  }
  template <class Zeros>
  LP_METHOD static void add(Sum (&acc)[WM / 16][WN / 8][4], Sum (&of_rows)[WM / 16][4], Sum (&of_columns)[WN / 8][4],
                            const unsigned char *stage, int wm, int wn, int lane) {
    LP_UNROLL
    for (int half = 0; half < 2; ++half) {
      u32 x[WM / 16][4], y[WN / 16][4];
      LP_UNROLL
      for (int i = 0; i < WM / 16; ++i)
        lp_load_matrices(x[i], stage + place(wm + i * 16 + lane % 16, half * 2 + lane / 16));
      LP_UNROLL
      for (int j = 0; j < WN / 16; ++j)
        lp_load_matrices(y[j], stage + BM * 64 +
                               place(wn + j * 16 + lane % 8 + lane / 16 * 8, half * 2 + lane / 8 % 2));
      LP_UNROLL
      for (int i = 0; i < WM / 16; ++i)
        LP_UNROLL
        for (int e = 0; e < 4; ++e) x[i][e] = Kind::fit(x[i][e]);
      LP_UNROLL
      for (int j = 0; j < WN / 8; ++j)
        LP_UNROLL
        for (int i = 0; i < WM / 16; ++i)
          Kind::mul(acc[i][j], x[i], Kind::fit(y[j / 2][j % 2 * 2]), Kind::fit(y[j / 2][j % 2 * 2 + 1]));
      const u32 one = 0x01010101u, ones[4] = {one, one, one, one};
      if constexpr (Zeros::rows) {
        LP_UNROLL
        for (int i = 0; i < WM / 16; ++i) Kind::mul(of_rows[i], x[i], one, one);
      }
      if constexpr (Zeros::columns) {
        LP_UNROLL
        for (int j = 0; j < WN / 8; ++j) Kind::mul(of_columns[j], ones, y[j / 2][j % 2 * 2], y[j / 2][j % 2 * 2 + 1]);
      }
    }
  }
};

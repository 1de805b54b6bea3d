// Tiles of matrix products: out[m, n] = sum over k of a[m, k] * b[n, k]. After block.cuh.
//
// What a product reads is a "source": runs of four neighbours along k (`along_k`) or along its rows, zeros outside.
//   Row row(int i)                     what is known of row i (or of rows i … i + 3)
//   void fetch(Row, int k, T (&x)[4])
//   void copy(void *to, Row, int k)    16 bytes along k into shared memory, by lp_copy16 where `wide`
// What it makes goes to out(row, column, sums): an array of neighbours in a row.
LP_FN void lp_four(const T *p, T (&x)[4]) {
  static_assert(sizeof(T) == 4, "a vector of four");
  u32 bits[4];
  lp_load16(p, bits);
  for (int e = 0; e < 4; ++e) x[e] = lp_bitcast<T>(bits[e]);
}

LP_FN void lp_quad(const T *p, T *x) {  // four neighbours in shared memory, at a multiple of 4
  if constexpr (sizeof(T) == 4) {
    T four[4];
    lp_four(p, four);
    for (int e = 0; e < 4; ++e) x[e] = four[e];
  } else for (int e = 0; e < 4; ++e) x[e] = p[e];
}
template <class To, class M, int Count> LP_INLINE To lp_bitcast_run(const M (&x)[Count]) {
  static_assert(sizeof(To) == sizeof(x), "as many bytes");
  To y;
  LP_MEMCPY(&y, x, sizeof(To));
  return y;
}
LP_FN void lp_put(void *to, const T (&x)[16 / sizeof(T)]) {
  u32 bits[4];
  LP_MEMCPY(bits, x, 16);
  lp_store16(to, bits);
}

// `left` of the neighbours `x` into memory; `wide`: they lie there as one.
template <class M, int Count> LP_INLINE void lp_store_run(M *p, i64 step, const M (&x)[Count], bool wide, int left) {
  constexpr int bytes = Count * sizeof(M);
  if constexpr (bytes == 4 || bytes == 8 || bytes == 16)
    if (wide && left >= Count) {
      if constexpr (bytes == 16) lp_put(p, x);
      else if constexpr (bytes == 8) *(u64 *)p = lp_bitcast_run<u64>(x);
      else *(u32 *)p = lp_bitcast_run<u32>(x);
      return;
    }
  LP_UNROLL
  for (int e = 0; e < Count; ++e)
    if (e < left) p[e * step] = x[e];
}

// A matrix in memory. `wide`: runs of 16 bytes lie at multiples of 16 bytes (to be copied: at the end of rows too).
template <class T, bool Along> struct lp_matrix {
  static constexpr bool along_k = Along;
  typedef T type;
  struct Row { const T *at; int left; };
  const T *p; i64 row_step, k_step; int rows, ks; bool wide;
  LP_METHOD Row row(int i) const { return {p + (i < rows ? i * row_step : 0), rows - i}; }
  LP_METHOD void fetch(const Row &r, int k, T (&x)[4]) const {
    const int n = Along ? (r.left > 0 ? ks - k : 0) : k < ks ? r.left : 0;
    const i64 step = Along ? k_step : row_step;
    const T *at = r.at + (n > 0 ? k * k_step : 0);
    if constexpr (sizeof(T) == 4) if (wide && n >= 4) return lp_four(at, x);
    LP_UNROLL
    for (int e = 0; e < 4; ++e) x[e] = e < n ? at[e * step] : T(0);
  }
  LP_METHOD void copy(void *to, const Row &r, int k) const {
    constexpr int run = 16 / sizeof(T);
    const int n = r.left > 0 ? ks - k : 0;
    const T *at = r.at + (n > 0 ? k * k_step : 0);
    if (wide) return lp_copy16(to, at, n > 0);
    T x[run];
    LP_UNROLL
    for (int e = 0; e < run; ++e) x[e] = e < n ? at[e * k_step] : T(0);
    lp_put(to, x);
  }
};

// The windows of a convolution as a matrix: rows are output places (n, d, h, w), k is (d, h, w, channel) of the filter.
// What lies outside of the input counts as `fill`.
struct lp_axes { int d, h, w; };
template <class T> struct lp_windows {
  static constexpr bool along_k = true;
  typedef T type;
  struct Row { const T *at; int d, h, w; };
  const T *p; i64 image_step, d_step, h_step, w_step, c_step;
  lp_axes in, out, kernel, stride, dilation, pad; int channels, rows, ks; bool wide; T fill;
  LP_METHOD Row row(int i) const {
    if (i >= rows) return {p, -(1 << 30), 0, 0};  // outside everywhere
    const int w = i % out.w, h = i / out.w % out.h, rest = i / out.w / out.h, d = rest % out.d;
    return {p + rest / out.d * image_step, d * stride.d - pad.d, h * stride.h - pad.h, w * stride.w - pad.w};
  }
  LP_METHOD const T *place(const Row &r, int k) const {  // null: padding
    const int c = k % channels, tap = k / channels, kw = tap % kernel.w, kh = tap / kernel.w % kernel.h;
    const int d = r.d + tap / kernel.w / kernel.h * dilation.d, h = r.h + kh * dilation.h, w = r.w + kw * dilation.w;
    const bool there = k < ks && (u32)d < (u32)in.d && (u32)h < (u32)in.h && (u32)w < (u32)in.w;
    return there ? r.at + d * d_step + h * h_step + w * w_step + c * c_step : nullptr;
  }
  LP_METHOD void fetch(const Row &r, int k, T (&x)[4]) const {
    if (channels % 4 == 0) {  // four channels of one place
      const T *at = place(r, k);
      if constexpr (sizeof(T) == 4) if (wide && at) return lp_four(at, x);
      LP_UNROLL
      for (int e = 0; e < 4; ++e) x[e] = at ? at[e * c_step] : T(0);
      return;
    }
    LP_UNROLL
    for (int e = 0; e < 4; ++e) {
      const T *at = place(r, k + e);
      x[e] = at ? *at : T(0);
    }
  }
  LP_METHOD void copy(void *to, const Row &r, int k) const {
    constexpr int run = 16 / sizeof(T);
    const T *at = place(r, k);
    if (wide && (at || fill == T(0) || k >= ks)) return lp_copy16(to, at ? at : p, at != nullptr);
    T x[run];
    LP_UNROLL
    for (int e = 0; e < run; ++e) {
      at = place(r, k + e);
      x[e] = at ? *at : k + e < ks ? fill : T(0);
    }
    lp_put(to, x);
  }
};

// A tile in plain arithmetic: Slices groups of TY x TX threads, each with its own steps of BK along k; a thread sums
// 4 QM x 4 QN elements. `room`: LP_TILE_BYTES of shared memory.
template <class T, int QM, int QN, int TY, int TX, int BK, int Slices> struct lp_tile {
  static constexpr int BM = 4 * QM * TY, BN = 4 * QN * TX, lanes = TY * TX, threads = lanes * Slices;
  static constexpr int PM = BM + 4, PN = BN + 4, stage = BK * (PM + PN);
  static constexpr int AQ = BM * BK / 4 / lanes, BQ = BN * BK / 4 / lanes;  // runs that a thread brings
  static constexpr int parts = (Slices - 1) * BM * BN, words = 2 * stage * Slices;
  static_assert(AQ * lanes * 4 == BM * BK && BQ * lanes * 4 == BN * BK, "runs are dealt out evenly");
  static_assert(parts <= words, "sums of the slices fit where the stages were");

  template <class S, int Q, int B> struct Bring {  // a thread's share of a source's stages
    typename S::Row rows[Q];
    T x[Q][4];
    LP_METHOD static int row_of(int q, int lane) {
      const int i = q * lanes + lane;
      return S::along_k ? i / (BK / 4) : i % (B / 4) * 4;
    }
    LP_METHOD static int k_of(int q, int lane) {
      const int i = q * lanes + lane;
      return S::along_k ? i % (BK / 4) * 4 : i / (B / 4);
    }
    LP_METHOD void start(const S &source, int first, int lane) {
      LP_UNROLL
      for (int q = 0; q < Q; ++q) rows[q] = source.row(first + row_of(q, lane));
    }
    LP_METHOD void fetch(const S &source, int k0, int lane) {
      LP_UNROLL
      for (int q = 0; q < Q; ++q) source.fetch(rows[q], k0 + k_of(q, lane), x[q]);
    }
    LP_METHOD void put(T *to, int pitch, int lane) const {
      LP_UNROLL
      for (int q = 0; q < Q; ++q) {
        const int row = row_of(q, lane), k = k_of(q, lane);
        LP_UNROLL
        for (int e = 0; e < 4; ++e) {
          if (S::along_k) to[(k + e) * pitch + row] = x[q][e];
          else to[k * pitch + row + e] = x[q][e];
        }
      }
    }
  };

  template <class A, class B, class Out>
  LP_METHOD static void run(const A &a, const B &b, int m0, int n0, int ks, unsigned char *shared, const Out &out) {
    const int slice = int(LP_THREAD) / lanes, lane = int(LP_THREAD) % lanes, ty = lane / TX, tx = lane % TX;
    T *const room = (T *)shared, *const mine = room + 2 * stage * slice;
    T acc[4 * QM][4 * QN];
    LP_UNROLL
    for (int i = 0; i < 4 * QM; ++i)
      LP_UNROLL
      for (int j = 0; j < 4 * QN; ++j) acc[i][j] = T(0);
    Bring<A, AQ, BM> left;
    Bring<B, BQ, BN> right;
    left.start(a, m0, lane);
    right.start(b, n0, lane);
    left.fetch(a, slice * BK, lane);
    right.fetch(b, slice * BK, lane);
    left.put(mine, PM, lane);
    right.put(mine + BK * PM, PN, lane);
    lp_sync();
    int now = 0;
    for (int k0 = 0; k0 < ks; k0 += BK * Slices, now ^= 1) {
      const int next = k0 + BK * Slices;
      if (next < ks) {
        left.fetch(a, next + slice * BK, lane);
        right.fetch(b, next + slice * BK, lane);
      }
      add(acc, mine + now * stage, ty, tx);
      if (next < ks) {
        left.put(mine + (now ^ 1) * stage, PM, lane);
        right.put(mine + (now ^ 1) * stage + BK * PM, PN, lane);
      }
      lp_sync();
    }
    if constexpr (Slices > 1) gather(acc, room, slice, lane);
    if (slice == 0) {
      LP_UNROLL
      for (int i = 0; i < 4 * QM; ++i)
        LP_UNROLL
        for (int q = 0; q < QN; ++q) {
          const T sums[4] = {acc[i][4 * q], acc[i][4 * q + 1], acc[i][4 * q + 2], acc[i][4 * q + 3]};
          out(m0 + i / 4 * 4 * TY + ty * 4 + i % 4, n0 + q * 4 * TX + tx * 4, sums);
        }
    }
    if constexpr (Slices > 1) lp_sync();
  }
  LP_METHOD static void add(T (&acc)[4 * QM][4 * QN], const T *stage, int ty, int tx) {
    LP_UNROLL
    for (int k = 0; k < BK; ++k) {
      T x[4 * QM], y[4 * QN];
      LP_UNROLL
      for (int q = 0; q < QM; ++q) lp_quad(stage + k * PM + q * 4 * TY + ty * 4, x + 4 * q);
      LP_UNROLL
      for (int q = 0; q < QN; ++q) lp_quad(stage + BK * PM + k * PN + q * 4 * TX + tx * 4, y + 4 * q);
      LP_UNROLL
      for (int i = 0; i < 4 * QM; ++i)
        LP_UNROLL
        for (int j = 0; j < 4 * QN; ++j) acc[i][j] = lp_add(acc[i][j], lp_mul(x[i], y[j]));
    }
  }
  LP_METHOD static void gather(T (&acc)[4 * QM][4 * QN], T *room, int slice, int lane) {
    LP_UNROLL
    for (int i = 0; i < 16 * QM * QN; ++i)
      if (slice > 0) room[((slice - 1) * 16 * QM * QN + i) * lanes + lane] = acc[i / (4 * QN)][i % (4 * QN)];
    lp_sync();
    LP_UNROLL
    for (int s = 0; s < Slices - 1; ++s)
      LP_UNROLL
      for (int i = 0; i < 16 * QM * QN; ++i)
        if (slice == 0) {
          T &sum = acc[i / (4 * QN)][i % (4 * QN)];
          sum = lp_add(sum, room[(s * 16 * QM * QN + i) * lanes + lane]);
        }
  }
};

// A product of few rows: a warp sums one column for all of them, lanes along k.
template <class T, int Rows, class A, class B, class Out>
LP_INLINE void lp_columns(const A &a, const B &b, int n, int ks, const Out &out) {
  const int lane = int(LP_THREAD) % 32;
  T acc[Rows];
  typename A::Row rows[Rows];
  LP_UNROLL
  for (int i = 0; i < Rows; ++i) {
    acc[i] = T(0);
    rows[i] = a.row(i);
  }
  const typename B::Row column = b.row(n);
  for (int k = lane * 4; k < ks; k += 128) {
    T x[4], y[4];
    b.fetch(column, k, y);
    LP_UNROLL
    for (int i = 0; i < Rows; ++i) {
      a.fetch(rows[i], k, x);
      LP_UNROLL
      for (int e = 0; e < 4; ++e) acc[i] = lp_add(acc[i], lp_mul(x[e], y[e]));
    }
  }
  LP_UNROLL
  for (int i = 0; i < Rows; ++i) {
    for (int by = 16; by > 0; by /= 2) acc[i] = lp_add(acc[i], lp_shuffle_down_of(acc[i], by));
    const T sums[1] = {acc[i]};
    if (lane == 0) out(i, n, sums);
  }
}

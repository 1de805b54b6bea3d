// Attention: softmax(scale * q k^T + mask) v of one head, a block of rows of q at a time, with a running maximum and
// sum, so that no row of scores is ever whole. After tensor.cuh. Factors are lp_matrix; mask(row, column) is added.
LP_FN T lp_nothing() {  // the score of what is not there
  if constexpr (sizeof(T) == 4) return lp_bitcast<T>(0xFF800000u);
  else return lp_bitcast<T>(0xFFF0000000000000ull);
}
LP_FN T lp_score_base(T top) {  // so that nothing becomes inf - inf while all is masked
  return top == lp_nothing<T>() ? T(0) : top;
}

// In plain arithmetic: BM rows, 32 columns of scores; a thread holds 4 x 4 of them, and of 4 rows every 8th quad of
// the result. D and E: sizes of a row of k and of v.
template <class T, int BM, int D, int E> struct lp_attention {
  static constexpr int BN = 32, TX = 8, threads = BM / 4 * TX, DP = (D + 3) / 4 * 4, QE = (E + 31) / 32;
  static constexpr int PM = BM + 4, PN = BN + 4, EP = QE * 32 + 4;
  static constexpr int kv = DP * PN > BN * EP ? DP * PN : BN * EP, words = DP * PM + kv + BN * PM;

  template <class S> LP_METHOD static void bring(const S &s, int first, int count, int ks, T *to, int pitch, bool turn) {
    for (int i = int(LP_THREAD); i < count * (ks / 4); i += threads) {
      const int row = i / (ks / 4), k = i % (ks / 4) * 4;
      T x[4];
      s.fetch(s.row(first + row), k, x);
      for (int e = 0; e < 4; ++e) to[turn ? (k + e) * pitch + row : row * pitch + k + e] = x[e];
    }
  }
  template <class Q, class K, class V, class Mask, class Out>
  LP_METHOD static void run(const Q &q, const K &k, const V &v, int m0, int length, T scale, unsigned char *shared,
                            const Mask &mask, const Out &out) {
    T *const qs = (T *)shared, *const ks = qs + DP * PM, *const ps = ks + kv;
    const int ty = int(LP_THREAD) / TX, tx = int(LP_THREAD) % TX;
    T top[4], sum[4], acc[4][4 * QE];
    LP_UNROLL
    for (int i = 0; i < 4; ++i) {
      top[i] = lp_nothing<T>();
      sum[i] = T(0);
      LP_UNROLL
      for (int j = 0; j < 4 * QE; ++j) acc[i][j] = T(0);
    }
    bring(q, m0, BM, DP, qs, PM, true);
    for (int n0 = 0; n0 < length; n0 += BN) {
      lp_sync();
      bring(k, n0, BN, DP, ks, PN, true);
      lp_sync();
      T s[4][4];
      scores(s, qs, ks, ty, tx);
      LP_UNROLL
      for (int i = 0; i < 4; ++i) {
        T most = top[i];
        LP_UNROLL
        for (int j = 0; j < 4; ++j) {
          const int column = n0 + tx * 4 + j;
          s[i][j] = column < length ? mask(m0 + ty * 4 + i, column, s[i][j] * scale)
                                    : lp_nothing<T>();
          most = lp_maximum(most, s[i][j]);
        }
        for (int by = 4; by > 0; by /= 2) most = lp_maximum(most, lp_shuffle_xor_of(most, by));
        const T base = lp_score_base(most), shrink = lp_exp(top[i] - base);
        top[i] = most;
        sum[i] *= shrink;
        LP_UNROLL
        for (int j = 0; j < 4 * QE; ++j) acc[i][j] *= shrink;
        LP_UNROLL
        for (int j = 0; j < 4; ++j) {
          const T p = lp_exp(s[i][j] - base);
          sum[i] += p;
          ps[(tx * 4 + j) * PM + ty * 4 + i] = p;
        }
      }
      lp_sync();
      bring(v, n0, BN, QE * 32, ks, EP, false);
      lp_sync();
      weigh(acc, ps, ks, ty, tx);
    }
    lp_sync();
    LP_UNROLL
    for (int i = 0; i < 4; ++i) {
      for (int by = 4; by > 0; by /= 2) sum[i] += lp_shuffle_xor_of(sum[i], by);
      if (length <= 0) sum[i] = T(1);  // nothing to weigh: 0
      LP_UNROLL
      for (int q = 0; q < QE; ++q) {
        T row[4];
        LP_UNROLL
        for (int j = 0; j < 4; ++j) row[j] = acc[i][4 * q + j] / sum[i];
        out(m0 + ty * 4 + i, q * 32 + tx * 4, row);
      }
    }
  }
  LP_METHOD static void scores(T (&s)[4][4], const T *qs, const T *ks, int ty, int tx) {
    LP_UNROLL
    for (int i = 0; i < 16; ++i) s[i / 4][i % 4] = T(0);
    for (int d = 0; d < DP; ++d) {
      T x[4], y[4];
      lp_quad(qs + d * PM + ty * 4, x);
      lp_quad(ks + d * PN + tx * 4, y);
      LP_UNROLL
      for (int i = 0; i < 16; ++i) s[i / 4][i % 4] += x[i / 4] * y[i % 4];
    }
  }
  LP_METHOD static void weigh(T (&acc)[4][4 * QE], const T *ps, const T *vs, int ty, int tx) {
    for (int j = 0; j < BN; ++j) {
      T x[4];
      lp_quad(ps + j * PM + ty * 4, x);
      LP_UNROLL
      for (int c = 0; c < QE; ++c) {
        T y[4];
        lp_quad(vs + j * EP + c * 32 + tx * 4, y);
        LP_UNROLL
        for (int i = 0; i < 16; ++i) acc[i / 4][c * 4 + i % 4] += x[i / 4] * y[i % 4];
      }
    }
  }
};

// On tensor cores: four warps of 16 rows, 64 columns of scores, k and v in `Stages` places each. Halves alone; `Exact`:
// what the weights of the sum lose as halves is summed too.
template <class Kind, int D, int E, int Stages, bool Exact> struct lp_tensor_attention {
  static constexpr int BM = 64, BN = 64, threads = 128, DP = (D + 15) / 16 * 16, EP = (E + 15) / 16 * 16;
  static constexpr int pitch_d = DP % 64 ? DP * 2 + 16 : DP * 2, pitch_e = EP % 64 ? EP * 2 + 16 : EP * 2;
  static constexpr int stage = BN * (pitch_d + pitch_e), bytes = BM * pitch_d + Stages * stage;

  template <int Size> LP_METHOD static int place(int row, int chunk) {  // of 16 bytes: eight rows lie in all banks
    return Size % 64 ? row * (Size * 2 + 16) + chunk * 16 : row * Size * 2 + ((chunk ^ (row & 7)) << 4);
  }
  template <int Size, class S> LP_METHOD static void bring(const S &s, int first, unsigned char *to) {
    for (int i = int(LP_THREAD); i < 64 * (Size / 8); i += threads) {
      const int row = i / (Size / 8), chunk = i % (Size / 8);
      s.copy(to + place<Size>(row, chunk), s.row(first + row), chunk * 8);
    }
  }
  template <class Q, class K, class V, class Mask, class Out>
  LP_METHOD static void run(const Q &q, const K &k, const V &v, int m0, int length, float scale, unsigned char *shared,
                            const Mask &mask, const Out &out) {
    const int lane = int(LP_THREAD) % 32, warp = int(LP_THREAD) / 32, steps = (length + BN - 1) / BN;
    unsigned char *const stages = shared + BM * pitch_d;
    float acc[EP / 8][4], top[2], sum[2];
    LP_UNROLL
    for (int h = 0; h < 2; ++h) {
      top[h] = lp_nothing<float>();
      sum[h] = 0.0f;
    }
    LP_UNROLL
    for (int i = 0; i < EP / 8 * 4; ++i) acc[i / 4][i % 4] = 0.0f;
    bring<DP>(q, m0, shared);
    if (Stages > 1) {
      bring<DP>(k, 0, stages);
      bring<EP>(v, 0, stages + BN * pitch_d);
    }
    lp_copy_commit();
    for (int s = 0; s < steps; ++s) {
      if (Stages == 1) {
        bring<DP>(k, s * BN, stages);
        bring<EP>(v, s * BN, stages + BN * pitch_d);
        lp_copy_commit();
      }
      lp_copy_wait<0>();
      lp_sync();
      if (Stages > 1 && s + 1 < steps) {
        unsigned char *const to = stages + (s + 1) % Stages * stage;
        bring<DP>(k, (s + 1) * BN, to);
        bring<EP>(v, (s + 1) * BN, to + BN * pitch_d);
      }
      if (Stages > 1) lp_copy_commit();
      const unsigned char *const ks = stages + s % Stages * stage;
      float p[8][4];
      scores(p, shared, ks, warp, lane);
      soften(p, acc, top, sum, m0 + warp * 16 + lane / 4, s * BN + lane % 4 * 2, length, scale, mask);
      weigh(acc, p, ks + BN * pitch_d, lane);
      if (Stages == 1) lp_sync();
    }
    lp_copy_wait<0>();
    lp_sync();
    LP_UNROLL
    for (int h = 0; h < 2; ++h) {
      sum[h] += lp_shuffle_xor_of(sum[h], 1);
      sum[h] += lp_shuffle_xor_of(sum[h], 2);
      if (length <= 0) sum[h] = 1.0f;  // nothing to weigh: 0
      LP_UNROLL
      for (int i = 0; i < EP / 8; ++i) {
        const float row[2] = {acc[i][h * 2] / sum[h], acc[i][h * 2 + 1] / sum[h]};
        out(m0 + warp * 16 + lane / 4 + h * 8, i * 8 + lane % 4 * 2, row);
      }
    }
  }
  LP_METHOD static void scores(float (&p)[8][4], const unsigned char *qs, const unsigned char *ks, int warp, int lane) {
    LP_UNROLL
    for (int i = 0; i < 32; ++i) p[i / 4][i % 4] = 0.0f;
    LP_UNROLL
    for (int d = 0; d < DP / 16; ++d) {
      u32 x[4];  // read again each time: registers are few
      lp_load_matrices(x, qs + place<DP>(warp * 16 + lane % 16, d * 2 + lane / 16));
      LP_UNROLL
      for (int j = 0; j < 4; ++j) {
        u32 y[4];
        lp_load_matrices(y, ks + place<DP>(j * 16 + lane % 8 + lane / 16 * 8, d * 2 + lane / 8 % 2));
        Kind::mul(p[j * 2], x, y[0], y[1]);
        Kind::mul(p[j * 2 + 1], x, y[2], y[3]);
      }
    }
  }
  template <class Mask>
  LP_METHOD static void soften(float (&p)[8][4], float (&acc)[EP / 8][4], float (&top)[2], float (&sum)[2], int row,
                               int column, int length, float scale, const Mask &mask) {
    LP_UNROLL
    for (int h = 0; h < 2; ++h) {
      float most = top[h];
      LP_UNROLL
      for (int i = 0; i < 16; ++i) {
        float &s = p[i / 2][h * 2 + i % 2];
        const int at = column + i / 2 * 8 + i % 2;
        s = at < length ? mask(row + h * 8, at, s * scale) : lp_nothing<float>();
        most = lp_maximum(most, s);
      }
      most = lp_maximum(most, lp_shuffle_xor_of(most, 1));
      most = lp_maximum(most, lp_shuffle_xor_of(most, 2));
      const float base = lp_score_base(most), shrink = lp_exp(top[h] - base);
      top[h] = most;
      sum[h] *= shrink;
      LP_UNROLL
      for (int i = 0; i < EP / 8 * 2; ++i) acc[i / 2][h * 2 + i % 2] *= shrink;
      LP_UNROLL
      for (int i = 0; i < 16; ++i) {
        float &s = p[i / 2][h * 2 + i % 2];
        s = lp_exp(s - base);
        sum[h] += s;
      }
    }
  }
  LP_METHOD static void weigh(float (&acc)[EP / 8][4], const float (&p)[8][4], const unsigned char *vs, int lane) {
    LP_UNROLL
    for (int j = 0; j < 4; ++j) {
      u32 x[4], rest[4];
      LP_UNROLL
      for (int i = 0; i < 4; ++i) {
        const float a = p[j * 2 + i / 2][i % 2 * 2], b = p[j * 2 + i / 2][i % 2 * 2 + 1];
        x[i] = Kind::pair(a, b);
        if (Exact) rest[i] = Kind::pair(Kind::lost(a), Kind::lost(b));
      }
      LP_UNROLL
      for (int c = 0; c < EP / 16; ++c) {
        u32 y[4];
        lp_load_matrices_turned(y, vs + place<EP>(j * 16 + lane % 16, c * 2 + lane / 16));
        Kind::mul(acc[c * 2], x, y[0], y[1]);
        Kind::mul(acc[c * 2 + 1], x, y[2], y[3]);
        if (Exact) {
          Kind::mul(acc[c * 2], rest, y[0], y[1]);
          Kind::mul(acc[c * 2 + 1], rest, y[2], y[3]);
        }
      }
    }
  }
};

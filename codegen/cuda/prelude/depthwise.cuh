// Depthwise convolutions: each channel has `per` filters of its own. A thread sums V neighbouring filters at W places
// in a row; what it reads of a line is held for all of the filter's taps. After moves.cuh.
#define LP_AS(name, Type, from) struct name { typedef Type type; template <class T> LP_MEMBER T of(Type x) { return T(from(x)); } };
LP_AS(lp_as_f16, u16, lp_from_f16) LP_AS(lp_as_bf16, u16, lp_from_bf16)
LP_AS(lp_as_f32, float, float) LP_AS(lp_as_f64, double, double)
#undef LP_AS

template <class As, class T, int V, int W, int KW, int SW, int DW> struct lp_depthwise {
  typedef typename As::type M;
  static constexpr int span = (W - 1) * SW + (KW - 1) * DW + 1;
  static constexpr bool whole = KW <= 8 && span <= 32;  // else tap by tap: long lines would take all registers
  i64 d_step, h_step, w_step, c_step;
  lp_axes in, kernel, stride, dilation, pad; int per, filters; bool wide;
  const M *taps; bool wide_taps;                        // [d, h, w, filter]

  LP_METHOD void fetch(const M *line, int w, int c, T (&x)[V]) const {
    const bool there = (u32)w < (u32)in.w;
    const M *at = line + (there ? w * w_step : 0);
    M raw[V];
    if (per == 1 && wide) lp_load_run(at + c, raw, true, there ? filters - c : 0);
    else {
      LP_UNROLL
      for (int e = 0; e < V; ++e) raw[e] = there && c + e < filters ? at[(c + e) / per * c_step] : M(0);
    }
    LP_UNROLL
    for (int e = 0; e < V; ++e) x[e] = As::template of<T>(raw[e]);
  }
  LP_METHOD void weigh(int tap, int c, T (&f)[V]) const {
    M raw[V];
    lp_load_run(taps + i64(tap) * filters + c, raw, wide_taps, filters - c);
    LP_UNROLL
    for (int e = 0; e < V; ++e) f[e] = As::template of<T>(raw[e]);
  }
  LP_METHOD void line(const M *line, int tap, int first, int c, T (&acc)[W][V]) const {
    if constexpr (whole) {
      T f[KW][V], x[V];
      LP_UNROLL
      for (int k = 0; k < KW; ++k) weigh(tap + k, c, f[k]);
      LP_UNROLL
      for (int j = 0; j < span; ++j) {
        fetch(line, first + j, c, x);
        LP_UNROLL
        for (int i = 0; i < W * KW; ++i)  // the place i / KW meets this element by tap i % KW
          if (i / KW * SW + i % KW * DW == j) add(acc[i / KW], x, f[i % KW]);
      }
    } else {
      for (int k = 0; k < KW; ++k) {
        T f[V], x[V];
        weigh(tap + k, c, f);
        LP_UNROLL
        for (int i = 0; i < W; ++i) {
          fetch(line, first + i * SW + k * DW, c, x);
          add(acc[i], x, f);
        }
      }
    }
  }
  LP_METHOD static void add(T (&acc)[V], const T (&x)[V], const T (&f)[V]) {
    LP_UNROLL
    for (int e = 0; e < V; ++e) acc[e] = lp_add(acc[e], lp_mul(x[e], f[e]));
  }
  // The places w, w + 1 … of the line (d, h) of an image that begins at `image`, by the filters c, c + 1 …
  LP_METHOD void run(const M *image, int d, int h, int w, int c, T (&acc)[W][V]) const {
    LP_UNROLL
    for (int i = 0; i < W * V; ++i) acc[i / V][i % V] = T(0);
    for (int a = 0; a < kernel.d; ++a) {
      const int z = d * stride.d - pad.d + a * dilation.d;
      if ((u32)z >= (u32)in.d) continue;
      for (int b = 0; b < kernel.h; ++b) {
        const int y = h * stride.h - pad.h + b * dilation.h;
        if ((u32)y < (u32)in.h)
          line(image + z * d_step + y * h_step, (a * kernel.h + b) * KW, w * SW - pad.w, c, acc);
      }
    }
  }
};

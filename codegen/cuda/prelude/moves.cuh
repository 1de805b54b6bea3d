// Elements that are moved or mapped one by one. After product.cuh.
// `left` of the neighbours at `p`, zeros after them; `wide`: they lie there as one.
template <class M, int Count> LP_INLINE void lp_load_run(const M *p, M (&x)[Count], bool wide, int left) {
  constexpr int bytes = Count * sizeof(M);
  if constexpr (bytes == 4 || bytes == 8 || bytes == 16)
    if (wide && left >= Count) {
      if constexpr (bytes == 16) {
        u32 bits[4];
        lp_load16(p, bits);
        LP_MEMCPY(x, bits, 16);
      } else if constexpr (bytes == 8) {
        const u64 bits = *(const u64 *)p;
        LP_MEMCPY(x, &bits, 8);
      } else {
        const u32 bits = *(const u32 *)p;
        LP_MEMCPY(x, &bits, 4);
      }
      return;
    }
  LP_UNROLL
  for (int e = 0; e < Count; ++e) x[e] = e < left ? p[e] : M(0);
}

// A square of 32 x 32 elements from rows along r to rows along c, through shared memory: 256 threads, 32 * 33 elements.
template <class M> LP_INLINE void lp_turn(const M *in, M *out, i64 rows, i64 columns, i64 in_step, i64 out_step, i64 r0,
                                          i64 c0, unsigned char *shared) {
  M *const room = (M *)shared;
  const int x = int(LP_THREAD) % 32, y = int(LP_THREAD) / 32;
  LP_UNROLL
  for (int i = 0; i < 32; i += 8)
    if (r0 + x < rows && c0 + y + i < columns) room[(y + i) * 33 + x] = in[r0 + x + (c0 + y + i) * in_step];
  lp_sync();
  LP_UNROLL
  for (int i = 0; i < 32; i += 8)
    if (r0 + y + i < rows && c0 + x < columns) out[c0 + x + (r0 + y + i) * out_step] = room[x * 33 + y + i];
  lp_sync();
}

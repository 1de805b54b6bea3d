// What the threads of a block do together. After ops.cuh.
template <class T> LP_INLINE T lp_shuffle_down_of(T x, int by) {
  if constexpr (sizeof(T) == 8) {
    u64 bits = lp_bitcast<u64>(x);
    u64 low = lp_shuffle_down(u32(bits), by), high = lp_shuffle_down(u32(bits >> 32), by);
    return lp_bitcast<T>(low | high << 32);
  } else if constexpr (sizeof(T) == 4) return lp_bitcast<T>(lp_shuffle_down(lp_bitcast<u32>(x), by));
  else return T(lp_shuffle_down(u32(x), by));
}
LP_FN T lp_shuffle_xor_of(T x, int by) {
  if constexpr (sizeof(T) == 8) {
    const u64 bits = lp_bitcast<u64>(x);
    const u64 low = lp_shuffle_xor(u32(bits), by), high = lp_shuffle_xor(u32(bits >> 32), by);
    return lp_bitcast<T>(low | high << 32);
  } else return lp_bitcast<T>(lp_shuffle_xor(lp_bitcast<u32>(x), by));
}
// All threads' values combined by an associative op, in every thread. `room` is 33 * 8 bytes of shared memory; the
// order of combination depends on the number of threads alone.
template <class T, class Op> LP_INLINE T lp_reduce(T x, T neutral, unsigned char *room, Op op) {
  for (int by = 16; by > 0; by /= 2) x = op(x, lp_shuffle_down_of(x, by));
  T *parts = (T *)room;
  int lane = int(LP_THREAD % 32), warp = int(LP_THREAD / 32), warps = int(LP_THREADS / 32);
  if (warps > 1) {
    lp_sync();
    if (lane == 0) parts[warp] = x;
    lp_sync();
    if (warp == 0) {
      x = lane < warps ? parts[lane] : neutral;
      for (int by = 16; by > 0; by /= 2) x = op(x, lp_shuffle_down_of(x, by));
    }
  }
  lp_sync();
  if (LP_THREAD == 0) parts[32] = x;
  lp_sync();
  return parts[32];
}

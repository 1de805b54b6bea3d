// What a block finds out about a row: its entries in order, the first of them, running sums, where something is. After
// block.cuh. `room` is 33 * 8 bytes of shared memory.

// A whole number for each: x < y where code(x) < code(y). -0 is 0; NaN is above all.
template <int Bytes> struct lp_word { typedef u32 type; };
template <> struct lp_word<8> { typedef u64 type; };
LP_FN auto lp_code(T x) {
  if constexpr (LP_FLOAT) {
    typedef typename lp_word<sizeof(T)>::type Bits;
    constexpr Bits sign = Bits(1) << (8 * sizeof(T) - 1);
    if (x != x) return Bits(~Bits(0));
    const Bits bits = lp_bitcast<Bits>(x == T(0) ? T(0) : x);
    return bits & sign ? Bits(~bits) : Bits(bits | sign);
  } else if constexpr (sizeof(T) == 8) return LP_SIGNED ? u64(x) ^ 1ull << 63 : u64(x);
  else return LP_SIGNED ? u32(i32(x)) ^ 1u << 31 : u32(x);
}
template <class Key> struct lp_entry { Key key; u32 at; };
struct lp_first {
  template <class Key> LP_METHOD bool operator()(const lp_entry<Key> &x, const lp_entry<Key> &y) const {
    return x.key < y.key || (x.key == y.key && x.at < y.at);
  }
};

// Puts n items in order: before(x, y) is a total order. Bitonic merging in which all runs ascend, so that items behind the
// last one count as greatest without being there. The items may lie anywhere in memory.
template <class Item, class Before> LP_INLINE void lp_sort(Item *items, i64 n, const Before &before) {
  for (i64 half = 1; half < n; half *= 2)
    for (i64 step = half; step > 0; step /= 2) {
      lp_sync();
      for (i64 i = LP_THREAD;; i += LP_THREADS) {
        const i64 low = i / step * 2 * step + i % step;
        if (low >= n) break;
        const i64 high = step == half ? low / (2 * step) * 4 * step + 2 * step - 1 - low : low + step;
        if (high >= n || !before(items[high], items[low])) continue;
        const Item x = items[low];
        items[low] = items[high];
        items[high] = x;
      }
    }
  lp_sync();
}

// What the threads before this one have, combined by an associative op, and what all have.
template <class T, class Op> LP_INLINE T lp_before(T x, T neutral, T &total, unsigned char *room, Op op) {
  T *parts = (T *)room;
  const int lane = int(LP_THREAD % 32), warp = int(LP_THREAD / 32), warps = int(LP_THREADS / 32);
  T mine = neutral;
  for (int by = 1; by < 32; by *= 2) {
    const T other = lp_shuffle_xor_of(x, by);
    if (lane & by) mine = op(other, mine);
    x = lane & by ? op(other, x) : op(x, other);
  }
  if (lane == 0) parts[warp] = x;
  lp_sync();
  T front = neutral;
  total = neutral;
  for (int w = 0; w < warps; ++w) {
    if (w < warp) front = op(front, parts[w]);
    total = op(total, parts[w]);
  }
  lp_sync();
  return op(front, mine);
}

// Running sums: put(i, what comes before element i, with it unless `Exclusive`). A thread takes `Run` neighbours.
template <class T, int Run, bool Exclusive, class Get, class Put, class Op>
LP_INLINE void lp_running(i64 n, T neutral, const Get &get, const Put &put, unsigned char *room, Op op) {
  T sum = neutral;
  for (i64 base = 0; base < n; base += LP_THREADS * Run) {
    const i64 first = base + LP_THREAD * Run;
    T x[Run], own = neutral, total;
    LP_UNROLL
    for (int e = 0; e < Run; ++e) {
      x[e] = first + e < n ? get(first + e) : neutral;
      own = op(own, x[e]);
    }
    T now = op(sum, lp_before(own, neutral, total, room, op));
    LP_UNROLL
    for (int e = 0; e < Run; ++e) {
      const T after = op(now, x[e]);
      if (first + e < n) put(first + e, Exclusive ? now : after);
      now = after;
    }
    sum = op(sum, total);
  }
}

// put(place, i) for all i of [0, n) that are hits, in order.
template <int Run, class Hit, class Put>
LP_INLINE void lp_find(i64 n, const Hit &hit, const Put &put, unsigned char *room) {
  i64 found = 0;
  for (i64 base = 0; base < n; base += LP_THREADS * Run) {
    const i64 first = base + LP_THREAD * Run;
    u32 hits = 0, count = 0, all;
    LP_UNROLL
    for (int e = 0; e < Run; ++e)
      if (first + e < n && hit(first + e)) {
        hits |= 1u << e;
        ++count;
      }
    i64 place = found + lp_before(count, 0u, all, room, [](u32 x, u32 y) { return x + y; });
    LP_UNROLL
    for (int e = 0; e < Run; ++e)
      if (hits >> e & 1) put(place++, first + e);
    found += all;
  }
}

// put(j, i) for the first k of n elements in the order of their keys, those that are alike in the order of their places.
// `Room` entries lie behind `room`: what may yet be among the first is gathered there, and cut to k when there is no
// more place. Room >= k + threads * Run.
template <class Key, int Room, int Run, class Code, class Put>
LP_INLINE void lp_firsts(i64 n, i64 k, const Code &code, const Put &put, unsigned char *room) {
  typedef lp_entry<Key> Entry;
  Entry *const kept = (Entry *)(room + 272);
  const lp_first before;
  i64 count = 0;
  bool full = false;
  Entry last = {};
  for (i64 base = 0; base < n; base += LP_THREADS * Run) {
    Entry x[Run];
    u32 hits = 0, mine = 0, all;
    LP_UNROLL
    for (int e = 0; e < Run; ++e) {  // in turns, so that neighbours are read together
      const i64 i = base + e * LP_THREADS + LP_THREAD;
      if (i >= n) continue;
      x[e] = {code(i), u32(i)};
      if (full && !before(x[e], last)) continue;
      hits |= 1u << e;
      ++mine;
    }
    i64 place = count + lp_before(mine, 0u, all, room, [](u32 a, u32 b) { return a + b; });
    LP_UNROLL
    for (int e = 0; e < Run; ++e)
      if (hits >> e & 1) kept[place++] = x[e];
    count += all;
    if (count + LP_THREADS * Run <= Room) continue;
    lp_sort(kept, count, before);
    count = count < k ? count : k;
    full = count == k;
    if (full && k > 0) last = kept[k - 1];
    lp_sync();
  }
  lp_sort(kept, count, before);
  for (i64 j = LP_THREAD; j < k && j < count; j += LP_THREADS) put(j, i64(kept[j].at));
  lp_sync();
}

// The same with as many entries in memory as there are elements.
template <class Key, class Code, class Put>
LP_INLINE void lp_in_order(i64 n, i64 k, const Code &code, const Put &put, lp_entry<Key> *all) {
  for (i64 i = LP_THREAD; i < n; i += LP_THREADS) all[i] = {code(i), u32(i)};
  lp_sort(all, n, lp_first());
  for (i64 j = LP_THREAD; j < k; j += LP_THREADS) put(j, i64(all[j].at));
  lp_sync();
}

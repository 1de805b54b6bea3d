/* plan.c: offsets for buffers with lifetimes. The compiler calls this for static models, a session
 * for dynamic ones, so that both get the same arena. */
#include <stdlib.h>

#include "runtime.h"

typedef struct problem {
  uint32_t n;
  const int64_t *sizes;
  const uint32_t *first, *last;
} problem;

static int64_t rounded(int64_t size) {
  return (size + LPT_ALIGNMENT - 1) / LPT_ALIGNMENT * LPT_ALIGNMENT;
}

static bool placed_before(const problem *p, uint32_t a, uint32_t b) {
  if (p->sizes[a] != p->sizes[b]) return p->sizes[a] > p->sizes[b];
  if (p->first[a] != p->first[b]) return p->first[a] < p->first[b];
  return a < b;
}

/* Heap sort: no recursion, no allocation, and the order is total, so the result is unique. */
static void sift_down(const problem *p, uint32_t *heap, uint32_t root, uint32_t end) {
  for (;;) {
    uint32_t child = 2 * root + 1;
    if (child >= end) return;
    if (child + 1 < end && placed_before(p, heap[child], heap[child + 1])) child++;
    if (!placed_before(p, heap[root], heap[child])) return;
    uint32_t held = heap[root];
    heap[root] = heap[child];
    heap[child] = held;
    root = child;
  }
}

static void sort_by_size(const problem *p, uint32_t *order) {
  for (uint32_t i = 0; i < p->n; i++) order[i] = i;
  for (uint32_t i = p->n / 2; i-- > 0;) sift_down(p, order, i, p->n);
  for (uint32_t end = p->n; end-- > 1;) {
    uint32_t held = order[0];
    order[0] = order[end];
    order[end] = held;
    sift_down(p, order, 0, end);
  }
}

/* The smallest hole between the placed buffers that live with `buffer`, else the end of the last.
 * `placed` is sorted by offset. */
static int64_t best_offset(const problem *p, uint32_t buffer, const uint32_t *placed,
                           uint32_t n_placed, const int64_t *offsets) {
  int64_t size = rounded(p->sizes[buffer]), end = 0, best = -1, best_hole = INT64_MAX;
  for (uint32_t i = 0; i < n_placed; i++) {
    uint32_t other = placed[i];
    if (p->last[other] < p->first[buffer] || p->first[other] > p->last[buffer]) continue;
    int64_t hole = offsets[other] - end;
    if (hole >= size && hole < best_hole) {
      best = end;
      best_hole = hole;
    }
    int64_t other_end = offsets[other] + rounded(p->sizes[other]);
    if (other_end > end) end = other_end;
  }
  return best >= 0 ? best : end;
}

static bool sizes_are_sound(const problem *p) {
  int64_t sum = 0; /* of all sizes: no offset can pass it, so nothing below can overflow */
  for (uint32_t i = 0; i < p->n; i++) {
    if (p->sizes[i] < 0 || p->sizes[i] > LPT_MAX_BYTES) return false;
    sum += rounded(p->sizes[i]);
    if (sum > INT64_MAX / 2) return false;
  }
  return true;
}

int64_t lpt_plan(uint32_t n, const int64_t *sizes, const uint32_t *first, const uint32_t *last,
                 uint32_t *order, int64_t *out_offsets) {
  problem p = {n, sizes, first, last};
  if (!sizes_are_sound(&p)) return -1;
  sort_by_size(&p, order);
  uint32_t *placed = order + n;
  int64_t arena = 0;
  uint32_t n_placed = 0;
  for (uint32_t i = 0; i < n; i++) {
    uint32_t buffer = order[i];
    out_offsets[buffer] = 0;
    if (sizes[buffer] == 0) continue;
    int64_t offset = best_offset(&p, buffer, placed, n_placed, out_offsets);
    out_offsets[buffer] = offset;
    if (offset + rounded(sizes[buffer]) > arena) arena = offset + rounded(sizes[buffer]);
    uint32_t at = n_placed++;
    for (; at > 0 && out_offsets[placed[at - 1]] > offset; at--) placed[at] = placed[at - 1];
    placed[at] = buffer;
  }
  return arena <= LPT_MAX_BYTES ? arena : -1;
}

/* plan_test.c: random buffers never overlap while alive together; bad sizes are refused. */
#include "check.h"
#include "runtime.h"

enum { MOST = 200 };

static uint32_t state = 12345;
static uint32_t next_random(void) {
  state ^= state << 13;
  state ^= state >> 17;
  return state ^= state << 5;
}

static void random_plans_are_sound(void) {
  for (int round = 0; round < 300; round++) {
    int64_t sizes[MOST], offsets[MOST];
    uint32_t first[MOST], last[MOST], order[2 * MOST], n = next_random() % MOST;
    for (uint32_t i = 0; i < n; i++) {
      sizes[i] = next_random() % 5 ? next_random() % 100000 : 0;
      first[i] = next_random() % 50;
      last[i] = first[i] + next_random() % 8;
    }
    int64_t total = lpt_plan(n, sizes, first, last, order, offsets);
    for (uint32_t a = 0; a < n; a++) {
      CHECK(offsets[a] % LPT_ALIGNMENT == 0 && offsets[a] >= 0 && offsets[a] + sizes[a] <= total);
      for (uint32_t b = 0; b < a; b++) {
        bool together = first[a] <= last[b] && first[b] <= last[a];
        bool apart = offsets[a] + sizes[a] <= offsets[b] || offsets[b] + sizes[b] <= offsets[a];
        CHECK(!together || apart || !sizes[a] || !sizes[b]);
      }
    }
  }
}

static void a_chain_takes_two_buffers(void) {
  int64_t sizes[10], offsets[10];
  uint32_t first[10], last[10], order[20];
  for (uint32_t i = 0; i < 10; i++) {
    sizes[i] = 1000;
    first[i] = i;
    last[i] = i + 1;
  }
  CHECK(lpt_plan(10, sizes, first, last, order, offsets) == 2 * 1024);
}

static void bad_sizes_are_refused(void) {
  int64_t offsets[2];
  uint32_t first[2] = {0, 0}, last[2] = {1, 1}, order[4];
  CHECK(lpt_plan(0, NULL, NULL, NULL, NULL, NULL) == 0);
  CHECK(lpt_plan(2, (int64_t[]){1, -1}, first, last, order, offsets) == -1);
  CHECK(lpt_plan(2, (int64_t[]){INT64_MAX, 1}, first, last, order, offsets) == -1);
  CHECK(lpt_plan(2, (int64_t[]){LPT_MAX_BYTES, LPT_MAX_BYTES}, first, last, order, offsets) == -1);
}

int main(void) {
  RUN(random_plans_are_sound);
  RUN(a_chain_takes_two_buffers);
  RUN(bad_sizes_are_refused);
  return failures != 0;
}

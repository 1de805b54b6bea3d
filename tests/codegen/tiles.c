/* The tile instructions of AMX as functions, as Intel's manual describes them: what tests link kernels for x86-amx with
 * on machines without it. Rules that the processor enforces by a fault are checked by aborting. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static _Thread_local struct {
  int configured;
  uint8_t rows[8];
  uint16_t width[8];
  uint8_t data[8][16][64];
} state;
_Thread_local int64_t tile_counts[4]; /* ldtilecfg, tilerelease, products, loads */

static void require(int condition, const char *what) {
  if (condition) return;
  fprintf(stderr, "tiles: %s\n", what);
  abort();
}

static void in_use(int t) { require(state.configured && t >= 0 && t < 8 && state.rows[t], "no such tile"); }

void tiles_ldtilecfg(const uint8_t *config) {
  require(config[0] == 1, "the palette is not 1");
  for (int i = 1; i < 64; i++) {
    int unused = i < 16 || (i >= 32 && i < 48) || i >= 56;
    require(!unused || !config[i], "reserved bytes of the configuration are not 0");
  }
  memset(&state, 0, sizeof state);
  for (int t = 0; t < 8; t++) {
    memcpy(&state.width[t], config + 16 + 2 * t, 2);
    state.rows[t] = config[48 + t];
    require(state.rows[t] <= 16 && state.width[t] <= 64, "a tile is too large");
    require(!state.rows[t] == !state.width[t], "a tile is half configured");
  }
  state.configured = 1;
  tile_counts[0]++;
}

void tiles_tilerelease(void) {
  memset(&state, 0, sizeof state);
  tile_counts[1]++;
}

void tiles_tilezero(uint8_t t) {
  in_use(t);
  memset(state.data[t], 0, sizeof state.data[t]);
}

void tiles_tileloadd64(uint8_t t, const uint8_t *from, int64_t stride) {
  in_use(t);
  memset(state.data[t], 0, sizeof state.data[t]);
  for (int r = 0; r < state.rows[t]; r++) memcpy(state.data[t][r], from + r * stride, state.width[t]);
  tile_counts[3]++;
}

void tiles_tilestored64(uint8_t t, uint8_t *to, int64_t stride) {
  in_use(t);
  for (int r = 0; r < state.rows[t]; r++) memcpy(to + r * stride, state.data[t][r], state.width[t]);
}

static void fit(int c, int a, int b) {
  in_use(c), in_use(a), in_use(b);
  require(c != a && c != b && a != b, "a product of a tile with itself");
  require(state.rows[a] == state.rows[c] && state.width[b] == state.width[c], "tiles do not fit");
  require(state.width[a] / 4 == state.rows[b] && state.width[a] % 4 == 0, "tiles do not fit");
  tile_counts[2]++;
}

static void bytes(int c, int a, int b, int is_signed) {
  fit(c, a, b);
  for (int m = 0; m < state.rows[c]; m++)
    for (int k = 0; k < state.rows[b]; k++)
      for (int n = 0; n < state.width[c] / 4; n++) {
        uint32_t sum;
        memcpy(&sum, &state.data[c][m][4 * n], 4);
        for (int i = 0; i < 4; i++) {
          uint8_t left = state.data[a][m][4 * k + i];
          sum += (uint32_t)((is_signed ? (int8_t)left : left) * (int8_t)state.data[b][k][4 * n + i]);
        }
        memcpy(&state.data[c][m][4 * n], &sum, 4);
      }
}

void tiles_tdpbusd(uint8_t c, uint8_t a, uint8_t b) { bytes(c, a, b, 0); }
void tiles_tdpbssd(uint8_t c, uint8_t a, uint8_t b) { bytes(c, a, b, 1); }

/* Denormals are zeros, and results that are denormal become zeros. */
static float flushed(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  if (!(bits & 0x7f800000)) bits &= 0x80000000;
  memcpy(&x, &bits, 4);
  return x;
}

static float upper(const uint8_t *half) {
  uint8_t whole[4] = {0, 0, half[0], half[1]};
  float x;
  memcpy(&x, whole, 4);
  return flushed(x);
}

/* Even and odd elements are summed apart over k, by fused multiply-adds, then together, then to the tile. */
void tiles_tdpbf16ps(uint8_t c, uint8_t a, uint8_t b) {
  fit(c, a, b);
  for (int m = 0; m < state.rows[c]; m++)
    for (int n = 0; n < state.width[c] / 4; n++) {
      float sums[2] = {0, 0}, total;
      for (int k = 0; k < state.rows[b]; k++)
        for (int i = 0; i < 2; i++)
          sums[i] = flushed(__builtin_fmaf(upper(&state.data[a][m][4 * k + 2 * i]),
                                           upper(&state.data[b][k][4 * n + 2 * i]), sums[i]));
      memcpy(&total, &state.data[c][m][4 * n], 4);
      total = flushed(flushed(total) + flushed(sums[0] + sums[1]));
      memcpy(&state.data[c][m][4 * n], &total, 4);
    }
}

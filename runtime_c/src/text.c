/* text.c: strings put together, taken apart, matched, changed in case and ranked: the builtins behind the
 * ops of lepton_ir/ops/strings.py, where their meaning stands. Strings are bytes; white space and case look
 * at UTF-8, and bytes that are none stay as they are. */
#include <string.h>

#include "runtime.h"

static int64_t count_of(const lepton_tensor *t) {
  int64_t n = 1;
  for (int32_t i = 0; i < t->rank; i++) n *= t->shape[i];
  return n;
}

static const int64_t *numbers_of(const lepton_call *call, uint32_t input) { return call->inputs[input].data; }

/* x, y -> each string of y behind that of x. */
lepton_status lpt_string_concat(lepton_call *call) {
  lepton_session *session = lpt_session_of(call);
  const int64_t *x = numbers_of(call, 0), *y = numbers_of(call, 1);
  int64_t *out = call->outputs[0].data;
  for (int64_t i = 0, n = count_of(&call->outputs[0]); i < n; i++) {
    lepton_string a = call->text(call, x[i]), b = call->text(call, y[i]);
    char *room = lpt_string_begin(session, a.size + b.size);
    if (!room) return LEPTON_OUT_OF_MEMORY;
    if (a.size) memcpy(room, a.data, a.size);
    if (b.size) memcpy(room + a.size, b.data, b.size);
    lepton_status status = lpt_string_finish(session, a.size + b.size, (lepton_string){room, a.size + b.size}, &out[i]);
    if (status) return status;
  }
  return LEPTON_OK;
}

/* ---- UTF-8 ------------------------------------------------------------------------------------------- */

/* The code point at p and its length; a byte that begins none: UINT32_MAX, and length 1. */
static uint32_t decode(const char *text, size_t size, size_t *out_length) {
  const uint8_t *p = (const uint8_t *)text;
  static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
  uint32_t length = p[0] < 0x80 ? 1 : p[0] < 0xc0 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : p[0] < 0xf8 ? 4 : 0;
  uint32_t point = length <= 1 ? p[0] : p[0] & (0x7f >> length);
  bool sound = length && length <= size;
  for (uint32_t i = 1; sound && i < length; i++) {
    sound = (p[i] & 0xc0) == 0x80;
    point = point << 6 | (p[i] & 0x3f);
  }
  sound = sound && point >= least[length] && point <= 0x10ffff && (point < 0xd800 || point > 0xdfff);
  *out_length = sound ? length : 1;
  return sound ? point : UINT32_MAX;
}

/* Python's str.isspace. */
static bool is_space(uint32_t c) {
  if (c < 0x80) return c == ' ' || (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x1f);
  return c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 ||
         c == 0x202f || c == 0x205f || c == 0x3000;
}

/* ---- split ------------------------------------------------------------------------------------------- */

typedef struct splitter {
  const char *at, *end;
  const char *delimiter;
  size_t delimiter_size; /* 0: white space */
  int64_t left;          /* splits that may still be made; negative: any number */
  bool done;
} splitter;

static splitter split(const lepton_call *call, lepton_string text) {
  splitter s = {.at = text.data, .end = text.data + text.size, .delimiter = (const char *)call->attributes + 8,
                .delimiter_size = call->attributes_size - 8};
  memcpy(&s.left, call->attributes, 8);
  s.done = text.size == 0 && s.delimiter_size == 0; /* nothing is one piece between delimiters, none in white space */
  return s;
}

/* Where white space ends (`spaces`), or begins. */
static const char *skip(const char *at, const char *end, bool spaces) {
  for (size_t length; at < end; at += length)
    if (is_space(decode(at, (size_t)(end - at), &length)) != spaces) break;
  return at;
}

static bool next_word(splitter *s, lepton_string *out) {
  s->at = skip(s->at, s->end, true);
  if (s->at == s->end) return false;
  const char *end = s->left == 0 ? s->end : skip(s->at, s->end, false);
  *out = (lepton_string){s->at, (size_t)(end - s->at)};
  s->at = end;
  s->left -= s->left > 0;
  return true;
}

static const char *find(const splitter *s) {
  for (const char *p = s->at; (size_t)(s->end - p) >= s->delimiter_size; p++) {
    p = memchr(p, *s->delimiter, (size_t)(s->end - p) - s->delimiter_size + 1);
    if (!p) return NULL;
    if (!memcmp(p, s->delimiter, s->delimiter_size)) return p;
  }
  return NULL;
}

static bool next_piece(splitter *s, lepton_string *out) {
  if (s->done) return false;
  if (!s->delimiter_size) return next_word(s, out);
  const char *found = s->left && s->at ? find(s) : NULL;
  *out = (lepton_string){s->at, (size_t)((found ? found : s->end) - s->at)};
  s->done = !found;
  s->at = found ? found + s->delimiter_size : s->end;
  s->left -= s->left > 0;
  return true;
}

/* attributes: i64 splits at most (negative: any number), then the delimiter.
 * x -> pieces with one more dimension, of the size that this gives; counts. */
lepton_status lpt_string_split(lepton_call *call) {
  const int64_t *x = numbers_of(call, 0);
  int64_t n = count_of(&call->inputs[0]), width = 0;
  lepton_string piece;
  for (int64_t i = 0; i < n; i++) {
    int64_t count = 0;
    for (splitter s = split(call, call->text(call, x[i])); next_piece(&s, &piece);) count++;
    width = count > width ? count : width;
  }
  lepton_status status = call->resize(call, &width);
  if (status) return status;
  int64_t *pieces = call->outputs[0].data, *counts = call->outputs[1].data;
  for (int64_t i = 0; i < n; i++) {
    int64_t k = 0;
    for (splitter s = split(call, call->text(call, x[i])); !status && k < width && next_piece(&s, &piece); k++)
      status = call->intern(call, piece, &pieces[i * width + k]);
    if (status) return status;
    counts[i] = k;
    for (; k < width; k++) pieces[i * width + k] = 0;
  }
  return LEPTON_OK;
}

/* ---- match ------------------------------------------------------------------------------------------- */

/* attributes: u32 states, classes, 0, 0; u8 class of each byte [256]; u16 accepting [states]; u16 next
 * [states][classes]. State 0 is a dead end, 1 the start. x -> bool */
lepton_status lpt_regex_full_match(lepton_call *call) {
  const int64_t *x = numbers_of(call, 0);
  uint8_t *out = call->outputs[0].data;
  const uint32_t *head = call->attributes;
  const uint8_t *classes = (const uint8_t *)(head + 4);
  const uint16_t *accepts = (const uint16_t *)(classes + 256), *table = accepts + head[0];
  for (int64_t i = 0, n = count_of(&call->inputs[0]); i < n; i++) {
    lepton_string text = call->text(call, x[i]);
    uint32_t state = 1;
    for (size_t k = 0; k < text.size && state; k++) state = table[state * head[1] + classes[(uint8_t)text.data[k]]];
    out[i] = accepts[state] != 0;
  }
  return LEPTON_OK;
}

/* ---- case -------------------------------------------------------------------------------------------- */

/* The entry of a code point in a sorted table; n: not there. */
static uint32_t entry_of(const uint32_t *points, uint32_t n, uint32_t point) {
  uint32_t low = 0, high = n;
  while (low < high) {
    uint32_t middle = (low + high) / 2;
    if (points[middle] < point) low = middle + 1;
    else high = middle;
  }
  return low < n && points[low] == point ? low : n;
}

/* attributes: u32 n, most bytes out for one in, 0, 0; u32 code point [n]; u32 where its UTF-8 begins [n + 1];
 * those bytes. x -> the strings with these code points replaced. */
lepton_status lpt_string_case(lepton_call *call) {
  lepton_session *session = lpt_session_of(call);
  const int64_t *x = numbers_of(call, 0);
  int64_t *out = call->outputs[0].data;
  const uint32_t *head = call->attributes, *points = head + 4, *starts = points + head[0];
  const char *bytes = (const char *)(starts + head[0] + 1);
  for (int64_t i = 0, n = count_of(&call->inputs[0]); i < n; i++) {
    lepton_string text = call->text(call, x[i]);
    size_t most = text.size * head[1], used = 0, length;
    char *room = lpt_string_begin(session, most);
    if (!room) return LEPTON_OUT_OF_MEMORY;
    for (size_t k = 0; k < text.size; k += length) {
      uint32_t entry = entry_of(points, head[0], decode(text.data + k, text.size - k, &length));
      bool known = entry < head[0];
      size_t size = known ? starts[entry + 1] - starts[entry] : length;
      memcpy(room + used, known ? bytes + starts[entry] : text.data + k, size);
      used += size;
    }
    lepton_status status = lpt_string_finish(session, most, (lepton_string){room, used}, &out[i]);
    if (status) return status;
  }
  return LEPTON_OK;
}

/* ---- rank -------------------------------------------------------------------------------------------- */

static bool before(const lpt_strings *s, int64_t a, int64_t b) {
  lepton_string x = s->entries[a].text, y = s->entries[b].text;
  size_t size = x.size < y.size ? x.size : y.size;
  int order = size ? memcmp(x.data, y.data, size) : 0;
  return order < 0 || (order == 0 && x.size < y.size);
}

static void sink(const lpt_strings *s, int64_t *heap, int64_t at, int64_t n) {
  for (int64_t child; (child = 2 * at + 1) < n; at = child) {
    child += child + 1 < n && before(s, heap[child], heap[child + 1]);
    if (!before(s, heap[at], heap[child])) return;
    int64_t kept = heap[at];
    heap[at] = heap[child], heap[child] = kept;
  }
}

/* x -> how many different strings of x stand before each. By heap sort: it needs no memory. */
lepton_status lpt_string_rank(lepton_call *call) {
  lpt_strings *s = &lpt_session_of(call)->strings;
  const int64_t *x = numbers_of(call, 0);
  int64_t *out = call->outputs[0].data, n = count_of(&call->inputs[0]);
  for (int64_t i = 0; i < n; i++) out[i] = x[i] < 0 || x[i] >= (int64_t)s->count ? 0 : x[i];
  for (int64_t i = n / 2; i-- > 0;) sink(s, out, i, n);
  for (int64_t end = n - 1; end > 0; end--) {
    int64_t top = out[0];
    out[0] = out[end], out[end] = top;
    sink(s, out, 0, end);
  }
  uint32_t rank = 0;
  for (int64_t i = 0; i < n; i++) {
    rank += i && out[i] != out[i - 1];
    s->entries[out[i]].rank = rank;
  }
  for (int64_t i = 0; i < n; i++) out[i] = s->entries[x[i] < 0 || x[i] >= (int64_t)s->count ? 0 : x[i]].rank;
  return LEPTON_OK;
}

/* text_test.c: the builtins on text, each in a program of one call, over awkward and random bytes. */
#define _GNU_SOURCE
#include <locale.h>

#include "check.h"
#include "runtime.h"

#define LENGTH(array) (uint32_t)(sizeof(array) / sizeof *(array))

/* ---- programs of one call: x[N] (and y[N]) -> out[N], or pieces[N,K] and counts[N] ------------------------- */

enum { N = 2, N_BYTES, K, NK_BYTES, ENV };

static void shape(int64_t *env) {
  env[N_BYTES] = 8 * env[N];
  env[NK_BYTES] = 8 * env[N] * env[K];
}

static const int64_t env[ENV] = {0, 1};
static const lpt_symbol symbols[] = {{N, 0, 0, 0, 0, 0}};
static const lepton_string words[] = {{NULL, 0}};

typedef struct one {
  lepton_port in[2], out[2];
  lpt_port_slots in_slots[2], out_slots[2];
  lpt_buffer buffers[4];
  lpt_operand operands[4];
  lpt_step step[1];
  lpt_call_tensor tensors[4];
  lpt_host_call call[1];
  lpt_program program;
} one;

static const uint32_t bound[] = {K};

/* `late`: the first output is [N,K], and there is a second one of i64 [N]. */
static void make(one *o, const char *name, const void *attributes, size_t size, lepton_dtype from, lepton_dtype to,
                 uint32_t n_inputs, bool late) {
  uint32_t n_outputs = late ? 2 : 1, n = n_inputs + n_outputs;
  memset(o, 0, sizeof *o);
  for (uint32_t i = 0; i < n; i++) {
    bool output = i >= n_inputs, wide = late && i == n_inputs;
    lepton_dtype dtype = !output ? from : i == n_inputs ? to : LEPTON_I64;
    uint32_t k = output ? i - n_inputs : i;
    lepton_port port = {output ? "out" : "in", dtype, wide ? 2 : 1, {-1, -1}, NULL};
    lpt_port_slots slots = {{N, wide ? K | LPT_SLOT_LATE : 0}};
    *(output ? &o->out[k] : &o->in[k]) = port;
    *(output ? &o->out_slots[k] : &o->in_slots[k]) = slots;
    o->buffers[i] = (lpt_buffer){output ? LPT_OUTPUT : LPT_INPUT, k, 0, wide ? NK_BYTES : N_BYTES, 0, 0, 0};
    o->operands[i] = (lpt_operand){i, 0};
    o->tensors[i] = (lpt_call_tensor){dtype, wide ? 2 : 1, slots};
  }
  o->step[0] = (lpt_step){NULL, name, LPT_HOST_CALL, 0, n, 0, 1, 0, 1, 0};
  o->call[0] = (lpt_host_call){name, attributes, size, o->tensors, bound, n_inputs, n_outputs, late ? 1 : 0, 0};
  o->program = (lpt_program){
    .target = "test", .metadata = "{}", .inputs = o->in, .outputs = o->out, .input_slots = o->in_slots,
    .output_slots = o->out_slots, .buffers = o->buffers, .operands = o->operands, .steps = o->step,
    .symbols = symbols, .env = env, .shape = shape, .calls = o->call, .strings = words, .n_inputs = n_inputs,
    .n_outputs = n_outputs, .n_buffers = n, .n_operands = n, .n_steps = 1, .n_symbols = 1, .n_env = ENV,
    .n_calls = 1, .n_strings = 1, .max_operands = n,
  };
}

static lepton_session *begin(const one *o) {
  lepton_options options = {.struct_size = sizeof options, .threads = 1};
  lepton_session *session = NULL;
  CHECK(lpt_create(&o->program, NULL, &options, &session) == LEPTON_OK);
  if (!session) exit(1);
  return session;
}

/* Runs on `n` elements; outputs are the session's. */
static lepton_status run(lepton_session *session, void *x, void *y, int64_t n, lepton_tensor *out) {
  const lepton_port *ports = session->program->inputs;
  lepton_tensor in[] = {{.data = x, .dtype = ports[0].dtype, .rank = 1, .shape = {n}},
                        {.data = y, .dtype = ports[0].dtype, .rank = 1, .shape = {n}}};
  memset(out, 0, 2 * sizeof *out);
  return lpt_run(session, in, out);
}

static lepton_string str(const char *text) { return (lepton_string){text, strlen(text)}; }
static bool is(lepton_string s, const char *text) { return s.size == strlen(text) && !memcmp(s.data, text, s.size); }

/* ---- random bytes, whole characters among them; each string in memory of its exact size -------------------- */

static uint32_t state = 4711;
static uint32_t next_random(void) {
  state ^= state << 13;
  state ^= state >> 17;
  return state ^= state << 5;
}

enum { MANY = 300 };

static void random_strings(lepton_string *out) {
  static const char *const parts[] = {"a", "B", ",", " ", "\xc3\xa9", "\xe3\x80\x80", "\xf0\x9f\x98\x80", "\xff", "\xe3\x80",
                                      "\xc2", "\xc3\x9f", "\n", "\xf0\x9f"};
  for (int i = 0; i < MANY; i++) {
    char text[64];
    size_t used = 0;
    for (uint32_t k = next_random() % 8; k > 0; k--) {
      const char *part = parts[next_random() % LENGTH(parts)];
      memcpy(text + used, part, strlen(part));
      used += strlen(part);
    }
    char *own = malloc(used ? used : 1);
    memcpy(own, text, used);
    out[i] = (lepton_string){own, used};
  }
}

static void forget(lepton_string *strings) {
  for (int i = 0; i < MANY; i++) free((void *)(uintptr_t)strings[i].data);
}

/* ---- tests -------------------------------------------------------------------------------------------------- */

static void concat(void) {
  one o;
  make(&o, "string_concat", NULL, 0, LEPTON_STRING, LEPTON_STRING, 2, false);
  lepton_session *session = begin(&o);
  lepton_string x[MANY], y[MANY];
  random_strings(x), random_strings(y);
  lepton_tensor out[2];
  for (int64_t n = MANY; n >= 0; n -= 50) {
    CHECK(run(session, x, y, n, out) == LEPTON_OK && out->shape[0] == n);
    for (int64_t i = 0; i < n; i++) {
      lepton_string got = ((lepton_string *)out->data)[i];
      CHECK(got.size == x[i].size + y[i].size && !memcmp(got.data, x[i].data, x[i].size));
      CHECK(!memcmp(got.data + x[i].size, y[i].data, y[i].size));
    }
  }
  forget(x), forget(y);
  lpt_destroy(session);
}

/* The pieces, put together again with the delimiter, are the string. */
static void split_and_join(const char *delimiter, int64_t most) {
  char attributes[16];
  size_t length = strlen(delimiter);
  memcpy(attributes, &most, 8), memcpy(attributes + 8, delimiter, length);
  one o;
  make(&o, "string_split", attributes, 8 + length, LEPTON_STRING, LEPTON_STRING, 1, true);
  lepton_session *session = begin(&o);
  lepton_string x[MANY];
  random_strings(x);
  lepton_tensor out[2];
  CHECK(run(session, x, NULL, MANY, out) == LEPTON_OK && out[0].shape[0] == MANY);
  for (int i = 0; i < MANY; i++) {
    int64_t count = ((int64_t *)out[1].data)[i], width = out[0].shape[1];
    const lepton_string *pieces = (lepton_string *)out[0].data + i * width;
    char joined[128];
    size_t used = 0;
    CHECK(count >= (length > 0) && count <= width && (most < 0 || count <= most + 1));
    for (int64_t k = 0; k < count; k++) {
      if (k) memcpy(joined + used, delimiter, length), used += length;
      memcpy(joined + used, pieces[k].data, pieces[k].size), used += pieces[k].size;
      CHECK(length || pieces[k].size);
      for (size_t b = 0; !length && most < 0 && b < pieces[k].size; b++) CHECK(!strchr(" \n", pieces[k].data[b]));
    }
    CHECK(!length || (used == x[i].size && !memcmp(joined, x[i].data, used)));
    for (int64_t k = count; k < width; k++) CHECK(pieces[k].size == 0);
  }
  CHECK(run(session, x, NULL, 0, out) == LEPTON_OK && out[0].shape[1] == 0);
  forget(x);
  lpt_destroy(session);
}

static void split(void) {
  static const char *const delimiters[] = {"", ",", "a,", "\xc3\xa9", "\xff"};
  for (size_t i = 0; i < LENGTH(delimiters); i++)
    for (int64_t most = -1; most < 3; most++) split_and_join(delimiters[i], most);
}

/* (ab)* : dead end, start, behind a. */
static void match(void) {
  struct {
    uint32_t head[4];
    uint8_t classes[256];
    uint16_t accepts[3], table[3][3];
  } dfa = {.head = {3, 3, 0, 0}, .accepts = {0, 1, 0}, .table = {{0, 0, 0}, {0, 2, 0}, {0, 0, 1}}};
  dfa.classes['a'] = 1, dfa.classes['b'] = 2;
  one o;
  make(&o, "regex_full_match", &dfa, sizeof dfa, LEPTON_STRING, LEPTON_BOOL, 1, false);
  lepton_session *session = begin(&o);
  lepton_string x[] = {str(""), str("ab"), str("abab"), str("a"), str("abc"), str("\xff" "ab"), {"ab\0", 3}};
  static const bool want[] = {true, true, true, false, false, false, false};
  lepton_tensor out[2];
  CHECK(run(session, x, NULL, LENGTH(x), out) == LEPTON_OK);
  CHECK(!memcmp(out->data, want, sizeof want));
  lpt_destroy(session);
}

/* B -> bb, e acute -> E acute, sharp s -> SS; the rest, broken characters too, stays. */
static void change_case(void) {
  struct {
    uint32_t head[4], points[3], starts[4];
    char bytes[6];
  } table = {{3, 2, 0, 0}, {'B', 0xdf, 0xe9}, {0, 2, 4, 6}, {'b', 'b', 'S', 'S', '\xc3', '\x89'}};
  one o;
  make(&o, "string_case", &table, sizeof table, LEPTON_STRING, LEPTON_STRING, 1, false);
  lepton_session *session = begin(&o);
  lepton_string x[] = {str(""), str("aBa"), str("\xc3\xa9\xc3"), str("\xc3\x9f\xe3\x80""B"), str("\xe0\x83\xa9"), str("\xed\xa0\x80")};
  static const char *const want[] = {"", "abba", "\xc3\x89\xc3", "SS\xe3\x80""bb", "\xe0\x83\xa9", "\xed\xa0\x80"};
  lepton_tensor out[2];
  CHECK(run(session, x, NULL, LENGTH(x), out) == LEPTON_OK);
  for (size_t i = 0; i < LENGTH(x); i++) CHECK(is(((lepton_string *)out->data)[i], want[i]));
  lepton_string many[MANY];
  random_strings(many);
  for (int i = 0; i < 3; i++) CHECK(run(session, many, NULL, MANY - i, out) == LEPTON_OK);
  forget(many);
  lpt_destroy(session);
}

static int order(lepton_string a, lepton_string b) {
  int first = memcmp(a.data, b.data, a.size < b.size ? a.size : b.size);
  return first ? first : (a.size > b.size) - (a.size < b.size);
}

static void rank(void) {
  one o;
  make(&o, "string_rank", NULL, 0, LEPTON_STRING, LEPTON_I64, 1, false);
  lepton_session *session = begin(&o);
  lepton_string x[MANY];
  random_strings(x);
  lepton_tensor out[2];
  for (int64_t n = 0; n <= MANY; n = 2 * n + 1) {
    CHECK(run(session, x, NULL, n, out) == LEPTON_OK);
    const int64_t *ranks = out->data;
    int64_t most = -1;
    for (int64_t i = 0; i < n; i++) {
      most = ranks[i] > most ? ranks[i] : most;
      for (int64_t k = 0; k < n; k++) CHECK((ranks[i] < ranks[k]) == (order(x[i], x[k]) < 0));
    }
    for (int64_t r = 0; r <= most; r++) {
      bool found = false;
      for (int64_t i = 0; i < n; i++) found |= ranks[i] == r;
      CHECK(found);
    }
  }
  forget(x);
  lpt_destroy(session);
}

/* Every double is read back as itself, whatever the program's locale. */
static void numbers(void) {
  setlocale(LC_ALL, "de_DE.UTF-8"); /* where it is installed: a comma for a point */
  one print, read;
  make(&print, "number_to_string", NULL, 0, LEPTON_F64, LEPTON_STRING, 1, false);
  make(&read, "string_to_number", NULL, 0, LEPTON_STRING, LEPTON_F64, 1, false);
  lepton_session *printing = begin(&print), *reading = begin(&read);
  enum { COUNT = 2000 };
  double x[COUNT] = {0, -0.0, 1, 0.1, 1e16, 123456.789, 5e-324, 0x1p89, 0x1.fffffffffffffp1023};
  for (int i = 9; i < COUNT; i++) {
    uint64_t bits = (uint64_t)next_random() << 32 | next_random();
    memcpy(&x[i], &bits, 8);
    if (x[i] != x[i]) x[i] = 1.0 / i;
  }
  lepton_tensor text[2], back[2];
  CHECK(run(printing, x, NULL, COUNT, text) == LEPTON_OK);
  static const char *const want[] = {"0.0", "-0.0", "1.0", "0.1", "1e+16", "123456.789", "5e-324", "6.189700196426902e+26",
                                     "1.7976931348623157e+308"};
  for (size_t i = 0; i < LENGTH(want); i++) CHECK(is(((lepton_string *)text->data)[i], want[i]));
  CHECK(run(reading, text->data, NULL, COUNT, back) == LEPTON_OK);
  CHECK(!memcmp(back->data, x, sizeof x));
  setlocale(LC_ALL, "C");
  lpt_destroy(printing), lpt_destroy(reading);
}

static void integers(void) {
  static const struct {
    const char *text;
    lepton_dtype dtype;
    uint64_t want;
    const char *words; /* of the error */
  } rows[] = {
    {" 7\t", LEPTON_I64, 7, NULL}, {"-9223372036854775808", LEPTON_I64, (uint64_t)INT64_MIN, NULL},
    {"9223372036854775808", LEPTON_I64, 0, "'9223372036854775808' does not fit"}, {"-1", LEPTON_U64, 0, "does not fit"},
    {"18446744073709551615", LEPTON_U64, UINT64_MAX, NULL}, {"18446744073709551616", LEPTON_U64, 0, "does not fit"},
    {"-0", LEPTON_U64, 0, NULL}, {"2.99", LEPTON_I64, 2, NULL}, {"-2.99", LEPTON_I64, (uint64_t)-2, NULL},
    {"1e19", LEPTON_I64, 0, "does not fit"}, {"1e19", LEPTON_U64, 10000000000000000000u, NULL},
    {"inf", LEPTON_I64, 0, "is no integer"}, {"", LEPTON_I64, 0, "'' is no number"}, {"+", LEPTON_I64, 0, "is no number"},
    {"0x10", LEPTON_I64, 0, "is no number"}, {"1\xff", LEPTON_I64, 0, "'1?' is no number"}, {".", LEPTON_I64, 0, "is no number"},
    {"e5", LEPTON_I64, 0, "is no number"}, {"5e", LEPTON_I64, 0, "is no number"},
    {"99999999999999999999999999999999999999999999999999999999999999999999999999", LEPTON_I64, 0, "9'... does not fit"},
  };
  for (size_t i = 0; i < LENGTH(rows); i++) {
    one o;
    make(&o, "string_to_number", NULL, 0, LEPTON_STRING, rows[i].dtype, 1, false);
    lepton_session *session = begin(&o);
    lepton_string x = str(rows[i].text);
    lepton_tensor out[2];
    lepton_status status = run(session, &x, NULL, 1, out);
    CHECK(status == (rows[i].words ? LEPTON_INVALID_ARGUMENT : LEPTON_OK));
    if (rows[i].words) CHECK_TEXT(lpt_message(session), rows[i].words);
    else CHECK(*(uint64_t *)out->data == rows[i].want);
    lpt_destroy(session);
  }
}

int main(void) {
  RUN(concat);
  RUN(split);
  RUN(match);
  RUN(change_case);
  RUN(rank);
  RUN(numbers);
  RUN(integers);
  return failures != 0;
}

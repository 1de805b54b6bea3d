/* numbers.c: numbers to and from text: the builtins behind number_to_string and string_to_number, whose
 * meaning stands in lepton_ir/ops/strings.py. In the C locale, whatever the program has set. */
#define _GNU_SOURCE
#include <locale.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime.h"

static int64_t count_of(const lepton_tensor *t) {
  int64_t n = 1;
  for (int32_t i = 0; i < t->rank; i++) n *= t->shape[i];
  return n;
}

static locale_t c_locale;
static pthread_once_t locale_made = PTHREAD_ONCE_INIT;

static void make_locale(void) { c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0); }

/* Between these, strtod and snprintf speak C. */
static locale_t enter_c(void) {
  pthread_once(&locale_made, make_locale);
  return uselocale(c_locale);
}

/* ---- elements as doubles ------------------------------------------------------------------------------ */

static double half_to_double(uint16_t bits) {
  int exponent = bits >> 10 & 31;
  double fraction = bits & 1023, sign = bits >> 15 ? -1 : 1;
  if (exponent == 31) return fraction != 0 ? __builtin_nan("") : sign * __builtin_inf();
  double scale = (double)((uint64_t)1 << (exponent ? exponent : 1)) / (1 << 25); /* 2^(exponent - 25) */
  return sign * scale * (exponent ? fraction + 1024 : fraction);
}

static double element(const lepton_tensor *t, int64_t i) {
  switch (t->dtype) {
    case LEPTON_F64: return ((const double *)t->data)[i];
    case LEPTON_F32: return (double)((const float *)t->data)[i];
    case LEPTON_F16: return half_to_double(((const uint16_t *)t->data)[i]);
    default: {
      uint32_t wide = (uint32_t)((const uint16_t *)t->data)[i] << 16;
      float value;
      memcpy(&value, &wide, sizeof value);
      return (double)value;
    }
  }
}

/* `value` (finite, not negative) rounded to nearest even as the type does. */
static double rounded(double value, lepton_dtype dtype) {
  if (dtype == LEPTON_F64) return value;
  if (dtype == LEPTON_F32) return (double)(float)value;
  int bits = dtype == LEPTON_F16 ? 11 : 8, least = dtype == LEPTON_F16 ? -24 : -133;
  uint64_t raw;
  memcpy(&raw, &value, sizeof raw);
  int unit = (int)(raw >> 52) - 1022 - bits; /* 2^unit: the last digit's worth */
  if (unit < least) unit = least;
  raw = (uint64_t)(unit + 1023) << 52;
  double scale, shift = 0x1.8p52;
  memcpy(&scale, &raw, sizeof scale);
  volatile double moved = value / scale + shift; /* no digits behind the point are left */
  return (moved - shift) * scale;
}

/* ---- to text ------------------------------------------------------------------------------------------ */

enum { MOST_TEXT = 48 };

/* Figures d.ddd (no point in them) times ten to the exponent, as Python's repr lays them out. */
static int lay_out(char *out, bool negative, const char *figures, int exponent) {
  int n = (int)strlen(figures);
  while (n > 1 && figures[n - 1] == '0') n--;
  const char *sign = negative ? "-" : "";
  if (exponent < -4 || exponent >= 16)
    return snprintf(out, MOST_TEXT, "%s%c%s%.*se%+03d", sign, *figures, n > 1 ? "." : "", n - 1, figures + 1, exponent);
  if (exponent < 0) return snprintf(out, MOST_TEXT, "%s0.%.*s%.*s", sign, -exponent - 1, "000", n, figures);
  if (n > exponent + 1)
    return snprintf(out, MOST_TEXT, "%s%.*s.%.*s", sign, exponent + 1, figures, n - exponent - 1, figures + exponent + 1);
  return snprintf(out, MOST_TEXT, "%s%.*s%.*s.0", sign, n, figures, exponent + 1 - n, "0000000000000000");
}

/* The fewest figures that read back as the same number. */
static int print_float(char *out, double value, lepton_dtype dtype) {
  if (value != value) return snprintf(out, MOST_TEXT, "nan");
  bool negative = __builtin_signbit(value);
  double size = negative ? -value : value;
  if (size > 0x1.fffffffffffffp1023) return snprintf(out, MOST_TEXT, negative ? "-inf" : "inf");
  for (int count = 1; count <= 17; count++) {
    char text[MOST_TEXT], figures[MOST_TEXT], again[MOST_TEXT];
    snprintf(text, sizeof text, "%.*e", count - 1, size);
    char *e = strchr(text, 'e');
    int exponent = atoi(e + 1);
    *e = '\0';
    if (count > 1) memmove(text + 1, text + 2, strlen(text + 2) + 1); /* without the point */
    uint64_t whole = strtoull(text, NULL, 10);
    for (uint64_t candidate = whole; candidate <= whole + 1; candidate++) { /* below a power of two, numbers lie closer */
      snprintf(again, sizeof again, "%llue%d", (unsigned long long)candidate, exponent - count + 1);
      if (rounded(strtod(again, NULL), dtype) != size) continue;
      int length = snprintf(figures, sizeof figures, "%llu", (unsigned long long)candidate);
      return lay_out(out, negative, figures, exponent + length - count);
    }
  }
  return snprintf(out, MOST_TEXT, "%.17g", value); /* unreachable: 17 figures are enough for any double */
}

static int print(char *out, const lepton_tensor *t, int64_t i) {
  switch (t->dtype) {
    case LEPTON_BOOL: return snprintf(out, MOST_TEXT, ((const uint8_t *)t->data)[i] ? "True" : "False");
    case LEPTON_I64: return snprintf(out, MOST_TEXT, "%lld", (long long)((const int64_t *)t->data)[i]);
    case LEPTON_U64: return snprintf(out, MOST_TEXT, "%llu", (unsigned long long)((const uint64_t *)t->data)[i]);
    default: return print_float(out, element(t, i), t->dtype);
  }
}

/* x: f64, f32, f16, bf16, i64, u64 or bool -> text. */
lepton_status lpt_number_to_string(lepton_call *call) {
  const lepton_tensor *x = &call->inputs[0];
  int64_t *out = call->outputs[0].data;
  lepton_status status = LEPTON_OK;
  locale_t outer = enter_c();
  for (int64_t i = 0, n = count_of(x); i < n && !status; i++) {
    char text[MOST_TEXT];
    status = call->intern(call, (lepton_string){text, (size_t)print(text, x, i)}, &out[i]);
  }
  uselocale(outer);
  return status;
}

/* ---- from text ---------------------------------------------------------------------------------------- */

static bool is_digit(char c) { return c >= '0' && c <= '9'; }

/* Whether the words are equal but for the case of letters; `word` is in lower case and ends in a zero. */
static bool same_word(const char *text, size_t size, const char *word) {
  for (size_t i = 0; i < size; i++) {
    char c = text[i] >= 'A' && text[i] <= 'Z' ? (char)(text[i] + 32) : text[i];
    if (!word[i] || c != word[i]) return false;
  }
  return !word[size];
}

typedef enum kind { NO_NUMBER, WHOLE, DECIMAL, SPECIAL } kind;

static const char *skip_digits(const char *p, const char *end) {
  while (p < end && is_digit(*p)) p++;
  return p;
}

/* [+-]? then digits, with a point among them or not and an exponent or not, or inf, infinity or nan. */
static kind kind_of(const char *p, const char *end) {
  p += p < end && (*p == '+' || *p == '-');
  size_t size = (size_t)(end - p);
  if (same_word(p, size, "inf") || same_word(p, size, "infinity") || same_word(p, size, "nan")) return SPECIAL;
  const char *whole = skip_digits(p, end), *last = whole;
  if (whole == end) return whole > p ? WHOLE : NO_NUMBER;
  if (*whole == '.') last = skip_digits(whole + 1, end);
  if (whole == p && last <= whole + 1) return NO_NUMBER;
  if (last < end && (*last == 'e' || *last == 'E')) {
    const char *exponent = last + 1;
    exponent += exponent < end && (*exponent == '+' || *exponent == '-');
    last = skip_digits(exponent, end);
    if (last == exponent) return NO_NUMBER;
  }
  return last == end ? DECIMAL : NO_NUMBER;
}

static lepton_status refuse(lepton_call *call, lepton_string text, const char *why) {
  char words[160], shown[64];
  size_t n = text.size < sizeof shown - 1 ? text.size : sizeof shown - 1;
  for (size_t i = 0; i < n; i++) shown[i] = text.data[i] >= 32 && text.data[i] < 127 ? text.data[i] : '?';
  shown[n] = '\0';
  snprintf(words, sizeof words, "'%s'%s %s", shown, n < text.size ? "..." : "", why);
  return call->fail(call, LEPTON_INVALID_ARGUMENT, words);
}

/* The digits from p on, after a sign, as i64 or u64; false: they do not fit. */
static bool read_whole(const char *p, const char *end, bool is_signed, void *out) {
  bool negative = *p == '-';
  uint64_t value = 0, most = !is_signed ? (negative ? 0 : UINT64_MAX) : (uint64_t)INT64_MAX + negative;
  for (p += *p == '-' || *p == '+'; p < end; p++) {
    uint64_t digit = (uint64_t)(*p - '0');
    if (digit > most || value > (most - digit) / 10) return false;
    value = value * 10 + digit;
  }
  value = negative ? 0 - value : value;
  memcpy(out, &value, sizeof value);
  return true;
}

/* A double, truncated, as i64 or u64; false: it does not fit. */
static bool truncate(double value, bool is_signed, void *out) {
  if (is_signed ? !(value >= -0x1p63 && value < 0x1p63) : !(value > -1 && value < 0x1p64)) return false;
  uint64_t whole = is_signed ? (uint64_t)(int64_t)value : value < 0 ? 0 : (uint64_t)value;
  memcpy(out, &whole, sizeof whole);
  return true;
}

static bool is_blank(char c) { return c == ' ' || (c >= 9 && c <= 13); }

/* One string into element i of `out`. `room` takes size + 1 bytes. */
static lepton_status read_one(lepton_call *call, lepton_string text, char *room, const lepton_tensor *out, int64_t i) {
  size_t first = 0, last = text.size;
  while (first < last && is_blank(text.data[first])) first++;
  while (first < last && is_blank(text.data[last - 1])) last--;
  const char *p = text.data + first, *end = text.data + last;
  bool integer = out->dtype == LEPTON_I64 || out->dtype == LEPTON_U64, is_signed = out->dtype == LEPTON_I64;
  bool truth = out->dtype == LEPTON_BOOL && same_word(p, last - first, "true");
  if (truth || (out->dtype == LEPTON_BOOL && same_word(p, last - first, "false"))) {
    ((uint8_t *)out->data)[i] = truth;
    return LEPTON_OK;
  }
  kind found = kind_of(p, end);
  if (found == NO_NUMBER) return refuse(call, text, "is no number");
  if (integer && found == SPECIAL) return refuse(call, text, "is no integer");
  void *place = (uint64_t *)out->data + i;
  if (integer && found == WHOLE)
    return read_whole(p, end, is_signed, place) ? LEPTON_OK : refuse(call, text, "does not fit the integer type");
  memcpy(room, p, last - first);
  room[last - first] = '\0';
  double value = strtod(room, NULL);
  if (integer && !truncate(value, is_signed, place)) return refuse(call, text, "does not fit the integer type");
  if (out->dtype == LEPTON_F64) ((double *)out->data)[i] = value;
  if (out->dtype == LEPTON_F32) ((float *)out->data)[i] = (float)value;
  if (out->dtype == LEPTON_BOOL) ((uint8_t *)out->data)[i] = value != 0;
  return LEPTON_OK;
}

/* x: text -> f64, f32, i64, u64 or bool. */
lepton_status lpt_string_to_number(lepton_call *call) {
  const int64_t *x = call->inputs[0].data;
  size_t longest = 0;
  int64_t n = count_of(&call->inputs[0]);
  for (int64_t i = 0; i < n; i++) {
    size_t size = call->text(call, x[i]).size;
    longest = size > longest ? size : longest;
  }
  char *room = lpt_string_begin(lpt_session_of(call), longest + 1);
  if (!room) return LEPTON_OUT_OF_MEMORY;
  lepton_status status = LEPTON_OK;
  locale_t outer = enter_c();
  for (int64_t i = 0; i < n && !status; i++) status = read_one(call, call->text(call, x[i]), room, &call->outputs[0], i);
  uselocale(outer);
  lpt_string_drop(lpt_session_of(call), longest + 1);
  return status;
}

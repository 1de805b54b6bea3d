/* strings.c: every string of a session once, under a number.
 *
 * The program's constants come first and stay; behind them lies what a run has brought in or made, which
 * the next run forgets. Bytes lie in chunks that never move, so pointers are good until then. Chunks and
 * tables are kept: runs over strings seen before allocate nothing. */
#include <string.h>

#include "runtime.h"

enum { FIRST_CHUNK = 4096, FIRST_SLOTS = 64 };

static uint32_t hash_of(lepton_string text) {
  uint64_t h = 0x9e3779b97f4a7c15u ^ text.size;
  for (size_t i = 0; i < text.size; i += 8) {
    uint64_t piece = 0;
    memcpy(&piece, text.data + i, text.size - i < 8 ? text.size - i : 8);
    h = (h ^ piece) * 0xff51afd7ed558ccdu;
    h ^= h >> 32;
  }
  return (uint32_t)(h ^ h >> 29);
}

/* The slot where this string stands, or the free one where it belongs. */
static uint32_t find(const lpt_strings *s, lepton_string text, uint32_t hash) {
  for (uint32_t slot = hash & (s->n_slots - 1);; slot = (slot + 1) & (s->n_slots - 1)) {
    if (s->slots[slot] == UINT32_MAX) return slot;
    const lpt_string_entry *e = &s->entries[s->slots[slot]];
    if (e->hash == hash && e->text.size == text.size &&
        (!text.size || !memcmp(e->text.data, text.data, text.size)))
      return slot;
  }
}

/* Twice the room, with everything in its new slot: in the order of the numbers, so that removing the newest
 * never breaks the search for an older one. */
static bool grow(const lpt_allocator *allocator, lpt_strings *s) {
  uint32_t n_slots = s->n_slots ? 2 * s->n_slots : FIRST_SLOTS;
  if (n_slots > (uint32_t)1 << 30) return false;
  uint32_t *slots = lpt_allocate(allocator, n_slots * sizeof *slots);
  lpt_string_entry *entries = lpt_allocate(allocator, n_slots / 2 * sizeof *entries);
  if (!slots || !entries) {
    lpt_release(allocator, slots);
    lpt_release(allocator, entries);
    return false;
  }
  memset(slots, 0xff, n_slots * sizeof *slots);
  if (s->count) memcpy(entries, s->entries, s->count * sizeof *entries);
  lpt_release(allocator, s->slots);
  lpt_release(allocator, s->entries);
  s->slots = slots, s->entries = entries, s->n_slots = n_slots;
  for (uint32_t i = 0; i < s->count; i++) {
    entries[i].slot = find(s, entries[i].text, entries[i].hash);
    slots[entries[i].slot] = i;
  }
  return true;
}

/* Room for `size` bytes in the chunks; NULL: no memory. */
static char *reserve(const lpt_allocator *allocator, lpt_strings *s, size_t size) {
  while (s->chunk < s->n_chunks && s->chunks[s->chunk].capacity - s->used < size) s->chunk++, s->used = 0;
  if (s->chunk == s->n_chunks) {
    if (s->n_chunks == LPT_STRING_CHUNKS) return NULL;
    size_t last = s->n_chunks ? s->chunks[s->n_chunks - 1].capacity : FIRST_CHUNK / 2;
    lpt_block made = {.data = NULL};
    if (!lpt_block_reserve(allocator, &made, size > 2 * last ? size : 2 * last)) return NULL;
    s->chunks[s->n_chunks++] = made;
  }
  char *place = (char *)s->chunks[s->chunk].data + s->used;
  s->used += size;
  return place;
}

/* Append a string that is not there yet; its bytes are lent. The caller has made room. */
static void append(lpt_strings *s, lepton_string text, uint32_t hash, uint32_t slot) {
  s->entries[s->count] = (lpt_string_entry){.text = text, .hash = hash, .slot = slot};
  s->slots[slot] = s->count++;
}

lepton_status lpt_strings_start(lepton_session *session) {
  const lpt_program *program = session->program;
  lpt_strings *s = &session->strings;
  for (uint32_t i = 0; i < program->n_strings; i++) {
    if (s->count == s->n_slots / 2 && !grow(&session->allocator, s))
      return lpt_fail(NULL, LEPTON_OUT_OF_MEMORY, "no memory for the model's strings");
    lepton_string text = program->strings[i].size ? program->strings[i] : (lepton_string){"", 0};
    uint32_t hash = hash_of(text), slot = find(s, text, hash);
    if (s->slots[slot] != UINT32_MAX)
      return lpt_fail(NULL, LEPTON_INTERNAL, "the compiled model is damaged: string %u stands there twice", (unsigned)i);
    append(s, text, hash, slot);
  }
  return LEPTON_OK;
}

void lpt_strings_reset(lepton_session *session) {
  lpt_strings *s = &session->strings;
  while (s->count > session->program->n_strings) s->slots[s->entries[--s->count].slot] = UINT32_MAX;
  s->chunk = 0, s->used = 0;
}

void lpt_strings_end(const lpt_allocator *allocator, lpt_strings *s) {
  for (uint32_t i = 0; i < s->n_chunks; i++) lpt_release(allocator, s->chunks[i].data);
  lpt_release(allocator, s->slots);
  lpt_release(allocator, s->entries);
}

lepton_string lpt_text(const lpt_strings *s, int64_t number) {
  bool known = number >= 0 && number < (int64_t)s->count;
  return known ? s->entries[number].text : (lepton_string){"", 0};
}

static lepton_status no_room(lepton_session *session, size_t size) {
  return lpt_fail(session, LEPTON_OUT_OF_MEMORY, "no memory for a string of %zu bytes", size);
}

lepton_status lpt_intern(lepton_session *session, lepton_string text, int64_t *out_number) {
  lpt_strings *s = &session->strings;
  if (s->count == s->n_slots / 2 && !grow(&session->allocator, s)) return no_room(session, text.size);
  uint32_t hash = hash_of(text), slot = find(s, text, hash);
  if (s->slots[slot] == UINT32_MAX) {
    char *bytes = reserve(&session->allocator, s, text.size);
    if (!bytes) return no_room(session, text.size);
    if (text.size) memcpy(bytes, text.data, text.size);
    append(s, (lepton_string){bytes, text.size}, hash, slot);
  }
  *out_number = s->slots[slot];
  return LEPTON_OK;
}

char *lpt_string_begin(lepton_session *session, size_t most) {
  char *room = reserve(&session->allocator, &session->strings, most);
  if (!room) no_room(session, most);
  return room;
}

void lpt_string_drop(lepton_session *session, size_t most) { session->strings.used -= most; }

lepton_status lpt_string_finish(lepton_session *session, size_t most, lepton_string made, int64_t *out_number) {
  lpt_strings *s = &session->strings;
  lpt_string_drop(session, most);
  if (s->count == s->n_slots / 2 && !grow(&session->allocator, s)) return no_room(session, made.size);
  uint32_t hash = hash_of(made), slot = find(s, made, hash);
  if (s->slots[slot] == UINT32_MAX) {
    s->used += made.size;
    append(s, made, hash, slot);
  }
  *out_number = s->slots[slot];
  return LEPTON_OK;
}

/* ---- the border ----------------------------------------------------------------------------------- */

static int64_t elements(const lepton_tensor *tensor) {
  return lpt_tensor_bytes(LEPTON_STRING, tensor->rank, tensor->shape) / (int64_t)sizeof(lepton_string);
}

static int64_t *numbers(lepton_session *session, uint32_t port, int64_t count) {
  lpt_block *block = &session->numbers[port];
  if (lpt_block_reserve(&session->allocator, block, (size_t)count * sizeof(int64_t))) return block->data;
  lpt_fail(session, LEPTON_OUT_OF_MEMORY, "no memory for %lld strings", (long long)count);
  return NULL;
}

lepton_status lpt_take_strings(lepton_session *session, const lepton_tensor *inputs) {
  for (uint32_t i = 0; i < session->program->n_inputs; i++) {
    if (session->program->inputs[i].dtype != LEPTON_STRING) continue;
    int64_t count = elements(&inputs[i]), *place = numbers(session, i, count);
    if (!place) return LEPTON_OUT_OF_MEMORY;
    const lepton_string *given = inputs[i].data;
    for (int64_t k = 0; k < count; k++) {
      if (!given[k].data && given[k].size)
        return lpt_fail(session, LEPTON_INVALID_ARGUMENT, "input '%s': string %lld has %zu bytes and no data",
                        session->program->inputs[i].name, (long long)k, given[k].size);
      lepton_status status = lpt_intern(session, given[k], &place[k]);
      if (status) return status;
    }
  }
  return LEPTON_OK;
}

void *lpt_string_numbers(lepton_session *session, uint32_t output, const lepton_tensor *tensor) {
  return numbers(session, session->program->n_inputs + output, elements(tensor));
}

void lpt_give_strings(lepton_session *session, const lepton_tensor *outputs) {
  const lpt_program *program = session->program;
  for (uint32_t i = 0; i < program->n_outputs; i++) {
    if (program->outputs[i].dtype != LEPTON_STRING) continue;
    const int64_t *made = session->numbers[program->n_inputs + i].data;
    lepton_string *place = outputs[i].data;
    for (int64_t k = 0, count = elements(&outputs[i]); k < count; k++) place[k] = lpt_text(&session->strings, made[k]);
  }
}

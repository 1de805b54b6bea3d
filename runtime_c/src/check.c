/* check.c: what the caller handed in, against what the model expects. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "runtime.h"

/* ---- element types ------------------------------------------------------------------------------ */

typedef struct dtype_row {
  const char *name;
  uint8_t bytes; /* per element                            */
  uint8_t align;
} dtype_row;

static const dtype_row dtypes[] = {
  [LEPTON_F32] = {"f32", 4, 4}, [LEPTON_F64] = {"f64", 8, 8}, [LEPTON_F16] = {"f16", 2, 2},
  [LEPTON_BF16] = {"bf16", 2, 2}, [LEPTON_I8] = {"i8", 1, 1}, [LEPTON_I16] = {"i16", 2, 2},
  [LEPTON_I32] = {"i32", 4, 4}, [LEPTON_I64] = {"i64", 8, 8}, [LEPTON_U8] = {"u8", 1, 1},
  [LEPTON_U16] = {"u16", 2, 2}, [LEPTON_U32] = {"u32", 4, 4}, [LEPTON_U64] = {"u64", 8, 8},
  [LEPTON_BOOL] = {"bool", 1, 1}, [LEPTON_STRING] = {"string", sizeof(lepton_string), _Alignof(lepton_string)},
  [LEPTON_C64] = {"c64", 8, 4}, [LEPTON_C128] = {"c128", 16, 8},
  [LEPTON_F8E4M3FN] = {"f8e4m3fn", 1, 1}, [LEPTON_F8E4M3FNUZ] = {"f8e4m3fnuz", 1, 1},
  [LEPTON_F8E5M2] = {"f8e5m2", 1, 1}, [LEPTON_F8E5M2FNUZ] = {"f8e5m2fnuz", 1, 1},
  [LEPTON_F8E8M0] = {"f8e8m0", 1, 1}, [LEPTON_F4E2M1] = {"f4e2m1", 1, 1},
  [LEPTON_I4] = {"i4", 1, 1}, [LEPTON_U4] = {"u4", 1, 1}, [LEPTON_I2] = {"i2", 1, 1},
  [LEPTON_U2] = {"u2", 1, 1},
};

static const dtype_row *row_of(lepton_dtype dtype) {
  bool known = dtype >= LEPTON_F32 && (size_t)dtype < sizeof dtypes / sizeof *dtypes;
  return known ? &dtypes[dtype] : NULL;
}

int64_t lpt_tensor_bytes(lepton_dtype dtype, int32_t rank, const int64_t *shape) {
  const dtype_row *row = row_of(dtype);
  if (!row || !row->bytes || rank < 0 || rank > LEPTON_MAX_RANK) return -1;
  int64_t bytes = row->bytes;
  bool empty = false;
  for (int32_t i = 0; i < rank; i++) {
    if (shape[i] < 0) return -1;
    empty |= shape[i] == 0; /* the other dimensions must still be sane: strides are made of them */
    if (shape[i] && __builtin_mul_overflow(bytes, shape[i], &bytes)) return -1;
  }
  if (bytes > LPT_MAX_BYTES) return -1;
  return empty ? 0 : bytes;
}

/* ---- types in words ----------------------------------------------------------------------------- */

enum { TYPE_TEXT = 256 };

typedef struct text {
  char chars[TYPE_TEXT];
  size_t used;
} text;

__attribute__((format(printf, 2, 3)))
static void append(text *t, const char *format, ...) {
  if (t->used >= TYPE_TEXT - 1) return;
  va_list arguments;
  va_start(arguments, format);
  int n = vsnprintf(t->chars + t->used, TYPE_TEXT - t->used, format, arguments);
  va_end(arguments);
  if (n > 0) t->used += (size_t)n < TYPE_TEXT - t->used ? (size_t)n : TYPE_TEXT - t->used - 1;
}

static const char *dtype_name(lepton_dtype dtype) {
  const dtype_row *row = row_of(dtype);
  return row ? row->name : "?";
}

static void write_got(text *t, const lepton_tensor *tensor) {
  if (!row_of(tensor->dtype)) append(t, "dtype %d", (int)tensor->dtype);
  else append(t, "%s", dtype_name(tensor->dtype));
  if (tensor->rank < 0 || tensor->rank > LEPTON_MAX_RANK) {
    append(t, " of rank %d", (int)tensor->rank);
    return;
  }
  for (int32_t i = 0; i < tensor->rank; i++)
    append(t, "%s%lld", i ? "," : "[", (long long)tensor->shape[i]);
  append(t, tensor->rank ? "]" : "[]");
}

/* "f32[N,3]"; with sizes in hand an open dimension is given with what it must be: "f32[N=5,3]". */
static void write_expected(text *t, const lepton_port *port, const int64_t *sizes) {
  append(t, "%s", dtype_name(port->dtype));
  for (int32_t i = 0; i < port->rank; i++) {
    append(t, "%s", i ? "," : "[");
    const char *word = port->dims ? port->dims[i] : NULL;
    if (port->shape[i] >= 0) append(t, "%lld", (long long)port->shape[i]);
    else append(t, "%s", word && *word ? word : "?");
    if (port->shape[i] < 0 && sizes && sizes[i] >= 0) append(t, "=%lld", (long long)sizes[i]);
  }
  append(t, port->rank ? "]" : "[]");
}

static lepton_status mismatch(lepton_session *session, const char *kind, const lepton_port *port,
                              const lepton_tensor *tensor, const int64_t *sizes) {
  text expected = {.used = 0}, got = {.used = 0};
  write_expected(&expected, port, sizes);
  write_got(&got, tensor);
  return lpt_fail(session, LEPTON_INVALID_ARGUMENT, "%s '%s': expected %s, got %s", kind, port->name,
                  expected.chars, got.chars);
}

/* ---- checks ------------------------------------------------------------------------------------- */

static bool same_kind(const lepton_port *port, const lepton_tensor *tensor) {
  if (tensor->dtype != port->dtype || tensor->rank != port->rank) return false;
  for (int32_t i = 0; i < port->rank; i++) {
    if (tensor->shape[i] < 0) return false;
    if (port->shape[i] >= 0 && tensor->shape[i] != port->shape[i]) return false;
  }
  return true;
}

static lepton_status check_pointer(lepton_session *session, const char *kind, const lepton_port *port,
                                   const lepton_tensor *tensor, int64_t bytes) {
  if (!tensor->data && bytes)
    return lpt_fail(session, LEPTON_INVALID_ARGUMENT, "%s '%s': data is NULL", kind, port->name);
  size_t align = row_of(port->dtype)->align;
  if ((uintptr_t)tensor->data % align)
    return lpt_fail(session, LEPTON_INVALID_ARGUMENT, "%s '%s': data at %p is not aligned to %zu bytes",
                    kind, port->name, tensor->data, align);
  return LEPTON_OK;
}

/* Whether the kernels can reach the memory that the tensor lies in. */
static lepton_status check_device(lepton_session *session, const char *kind, const lepton_port *port,
                                  const lepton_tensor *tensor) {
  if (tensor->device == LEPTON_HOST) return LEPTON_OK;
  if (tensor->device != LEPTON_CUDA)
    return lpt_fail(session, LEPTON_INVALID_ARGUMENT, "%s '%s': unknown device %d", kind, port->name, (int)tensor->device);
  if (!session->cuda)
    return lpt_fail(session, LEPTON_INVALID_ARGUMENT, "%s '%s' lies on a GPU; the model was compiled for %s", kind,
                    port->name, session->program->target);
  if (port->dtype == LEPTON_STRING)
    return lpt_fail(session, LEPTON_INVALID_ARGUMENT, "%s '%s': strings cannot lie on a GPU", kind, port->name);
  return LEPTON_OK;
}

lepton_status lpt_check_inputs(lepton_session *session, const lepton_tensor *inputs, bool with_data) {
  const lpt_program *program = session->program;
  if (!inputs && program->n_inputs)
    return lpt_fail(session, LEPTON_INVALID_ARGUMENT, "inputs is NULL");
  for (uint32_t i = 0; i < program->n_inputs; i++) {
    const lepton_port *port = &program->inputs[i];
    if (!same_kind(port, &inputs[i])) return mismatch(session, "input", port, &inputs[i], NULL);
    int64_t bytes = lpt_tensor_bytes(port->dtype, inputs[i].rank, inputs[i].shape);
    if (bytes < 0) {
      text got = {.used = 0};
      write_got(&got, &inputs[i]);
      return lpt_fail(session, LEPTON_INVALID_ARGUMENT, "input '%s': %s is larger than memory can be",
                      port->name, got.chars);
    }
    if (!with_data) continue;
    lepton_status status = check_device(session, "input", port, &inputs[i]);
    if (!status) status = check_pointer(session, "input", port, &inputs[i], bytes);
    if (status) return status;
  }
  return LEPTON_OK;
}

static void sizes_from_env(const lepton_session *session, const lpt_port_slots *slots, int32_t rank,
                           int64_t *out_sizes) {
  for (int32_t i = 0; i < rank; i++)
    out_sizes[i] = slots->slot[i] & LPT_SLOT_LATE ? -1 : session->env[slots->slot[i]];
}

static bool same_sizes(const int64_t *expected, const lepton_tensor *tensor) {
  for (int32_t i = 0; i < tensor->rank; i++)
    if (expected[i] != tensor->shape[i]) return false;
  return true;
}

lepton_status lpt_check_sizes(lepton_session *session, const lepton_tensor *inputs) {
  const lpt_program *program = session->program;
  for (uint32_t i = 0; i < program->n_inputs; i++) {
    int64_t sizes[LEPTON_MAX_RANK];
    sizes_from_env(session, &program->input_slots[i], program->inputs[i].rank, sizes);
    if (!same_sizes(sizes, &inputs[i]))
      return mismatch(session, "input", &program->inputs[i], &inputs[i], sizes);
  }
  return LEPTON_OK;
}

bool lpt_output_is_late(const lpt_program *program, uint32_t output) {
  for (int32_t i = 0; i < program->outputs[output].rank; i++)
    if (program->output_slots[output].slot[i] & LPT_SLOT_LATE) return true;
  return false;
}

bool lpt_wants_own(const lepton_session *session, uint32_t index, const lepton_tensor *output) {
  return !output->data || output->data == session->outputs[index].data ||
         lpt_cuda_owns(session, index, output->data);
}

static bool overlaps(const lepton_tensor *tensor, const void *data, size_t bytes) {
  if (!tensor->data || !data) return false; /* given the session's own memory, or empty */
  int64_t length = lpt_tensor_bytes(tensor->dtype, tensor->rank, tensor->shape);
  uintptr_t start = (uintptr_t)tensor->data, other = (uintptr_t)data;
  return length > 0 && start < other + bytes && other < start + (uintptr_t)length;
}

/* The name of the first thing among inputs and earlier outputs that shares memory with this output. */
static const char *overlapped(const lpt_program *program, const lepton_tensor *inputs,
                              const lepton_tensor *outputs, uint32_t output, int64_t bytes) {
  const void *data = outputs[output].data;
  for (uint32_t i = 0; i < program->n_inputs; i++)
    if (overlaps(&inputs[i], data, (size_t)bytes)) return program->inputs[i].name;
  for (uint32_t i = 0; i < output; i++)
    if (overlaps(&outputs[i], data, (size_t)bytes)) return program->outputs[i].name;
  return NULL;
}

/* What a run lent ends with the next call, which writes there again: it cannot be read as well. */
static lepton_status check_lent(lepton_session *session, const lepton_tensor *inputs, uint32_t output) {
  const lpt_program *program = session->program;
  const lpt_block *lent = &session->outputs[output];
  for (uint32_t i = 0; i < program->n_inputs; i++)
    if (overlaps(&inputs[i], lent->data, lent->capacity))
      return lpt_fail(session, LEPTON_INVALID_ARGUMENT,
                      "input '%s' lies in memory that the session lent for output '%s' until this call; copy it, or "
                      "give the output memory of your own", program->inputs[i].name, program->outputs[output].name);
  return LEPTON_OK;
}

static lepton_status check_output(lepton_session *session, const lepton_tensor *inputs,
                                  const lepton_tensor *outputs, uint32_t index) {
  const lpt_program *program = session->program;
  const lepton_port *port = &program->outputs[index];
  const lepton_tensor *tensor = &outputs[index];
  if (lpt_output_is_late(program, index))
    return lpt_fail(session, LEPTON_INVALID_ARGUMENT,
                    "output '%s': its size depends on the data; pass NULL data to get the session's memory",
                    port->name);
  int64_t sizes[LEPTON_MAX_RANK];
  sizes_from_env(session, &program->output_slots[index], port->rank, sizes);
  if (!same_kind(port, tensor) || !same_sizes(sizes, tensor))
    return mismatch(session, "output", port, tensor, sizes);
  int64_t bytes = lpt_tensor_bytes(tensor->dtype, tensor->rank, tensor->shape);
  lepton_status status = check_pointer(session, "output", port, tensor, bytes);
  if (status || bytes <= 0) return status;
  const char *other = overlapped(program, inputs, outputs, index, bytes);
  if (other)
    return lpt_fail(session, LEPTON_INVALID_ARGUMENT, "output '%s': its memory overlaps '%s'",
                    port->name, other);
  return LEPTON_OK;
}

lepton_status lpt_check_outputs(lepton_session *session, const lepton_tensor *inputs,
                                const lepton_tensor *outputs) {
  const lpt_program *program = session->program;
  if (!outputs && program->n_outputs)
    return lpt_fail(session, LEPTON_INVALID_ARGUMENT, "outputs is NULL");
  for (uint32_t i = 0; i < program->n_outputs; i++) {
    lepton_status status = check_device(session, "output", &program->outputs[i], &outputs[i]);
    if (!status) status = lpt_wants_own(session, i, &outputs[i]) ? check_lent(session, inputs, i)
                                                                 : check_output(session, inputs, outputs, i);
    if (status) return status;
  }
  return LEPTON_OK;
}

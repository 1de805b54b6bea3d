/*
 * run_model.c: runs a compiled model from C, with nothing but lepton.h, lepton_seal.h and dlopen.
 *
 *   cc -std=c11 -Iinclude examples/run_model.c -ldl -o run_model
 *   ./run_model model.so [-d N=1]... [-o output.raw] [input.raw]...
 *
 * Inputs are raw files in the order of the model's inputs, for strings a text file with one in each line; those
 * not given are zeros or empty. -d gives open dimensions their size (1 where it is not said). The first output
 * is written to the file of -o.
 */
#define _POSIX_C_SOURCE 200809L
#include <dlfcn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lepton.h"
#include "lepton_seal.h"

typedef struct arguments {
  const char *model, *output;
  const char *dims[16], *inputs[64];
  int n_dims, n_inputs;
} arguments;

static const char *const names[] = {
  "?", "f32", "f64", "f16", "bf16", "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64", "bool",
  "string",
};
static const size_t sizes[] = {1, 4, 8, 2, 2, 1, 2, 4, 8, 1, 2, 4, 8, 1, sizeof(lepton_string)};

static size_t element_size(lepton_dtype dtype) {
  if (dtype == LEPTON_C64 || dtype == LEPTON_C128) return dtype == LEPTON_C64 ? 8 : 16;
  return dtype < sizeof sizes / sizeof *sizes ? sizes[dtype] : 1;
}

static int fail(const char *what, const char *why) {
  fprintf(stderr, "run_model: %s: %s\n", what, why);
  return 1;
}

static size_t tensor_bytes(const lepton_tensor *t) {
  size_t bytes = element_size(t->dtype);
  for (int i = 0; i < t->rank; i++) bytes *= (size_t)t->shape[i];
  return bytes;
}

static void print_port(const char *kind, const lepton_port *port) {
  printf("%s %s: %s[", kind, port->name, port->dtype <= LEPTON_STRING ? names[port->dtype] : "other");
  for (int i = 0; i < port->rank; i++) printf("%s%s", i ? "," : "", port->dims[i]);
  printf("]\n");
}

/* The size of an open dimension: what -d says of its name, or 1. */
static int64_t open_size(const arguments *a, const char *name) {
  size_t length = strlen(name);
  for (int i = 0; i < a->n_dims; i++)
    if (!strncmp(a->dims[i], name, length) && a->dims[i][length] == '=')
      return strtoll(a->dims[i] + length + 1, NULL, 10);
  return 1;
}

/* Whether -d gives sizes, and to open dimensions of the inputs. */
static int check_dims(const arguments *a, const lepton_api *api) {
  for (int k = 0; k < a->n_dims; k++) {
    const char *size = strchr(a->dims[k], '=');
    char *end = NULL;
    bool known = false;
    for (size_t i = 0; size && i < api->n_inputs; i++)
      for (int j = 0; j < api->inputs[i].rank; j++) {
        const char *name = api->inputs[i].dims[j];
        size_t length = (size_t)(size - a->dims[k]);
        known |= api->inputs[i].shape[j] < 0 && strlen(name) == length && !strncmp(name, a->dims[k], length);
      }
    if (!size || strtoll(size + 1, &end, 10) < 0 || end == size + 1 || *end)
      return fail(a->dims[k], "is not NAME=SIZE");
    if (!known) return fail(a->dims[k], "names no open dimension of an input");
  }
  return 0;
}

/* The lines of a file as strings, whose bytes stay until the program ends. */
static int read_lines(FILE *file, lepton_string *out, size_t count) {
  char *line = NULL;
  size_t room = 0;
  for (size_t i = 0; i < count; i++, line = NULL, room = 0) {
    long length = (long)getline(&line, &room, file);
    if (length < 0) return free(line), 1;
    out[i] = (lepton_string){line, (size_t)(length && line[length - 1] == '\n' ? length - 1 : length)};
  }
  return 0;
}

static int read_input(const arguments *a, int index, const lepton_port *port, lepton_tensor *t) {
  *t = (lepton_tensor){.dtype = port->dtype, .rank = port->rank};
  for (int i = 0; i < port->rank; i++)
    t->shape[i] = port->shape[i] >= 0 ? port->shape[i] : open_size(a, port->dims[i]);
  size_t bytes = tensor_bytes(t);
  t->data = calloc(bytes ? bytes : 1, 1); /* malloc's alignment suits every element type */
  if (!t->data) return fail(port->name, "no memory");
  if (index >= a->n_inputs) return 0;
  FILE *file = fopen(a->inputs[index], "rb");
  if (!file) return fail(a->inputs[index], "cannot be opened");
  bool strings = t->dtype == LEPTON_STRING;
  size_t got = strings ? 0 : fread(t->data, 1, bytes, file);
  if (strings && !read_lines(file, t->data, bytes / sizeof(lepton_string))) got = bytes;
  fclose(file);
  return got == bytes ? 0 : fail(a->inputs[index], "is too short for this input");
}

static void print_string(lepton_string s) { printf(" '%.*s'", (int)s.size, s.data); }

static void print_output(const lepton_port *port, const lepton_tensor *t) {
  size_t count = tensor_bytes(t) / element_size(t->dtype);
  printf("%s [", port->name);
  for (int i = 0; i < t->rank; i++) printf("%s%lld", i ? "," : "", (long long)t->shape[i]);
  printf("] =");
  for (size_t i = 0; i < count && i < 8; i++) {
    if (t->dtype == LEPTON_F32) printf(" %.7g", (double)((float *)t->data)[i]);
    else if (t->dtype == LEPTON_F64) printf(" %.15g", ((double *)t->data)[i]);
    else if (t->dtype == LEPTON_I64) printf(" %lld", (long long)((int64_t *)t->data)[i]);
    else if (t->dtype == LEPTON_STRING) print_string(((lepton_string *)t->data)[i]);
    else printf(" 0x%02x", ((unsigned char *)t->data)[i]);
  }
  printf(count > 8 ? " ...\n" : "\n");
}

static int write_output(const char *path, const lepton_tensor *t) {
  FILE *file = fopen(path, "wb");
  if (!file) return fail(path, "cannot be written");
  size_t bytes = tensor_bytes(t), put = t->dtype == LEPTON_STRING ? bytes : fwrite(t->data, 1, bytes, file);
  for (size_t i = 0; t->dtype == LEPTON_STRING && i < bytes / sizeof(lepton_string); i++) {
    lepton_string s = ((lepton_string *)t->data)[i];
    if (fwrite(s.data, 1, s.size, file) != s.size || fputc('\n', file) == EOF) put = 0;
  }
  return fclose(file) || put != bytes ? fail(path, "cannot be written") : 0;
}

static int run(const arguments *a, const lepton_api *api) {
  int failed = 1;
  lepton_session *session = NULL;
  lepton_tensor *inputs = calloc(api->n_inputs + 1, sizeof *inputs);
  lepton_tensor *outputs = calloc(api->n_outputs + 1, sizeof *outputs); /* data NULL: the session's */
  if (!inputs || !outputs) goto done;
  if (api->create(NULL, &session)) {
    fail("create", api->message(NULL));
    goto done;
  }
  for (size_t i = 0; i < api->n_inputs; i++)
    if (read_input(a, (int)i, &api->inputs[i], &inputs[i])) goto done;
  if (api->run(session, inputs, outputs)) {
    fail("run", api->message(session));
    goto done;
  }
  for (size_t i = 0; i < api->n_outputs; i++) print_output(&api->outputs[i], &outputs[i]);
  failed = a->output && api->n_outputs ? write_output(a->output, &outputs[0]) : 0;
done:
  for (size_t i = 0; inputs && i < api->n_inputs; i++) free(inputs[i].data);
  free(inputs);
  free(outputs);
  api->destroy(session);
  return failed;
}

static int parse(int argc, char **argv, arguments *a) {
  for (int i = 1; i < argc; i++) {
    if (!strcmp(argv[i], "-d") && i + 1 < argc && a->n_dims < 16) a->dims[a->n_dims++] = argv[++i];
    else if (!strcmp(argv[i], "-o") && i + 1 < argc) a->output = argv[++i];
    else if (argv[i][0] == '-' && argv[i][1]) return fail(argv[i], "is no option, lacks its value, or is one too many");
    else if (!a->model) a->model = argv[i];
    else if (a->n_inputs < 64) a->inputs[a->n_inputs++] = argv[i];
  }
  return a->model ? 0 : fail("usage", "run_model model.so [-d N=1]... [-o output.raw] [input.raw]...");
}

int main(int argc, char **argv) {
  arguments a = {.model = NULL};
  if (parse(argc, argv, &a)) return 2;
  char path[4096]; /* a name without a slash would be looked for among the system's libraries */
  snprintf(path, sizeof path, "%s%s", strchr(a.model, '/') ? "" : "./", a.model);
  const char *damage = lepton_damage(path, 0);
  if (damage) return fail(a.model, damage);
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) return fail(a.model, dlerror());
  const lepton_api *(*query)(uint32_t);
  void *symbol = dlsym(library, "lepton_query");
  memcpy(&query, &symbol, sizeof query);
  const lepton_api *api = symbol ? query(LEPTON_ABI_VERSION) : NULL;
  if (!api) return fail(a.model, "is not a model that this program can run");
  printf("target %s\n", api->target ? api->target : "none");
  for (size_t i = 0; i < api->n_inputs; i++) print_port("input", &api->inputs[i]);
  for (size_t i = 0; i < api->n_outputs; i++) print_port("output", &api->outputs[i]);
  int failed = check_dims(&a, api) || run(&a, api);
  dlclose(library);
  return failed;
}

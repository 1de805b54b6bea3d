/*
 * malloc_trap.c: counts every allocation of the process while a compiled model runs.
 *
 *   malloc_trap model.so THREADS [NAME=SIZE]...
 *
 * Runs the model on zeros (strings: on words, all different): once to warm up, then a hundred times counted, into the caller's outputs and
 * into the session's own. Prints the count and exits with 1 if it is not 0.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lepton.h"

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

static _Atomic long allocations;

void *malloc(size_t size) { allocations++; return __libc_malloc(size); }
void *calloc(size_t n, size_t size) { allocations++; return __libc_calloc(n, size); }
void *realloc(void *block, size_t size) { allocations++; return __libc_realloc(block, size); }
void *memalign(size_t alignment, size_t size) { allocations++; return __libc_memalign(alignment, size); }
void *aligned_alloc(size_t alignment, size_t size) { allocations++; return __libc_memalign(alignment, size); }
int posix_memalign(void **out, size_t alignment, size_t size) {
  allocations++;
  return (*out = __libc_memalign(alignment, size)) ? 0 : 12;
}
void free(void *block) { __libc_free(block); }

static size_t widths[] = {1, 4, 8, 2, 2, 1, 2, 4, 8, 1, 2, 4, 8, 1, 16, 8, 16, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

static void *zeros(const lepton_tensor *t) {
  size_t bytes = widths[t->dtype];
  for (int i = 0; i < t->rank; i++) bytes *= (size_t)t->shape[i];
  for (int i = 0; i < t->rank; i++)
    if (t->shape[i] < 0) return NULL; /* known to the session alone */
  void *made = calloc(bytes + 1, 1);
  if (t->dtype != LEPTON_STRING) return made;
  for (size_t i = 0; i < bytes / sizeof(lepton_string); i++) {
    char *text = malloc(32);
    ((lepton_string *)made)[i] = (lepton_string){text, (size_t)snprintf(text, 32, "%zu words,%zu", i, i * i)};
  }
  return made;
}

static int64_t open_size(const char *name, char **sizes) {
  size_t length = strlen(name);
  for (; *sizes; sizes++)
    if (!strncmp(*sizes, name, length) && (*sizes)[length] == '=') return atoll(*sizes + length + 1);
  return 2;
}

int main(int argc, char **argv) {
  if (argc < 3) return 2;
  void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  if (!library) return 2;
  const lepton_api *(*query)(uint32_t);
  void *symbol = dlsym(library, "lepton_query");
  memcpy(&query, &symbol, sizeof query);
  const lepton_api *api = query(LEPTON_ABI_VERSION);
  lepton_options options = {.struct_size = sizeof options, .threads = (uint32_t)atoi(argv[2])};
  lepton_session *session = NULL;
  if (api->create(&options, &session)) return 2;
  lepton_tensor in[64] = {{0}}, mine[64] = {{0}}, own[64] = {{0}};
  for (size_t i = 0; i < api->n_inputs; i++) {
    const lepton_port *port = &api->inputs[i];
    in[i] = (lepton_tensor){.dtype = port->dtype, .rank = port->rank};
    for (int d = 0; d < port->rank; d++)
      in[i].shape[d] = port->shape[d] < 0 ? open_size(port->dims[d], argv + 3) : port->shape[d];
    in[i].data = zeros(&in[i]);
  }
  if (api->resolve(session, in, mine)) return fprintf(stderr, "%s\n", api->message(session)), 2;
  for (size_t i = 0; i < api->n_outputs; i++) mine[i].data = zeros(&mine[i]);
  if (api->run(session, in, mine) || api->run(session, in, own)) return fprintf(stderr, "%s\n", api->message(session)), 2;
  long before = allocations;
  for (int i = 0; i < 100; i++)
    if (api->run(session, in, i % 2 ? mine : own)) return 2;
  long counted = allocations - before;
  printf("%ld\n", counted);
  api->destroy(session);
  dlclose(library);
  return before > 0 && counted == 0 ? 0 : 1;
}

/* cuda_graph.c: runs that were recorded. A straight program's launches follow from its sizes and addresses alone, so
 * those are the key: the same key, the same launches. A key is recorded when it comes the second time, since a shape
 * that is never seen again would only pay for it. */
#include <stdlib.h>
#include <string.h>

#include "cuda.h"

enum { GRAPHS = 16, MOST_GRAPHS = 4096 };
enum { MOST_LAUNCHES = 16384 }; /* of a graph: loops of many rounds would take long to make one of, and much memory */

/* How many are kept: LEPTON_CUDA_GRAPHS, else 16; 0: none is made. */
static uint32_t wanted(void) {
  const char *text = getenv("LEPTON_CUDA_GRAPHS");
  char *end;
  if (!text || !*text) return GRAPHS;
  long n = strtol(text, &end, 10);
  if (*end || n < 0) return GRAPHS;
  return n > MOST_GRAPHS ? MOST_GRAPHS : (uint32_t)n;
}

lepton_status lpt_cuda_graphs_start(lepton_session *session) {
  struct lpt_cuda_session *c = session->cuda;
  const lpt_program *p = session->program;
  if (!c->straight || !p->n_steps) return LEPTON_OK;
  uint32_t n = wanted();
  c->key_words = p->n_env + p->n_buffers + 1;
  c->graphs = lpt_allocate_zeroed(&session->allocator, n, sizeof *c->graphs);
  c->key = lpt_allocate_zeroed(&session->allocator, (size_t)c->key_words * (n + 1), sizeof *c->key);
  if (!c->graphs || !c->key) return lpt_fail(NULL, LEPTON_OUT_OF_MEMORY, "no memory for the session");
  c->n_graphs = n;
  for (uint32_t i = 0; i < n; i++) c->graphs[i].key = c->key + (size_t)c->key_words * (i + 1);
  return LEPTON_OK;
}

void lpt_cuda_graphs_end(lepton_session *session) {
  struct lpt_cuda_session *c = session->cuda;
  for (uint32_t i = 0; i < c->n_graphs; i++)
    if (c->graphs[i].exec) lpt_cuda()->exec_destroy(c->graphs[i].exec);
  lpt_release(&session->allocator, c->graphs);
  lpt_release(&session->allocator, c->key);
}

static void write_key(const lepton_session *session) {
  const lpt_program *p = session->program;
  uint64_t *key = session->cuda->key;
  memcpy(key, session->env, p->n_env * sizeof *key);
  for (uint32_t i = 0; i < p->n_buffers; i++) key[p->n_env + i] = (uint64_t)(uintptr_t)session->bases[i];
  key[p->n_env + p->n_buffers] = (uint64_t)(uintptr_t)session->scratch.data;
}

/* The entry with this key, or the one that was not used for longest, which takes it. */
static lpt_cuda_graph *find(struct lpt_cuda_session *c) {
  size_t bytes = c->key_words * sizeof *c->key;
  lpt_cuda_graph *oldest = &c->graphs[0];
  for (uint32_t i = 0; i < c->n_graphs; i++) {
    lpt_cuda_graph *g = &c->graphs[i];
    if (g->last_use && !memcmp(g->key, c->key, bytes)) return g;
    if (g->last_use < oldest->last_use) oldest = g;
  }
  if (oldest->exec) lpt_cuda()->exec_destroy(oldest->exec);
  uint64_t *key = oldest->key;
  memcpy(key, c->key, bytes);
  *oldest = (lpt_cuda_graph){.key = key};
  return oldest;
}

/* What cannot be recorded is launched step by step from then on. */
static void record(lepton_session *session, lpt_cuda_graph *g, lepton_tensor *outputs) {
  struct lpt_cuda_session *c = session->cuda;
  const lpt_cuda_driver *d = lpt_cuda();
  cu_handle graph = NULL;
  g->refused = true;
  if (d->capture_begin(c->capture, CU_CAPTURE_RELAXED)) return;
  c->now = c->capture;
  lepton_status status = lpt_run_steps(session, outputs);
  c->now = c->stream;
  cu_result result = d->capture_end(c->capture, &graph);
  if (!status && !result && graph && !d->graph_instantiate(&g->exec, graph, 0)) g->refused = false;
  else g->exec = NULL;
  if (graph) d->graph_destroy(graph);
  session->message[0] = '\0';
}

lepton_status lpt_cuda_replay(lepton_session *session, lepton_tensor *outputs) {
  struct lpt_cuda_session *c = session->cuda;
  write_key(session);
  lpt_cuda_graph *g = find(c);
  bool again = g->last_use != 0;
  g->last_use = ++c->clock;
  if (again && !g->exec && !g->refused && g->launches <= MOST_LAUNCHES) record(session, g, outputs);
  if (!g->exec) {
    c->launches = 0;
    lepton_status status = lpt_run_steps(session, outputs);
    g->launches = c->launches;
    return status;
  }
  return lpt_cuda_check(session, lpt_cuda()->graph_launch(g->exec, c->stream), "run the model's graph");
}

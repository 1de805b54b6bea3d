/* entry.c: lepton_query, the one symbol of a compiled file, and the choice among its models and programs. */
#include <pthread.h>
#include <stdio.h>

#include "cuda.h"

/* Written by the code generator: for each model all targets of the artifact, best first. */
__attribute__((visibility("hidden"))) extern const lpt_artifact_table lpt_artifact;

/* What lepton_query was asked for: one of the file's models, and nothing, LEPTON_ON_CPU, LEPTON_ON_CUDA or LEPTON_ON_ANY.
 * A table's `create` says nothing of the table it stands in, so each choice has one of its own. */
enum { MOST_MODELS = 16, PLACES = 4 };

typedef struct choice {
  const lpt_program *program; /* the one that fits this machine best, else the last that was looked at */
  bool made, found, absent;   /* absent: the file has no program of the kind that was asked for */
  lepton_api api;
} choice;

static choice choices[MOST_MODELS][PLACES];
static pthread_mutex_t choosing = PTHREAD_MUTEX_INITIALIZER;

static uint64_t models(void) { return lpt_artifact.n_models ? lpt_artifact.n_models : 1; }

/* The next program of a model from the i-th on; NULL: no more. */
static const lpt_program *next(uint32_t model, uint64_t *i) {
  for (; *i < lpt_artifact.n_programs; ++*i)
    if (!lpt_artifact.model_of || lpt_artifact.model_of[*i] == model) return lpt_artifact.programs[(*i)++];
  return NULL;
}

static const lpt_program *first_of(uint32_t model) {
  uint64_t i = 0;
  return next(model, &i);
}

static bool holds(uint32_t model, uint32_t kind) {
  uint64_t i = 0;
  for (const lpt_program *p; (p = next(model, &i));)
    if (p->kind == kind) return true;
  return false;
}

static lepton_status create(uint32_t model, uint32_t place, const lepton_options *options,
                            lepton_session **out_session) {
  const choice *c = &choices[model][place];
  if (c->absent)
    return lpt_fail(NULL, LEPTON_UNSUPPORTED, "the file holds no code for %s, only for %s",
                    c->program->kind == LPT_CUDA ? "CPUs" : "CUDA", c->program->target);
  lepton_status status = lpt_create(c->program, NULL, options, out_session);
  if (status != LEPTON_UNSUPPORTED || c->program->kind != LPT_CUDA || !holds(model, LPT_CPU)) return status;
  char words[LPT_MESSAGE_SIZE];
  snprintf(words, sizeof words, "%s", lpt_message(NULL));
  return lpt_fail(NULL, status, "%.600s; the file holds code for CPUs too, which runs when it is asked for: "
                  "--device cpu, device=\"cpu\" or LEPTON_ON_CPU",
                  words);
}

typedef lepton_status create_function(const lepton_options *, lepton_session **);
#define CREATE(m, p) \
  static lepton_status create_##m##_##p(const lepton_options *o, lepton_session **s) { return create(m, p, o, s); }
#define CREATES(m) CREATE(m, 0) CREATE(m, 1) CREATE(m, 2) CREATE(m, 3)
#define NAMES(m) {create_##m##_0, create_##m##_1, create_##m##_2, create_##m##_3}
CREATES(0) CREATES(1) CREATES(2) CREATES(3) CREATES(4) CREATES(5) CREATES(6) CREATES(7)
CREATES(8) CREATES(9) CREATES(10) CREATES(11) CREATES(12) CREATES(13) CREATES(14) CREATES(15)
static create_function *const creates[MOST_MODELS][PLACES] = {
  NAMES(0), NAMES(1), NAMES(2), NAMES(3), NAMES(4), NAMES(5), NAMES(6), NAMES(7),
  NAMES(8), NAMES(9), NAMES(10), NAMES(11), NAMES(12), NAMES(13), NAMES(14), NAMES(15),
};

/* How well a program fits this machine: 0 not at all. Programs stand in the file best first. */
static uint32_t rank_of(const lpt_program *program) {
  if (program->cpu_features & ~lpt_cpu_features() || !lpt_cpu_enable(program->cpu_features)) return 0;
  return program->kind == LPT_CUDA ? lpt_cuda_rank(program) : 1;
}

static void choose_kind(choice *c, uint32_t model, uint32_t kind) {
  uint32_t best = 0;
  uint64_t i = 0;
  for (const lpt_program *program; (program = next(model, &i));) {
    if (program->kind != kind) continue;
    uint32_t rank = rank_of(program);
    if (rank > best || !best) c->program = program;
    if (rank > best) best = rank;
  }
  c->found = best != 0;
}

static uint32_t kind_at(uint32_t model, uint32_t place) {
  if (place == 1) return LPT_CPU;
  if (place == 2) return LPT_CUDA;
  if (place == 0) return first_of(model)->kind;
  bool cuda = false;
  uint64_t i = 0;
  for (const lpt_program *p; (p = next(model, &i));) cuda |= p->kind == LPT_CUDA && rank_of(p);
  return cuda || !holds(model, LPT_CPU) ? LPT_CUDA : LPT_CPU;
}

static void choose(choice *c, uint32_t model, uint32_t place) {
  choose_kind(c, model, kind_at(model, place));
  c->absent = !c->program;
  if (c->absent) c->program = first_of(model);
  lpt_fill_api(c->program, &c->api);
  c->api.create = creates[model][place];
  if (!c->found) c->api.target = NULL;
  c->made = true;
}

__attribute__((visibility("default")))
const lepton_api *lepton_query(uint32_t abi_version) {
  uint32_t place = abi_version >> 16 & 0xff, model = abi_version >> 24;
  if ((abi_version & 0xffff) != LEPTON_ABI_VERSION || place >= PLACES) return NULL;
  if (model >= models() || model >= MOST_MODELS || !first_of(model)) return NULL;
  choice *c = &choices[model][place];
  pthread_mutex_lock(&choosing);
  if (!c->made) choose(c, model, place);
  pthread_mutex_unlock(&choosing);
  return &c->api;
}

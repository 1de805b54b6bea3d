/* entry.c: lepton_query, the one symbol of a compiled model, and the choice among its programs. */
#include <pthread.h>
#include <stdio.h>

#include "cuda.h"

/* Written by the code generator, all targets of the artifact, best first. */
__attribute__((visibility("hidden"))) extern const lpt_artifact_table lpt_artifact;

typedef struct choice {
  pthread_once_t once;
  const lpt_program *program; /* the one that fits this machine best, else the last that was looked at */
  bool found, absent;         /* absent: the file has no program of the kind that was asked for */
  lepton_api api;
} choice;

/* By what lepton_query was asked for: nothing, LEPTON_ON_CPU, LEPTON_ON_CUDA, LEPTON_ON_ANY. */
static choice choices[] = {
  {.once = PTHREAD_ONCE_INIT}, {.once = PTHREAD_ONCE_INIT}, {.once = PTHREAD_ONCE_INIT}, {.once = PTHREAD_ONCE_INIT},
};

static bool holds(uint32_t kind) {
  for (uint64_t i = 0; i < lpt_artifact.n_programs; i++)
    if (lpt_artifact.programs[i]->kind == kind) return true;
  return false;
}

static lepton_status create(choice *c, const lepton_options *options, lepton_session **out_session) {
  if (c->absent)
    return lpt_fail(NULL, LEPTON_UNSUPPORTED, "the file holds no code for %s, only for %s",
                    c->program->kind == LPT_CUDA ? "CPUs" : "CUDA", c->program->target);
  lepton_status status = lpt_create(c->program, NULL, options, out_session);
  if (status != LEPTON_UNSUPPORTED || c->program->kind != LPT_CUDA || !holds(LPT_CPU)) return status;
  char words[LPT_MESSAGE_SIZE];
  snprintf(words, sizeof words, "%s", lpt_message(NULL));
  return lpt_fail(NULL, status, "%.600s; the file holds code for CPUs too, which runs when it is asked for (device \"cpu\")",
                  words);
}

static lepton_status create_first(const lepton_options *options, lepton_session **out_session) {
  return create(&choices[0], options, out_session);
}

static lepton_status create_cpu(const lepton_options *options, lepton_session **out_session) {
  return create(&choices[1], options, out_session);
}

static lepton_status create_cuda(const lepton_options *options, lepton_session **out_session) {
  return create(&choices[2], options, out_session);
}

static lepton_status create_any(const lepton_options *options, lepton_session **out_session) {
  return create(&choices[3], options, out_session);
}

/* How well a program fits this machine: 0 not at all. Programs stand in the file best first. */
static uint32_t rank_of(const lpt_program *program) {
  if (program->cpu_features & ~lpt_cpu_features()) return 0;
  return program->kind == LPT_CUDA ? lpt_cuda_rank(program) : 1;
}

static void choose_kind(choice *c, uint32_t kind) {
  uint32_t best = 0;
  for (uint64_t i = 0; i < lpt_artifact.n_programs; i++) {
    const lpt_program *program = lpt_artifact.programs[i];
    if (program->kind != kind) continue;
    uint32_t rank = rank_of(program);
    if (rank > best || !best) c->program = program;
    if (rank > best) best = rank;
  }
  c->found = best != 0;
}

static void choose(choice *c, uint32_t kind, lepton_status (*create)(const lepton_options *, lepton_session **)) {
  choose_kind(c, kind);
  c->absent = !c->program;
  if (c->absent) c->program = lpt_artifact.programs[0];
  lpt_fill_api(c->program, &c->api);
  c->api.create = create;
  if (!c->found) c->api.target = NULL;
}

static void choose_first(void) { choose(&choices[0], lpt_artifact.programs[0]->kind, create_first); }
static void choose_cpu(void) { choose(&choices[1], LPT_CPU, create_cpu); }
static void choose_cuda(void) { choose(&choices[2], LPT_CUDA, create_cuda); }

static void choose_any(void) {
  bool cuda = false;
  for (uint64_t i = 0; i < lpt_artifact.n_programs; i++)
    cuda |= lpt_artifact.programs[i]->kind == LPT_CUDA && rank_of(lpt_artifact.programs[i]);
  choose(&choices[3], cuda || !holds(LPT_CPU) ? LPT_CUDA : LPT_CPU, create_any);
}

__attribute__((visibility("default")))
const lepton_api *lepton_query(uint32_t abi_version) {
  static void (*const choosing[])(void) = {choose_first, choose_cpu, choose_cuda, choose_any};
  uint32_t place = abi_version >> 16;
  if ((abi_version & 0xffff) != LEPTON_ABI_VERSION || place > 3 || !lpt_artifact.n_programs) return NULL;
  pthread_once(&choices[place].once, choosing[place]);
  return &choices[place].api;
}

/* entry.c: lepton_query, the one symbol of a compiled model, and the choice among its programs. */
#include <pthread.h>

#include "runtime.h"

/* Written by the code generator, all targets of the artifact, best first. */
__attribute__((visibility("hidden"))) extern const lpt_artifact_table lpt_artifact;

static struct {
  pthread_once_t once;
  const lpt_program *program; /* the first that this machine can run, else the last */
  lepton_api api;
} chosen = {.once = PTHREAD_ONCE_INIT};

static lepton_status create(const lepton_options *options, lepton_session **out_session) {
  return lpt_create(chosen.program, NULL, options, out_session);
}

static void choose(void) {
  bool found = false;
  for (uint64_t i = 0; i < lpt_artifact.n_programs && !found; i++) {
    chosen.program = lpt_artifact.programs[i];
    found = !(chosen.program->cpu_features & ~lpt_cpu_features());
  }
  lpt_fill_api(chosen.program, &chosen.api);
  chosen.api.create = create;
  if (!found) chosen.api.target = NULL;
}

__attribute__((visibility("default")))
const lepton_api *lepton_query(uint32_t abi_version) {
  if (abi_version != LEPTON_ABI_VERSION || !lpt_artifact.n_programs) return NULL;
  pthread_once(&chosen.once, choose);
  return &chosen.api;
}

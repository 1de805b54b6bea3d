/* binding.c: dlopen and the function table, for Python. */
#include <dlfcn.h>
#include <string.h>

#include "binding.h"
#include "lepton_seal.h"

void *lpt_open(const char *path) { return dlopen(path, RTLD_NOW | RTLD_LOCAL); }

const char *lpt_open_error(void) {
  const char *why = dlerror();
  return why ? why : "unknown reason";
}

void lpt_close(void *library) { dlclose(library); }

const lepton_api *lpt_query(void *library, uint32_t abi_version) {
  const lepton_api *(*query)(uint32_t);
  void *symbol = dlsym(library, "lepton_query");
  if (!symbol) return NULL;
  memcpy(&query, &symbol, sizeof query); /* ISO C has no cast from void * to a function pointer */
  return query(abi_version);
}

const char *lpt_damage(int fd, int weights) { return lepton_damage_of(fd, weights); }

int lpt_seal(int fd, uint64_t head, uint8_t *out_seal) {
  _Static_assert(sizeof(lepton_seal) == LPT_SEAL_SIZE, "binding.h knows its size");
  lepton_seal seal;
  if (!lepton_seal_of(fd, head, &seal)) return 0;
  memcpy(out_seal, &seal, sizeof seal);
  return 1;
}

lepton_status lpt_call_create(const lepton_api *api, const lepton_options *options,
                              lepton_session **out_session) {
  return api->create(options, out_session);
}

lepton_status lpt_call_resolve(const lepton_api *api, lepton_session *session,
                               const lepton_tensor *inputs, lepton_tensor *out_outputs) {
  return api->resolve(session, inputs, out_outputs);
}

lepton_status lpt_call_run(const lepton_api *api, lepton_session *session,
                           const lepton_tensor *inputs, lepton_tensor *outputs) {
  return api->run(session, inputs, outputs);
}

const char *lpt_call_message(const lepton_api *api, const lepton_session *session) {
  return api->message(session);
}

void lpt_call_destroy(const lepton_api *api, lepton_session *session) { api->destroy(session); }

lepton_status lpt_call_profile(const lepton_api *api, lepton_session *session, int enable,
                               const lepton_step_time **out_steps, size_t *out_count) {
  return api->profile(session, enable, out_steps, out_count);
}

lepton_status lpt_call_seed(const lepton_api *api, lepton_session *session, uint64_t seed) {
  return api->seed(session, seed);
}

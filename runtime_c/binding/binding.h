#ifndef LPT_BINDING_H_
#define LPT_BINDING_H_
/*
 * binding.h: what lepton/artifact.py and codegen/memory.py reach in C besides lepton.h. Part of the
 * Python extension lepton._rt only; nothing of it is in a compiled model.
 */
#include "runtime.h"

/* cffi: begin */
typedef struct lpt_program lpt_program;

/* dlopen; when it returns NULL the loader's own words, until this thread's next call. */
void *lpt_open(const char *path);
const char *lpt_open_error(void);
void lpt_close(void *library);
/* The library's table; NULL if it has no lepton_query or does not speak this version. */
const lepton_api *lpt_query(void *library, uint32_t abi_version);

/* lepton_seal.h: what is wrong with an open file, NULL: nothing; and the seal of one that is being written, 0: the
 * file cannot be read. */
enum { LPT_SEAL_SIZE = 40 };
const char *lpt_damage(int fd, int weights);
int lpt_seal(int fd, uint64_t head, uint8_t *out_seal);

/* The table of a program that lies in memory (the JIT's); its `create` is NULL. */
void lpt_fill_api(const lpt_program *program, lepton_api *out_api);
/* A session of that program. `weights` is lent, 64-byte aligned, and must outlive the session. */
lepton_status lpt_create(const lpt_program *program, const uint8_t *weights,
                         const lepton_options *options, lepton_session **out_session);

/* The table's functions as plain calls: cheaper from Python than function pointers. */
lepton_status lpt_call_create(const lepton_api *api, const lepton_options *options,
                              lepton_session **out_session);
lepton_status lpt_call_resolve(const lepton_api *api, lepton_session *session,
                               const lepton_tensor *inputs, lepton_tensor *out_outputs);
lepton_status lpt_call_run(const lepton_api *api, lepton_session *session,
                           const lepton_tensor *inputs, lepton_tensor *outputs);
const char *lpt_call_message(const lepton_api *api, const lepton_session *session);
void lpt_call_destroy(const lepton_api *api, lepton_session *session);
lepton_status lpt_call_profile(const lepton_api *api, lepton_session *session, int enable,
                               const lepton_step_time **out_steps, size_t *out_count);
lepton_status lpt_call_seed(const lepton_api *api, lepton_session *session, uint64_t seed);

int64_t lpt_plan(uint32_t n, const int64_t *sizes, const uint32_t *first, const uint32_t *last,
                 uint32_t *order, int64_t *out_offsets);
uint64_t lpt_cpu_features(void);
uint32_t lpt_cores(void);
/* cffi: end */

#endif

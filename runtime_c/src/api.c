/* api.c: the function table of one program. */
#include "runtime.h"

void lpt_fill_api(const lpt_program *program, lepton_api *out_api) {
  *out_api = (lepton_api){
    .abi_version = LEPTON_ABI_VERSION,
    .target = program->target,
    .metadata = program->metadata,
    .n_inputs = program->n_inputs,
    .n_outputs = program->n_outputs,
    .inputs = program->inputs,
    .outputs = program->outputs,
    .n_functions = program->n_functions,
    .functions = program->functions,
    .workspace_size = lpt_is_dynamic(program) ? 0 : program->workspace_size,
    .resolve = lpt_resolve,
    .run = lpt_run,
    .message = lpt_message,
    .destroy = lpt_destroy,
    .profile = lpt_profile,
    .seed = lpt_seed,
  };
}

/* call.c: host calls: functions of the runtime's own and of the host's, from inside a program. */
#include <string.h>

#include "runtime.h"

/* ---- names -> functions, when a session is made --------------------------------------------------- */

static const lepton_registration *registered(const lepton_options *options, const char *name) {
  bool knows = options && options->struct_size >= sizeof *options;
  for (size_t i = 0; knows && i < options->n_functions; i++)
    if (!strcmp(options->functions[i].name, name)) return &options->functions[i];
  return NULL;
}

static lepton_status check_registrations(const lepton_options *options) {
  if (!options || options->struct_size < sizeof *options || !options->n_functions) return LEPTON_OK;
  if (!options->functions) return lpt_fail(NULL, LEPTON_INVALID_ARGUMENT, "options: functions is NULL");
  for (size_t i = 0; i < options->n_functions; i++)
    if (!options->functions[i].name || !options->functions[i].function)
      return lpt_fail(NULL, LEPTON_INVALID_ARGUMENT, "options: function %zu lacks its name or its pointer", i);
  return LEPTON_OK;
}

lepton_status lpt_link_calls(lepton_session *session, const lepton_options *options) {
  const lpt_program *program = session->program;
  lepton_status status = check_registrations(options);
  for (uint32_t i = 0; i < program->n_calls && !status; i++) {
    const char *name = program->calls[i].name;
    bool own = !strstr(name, "::");
    const lepton_registration *found = own ? NULL : registered(options, name);
    if (found) session->linked[i] = (lpt_linked){found->function, found->context};
    else if (own) session->linked[i] = (lpt_linked){lpt_builtin(name), NULL};
    if (session->linked[i].function) continue;
    status = own ? lpt_fail(NULL, LEPTON_INTERNAL, "the compiled model is damaged: call %u: no function '%s'",
                            (unsigned)i, name)
                 : lpt_fail(NULL, LEPTON_INVALID_ARGUMENT,
                            "the model calls '%s', which is not among the registered functions", name);
  }
  return status;
}

bool lpt_binds(const lpt_program *program, const lpt_step *step) {
  return step->kind == LPT_BIND || (step->kind == LPT_HOST_CALL && program->calls[step->target].n_bound);
}

uint32_t lpt_most_call_tensors(const lpt_program *program) {
  uint32_t most = 0;
  for (uint32_t i = 0; i < program->n_calls; i++) {
    uint32_t n = program->calls[i].n_inputs + program->calls[i].n_outputs;
    most = n > most ? n : most;
  }
  return most;
}

/* ---- one call ------------------------------------------------------------------------------------- */

typedef struct running {
  lepton_call call; /* first: what the function is shown */
  lepton_session *session;
  const lpt_host_call *row;
  lepton_tensor *run_outputs, *outputs;
  uint32_t step, first_output; /* the first output's operand */
  bool sized, failed;
} running;

lepton_session *lpt_session_of(lepton_call *call) { return ((running *)call)->session; }

static const char *step_name(const running *r) {
  const char *name = r->session->program->steps[r->step].name;
  return name ? name : r->row->name;
}

static lepton_status fail(lepton_call *call, lepton_status status, const char *words) {
  running *r = (running *)call;
  r->failed = true;
  bool known = status > LEPTON_OK && status <= LEPTON_INTERNAL;
  return lpt_fail(r->session, known ? status : LEPTON_INVALID_ARGUMENT, "step '%s': %s", step_name(r),
                  words ? words : "failed");
}

static lepton_string text(const lepton_call *call, int64_t number) {
  return lpt_text(&((const running *)call)->session->strings, number);
}

static lepton_status intern(lepton_call *call, lepton_string string, int64_t *out_number) {
  running *r = (running *)call;
  lepton_status status = lpt_intern(r->session, string, out_number);
  r->failed |= status != LEPTON_OK;
  return status;
}

/* Descriptors for `n` tensors from row `first` on; `operand` is the first one's. */
static uint32_t describe(running *r, uint32_t first, uint32_t n, uint32_t operand, bool with_data,
                         lepton_tensor *out) {
  for (uint32_t i = 0; i < n; i++) {
    const lpt_call_tensor *row = &r->row->tensors[first + i];
    out[i] = (lepton_tensor){.dtype = row->dtype, .rank = (int32_t)row->rank};
    for (uint32_t d = 0; d < row->rank; d++) {
      bool late = (row->slots.slot[d] & LPT_SLOT_LATE) && !r->sized;
      out[i].shape[d] = late ? -1 : r->session->env[row->slots.slot[d] & ~LPT_SLOT_LATE];
    }
    if (row->dtype == 0) continue;
    if (with_data) out[i].data = lpt_operand_at(r->session, operand);
    operand++;
  }
  return operand;
}

/* The function reads and writes host memory: on a GPU, copies. */
static lepton_status describe_inputs(running *r) {
  uint32_t first = r->session->program->steps[r->step].first_operand;
  r->first_output = describe(r, 0, r->row->n_inputs, first, true, r->session->tensors);
  return r->session->cuda ? lpt_cuda_fetch(r->session, r->session->tensors, r->row->n_inputs) : LEPTON_OK;
}

static lepton_status describe_outputs(running *r) {
  describe(r, r->row->n_inputs, r->row->n_outputs, r->first_output, r->sized, r->outputs);
  return r->session->cuda && r->sized ? lpt_cuda_stage(r->session, r->row->n_inputs, r->outputs, r->row->n_outputs)
                                      : LEPTON_OK;
}

static lepton_status resize(lepton_call *call, const int64_t *sizes) {
  running *r = (running *)call;
  if (r->sized || r->failed)
    return fail(call, LEPTON_INVALID_ARGUMENT, "asks for sizes twice, or for none, or after a failure");
  for (uint32_t i = 0; i < r->row->n_bound; i++) {
    if (sizes[i] < 0 || sizes[i] > LPT_MAX_BYTES)
      return fail(call, LEPTON_INVALID_ARGUMENT, "gives an output a size that cannot be");
    r->session->env[r->row->bound[i]] = sizes[i];
  }
  lepton_status status = lpt_prepare_late(r->session, r->step, r->run_outputs);
  r->sized = true;
  if (!status) status = describe_outputs(r);
  r->failed = status != LEPTON_OK;
  return status;
}

lepton_status lpt_call_host(lepton_session *session, uint32_t step, lepton_tensor *outputs) {
  const lpt_host_call *row = &session->program->calls[session->program->steps[step].target];
  const lpt_linked *linked = &session->linked[session->program->steps[step].target];
  running r = {
    .call = {.struct_size = sizeof r.call, .n_inputs = row->n_inputs, .n_outputs = row->n_outputs,
             .n_sizes = row->n_bound, .name = row->name, .context = linked->context,
             .attributes = row->attributes, .attributes_size = (size_t)row->attributes_size,
             .inputs = session->tensors, .outputs = session->tensors + row->n_inputs,
             .resize = resize, .fail = fail, .text = text, .intern = intern},
    .session = session, .row = row, .run_outputs = outputs, .outputs = session->tensors + row->n_inputs,
    .step = step, .sized = row->n_bound == 0,
  };
  lepton_status status = describe_inputs(&r);
  if (!status) status = describe_outputs(&r);
  if (status) return status;
  status = linked->function(&r.call);
  if (status == LEPTON_OK && r.failed) status = LEPTON_INVALID_ARGUMENT; /* what failed inside was passed over */
  else if (status != LEPTON_OK && !r.failed) status = fail(&r.call, status, NULL);
  else if (status == LEPTON_OK && !r.sized) status = fail(&r.call, LEPTON_INVALID_ARGUMENT, "gave no sizes of its outputs");
  if (status == LEPTON_OK && session->cuda) return lpt_cuda_store(session, r.first_output, r.outputs, row->n_outputs);
  bool known = status >= LEPTON_OK && status <= LEPTON_INTERNAL;
  return known ? status : LEPTON_INVALID_ARGUMENT;
}

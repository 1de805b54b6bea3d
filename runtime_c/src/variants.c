/* variants.c: programs of an artifact that are made for certain sizes of the inputs. A session of the program that takes
 * all sizes holds one session for each; whoever runs it never sees which of them has answered. */
#include <stdio.h>

#include "runtime.h"

static lepton_status check_ports(const lpt_program *whole, const lpt_program *part) {
  bool alike = whole->n_inputs == part->n_inputs && whole->n_outputs == part->n_outputs;
  alike = alike && !part->n_variants; /* and so no chain of variants ever ends in itself */
  if (!alike) return lpt_fail(NULL, LEPTON_INTERNAL, "the compiled model is damaged: a variant has other ports");
  return LEPTON_OK;
}

lepton_status lpt_start_variants(lepton_session *session, const lepton_options *options) {
  const lpt_program *program = session->program;
  if (!program->n_variants) return LEPTON_OK;
  session->variants = lpt_allocate_zeroed(&session->allocator, program->n_variants, sizeof *session->variants);
  if (!session->variants) return lpt_fail(NULL, LEPTON_OUT_OF_MEMORY, "no memory for the session");
  lepton_status status = LEPTON_OK;
  for (uint32_t i = 0; i < program->n_variants && !status; i++) {
    const lpt_program *variant = program->variants[i];
    status = check_ports(program, variant);
    if (!status) status = lpt_create(variant, session->weights, options, &session->variants[i]);
  }
  return status;
}

void lpt_end_variants(lepton_session *session) {
  for (uint32_t i = 0; session->variants && i < session->program->n_variants; i++) {
    if (session->variants[i]) session->variants[i]->profile = NULL;
    lpt_destroy(session->variants[i]);
  }
  lpt_release(&session->allocator, session->variants);
}

static bool made_for(const lpt_program *program, const lepton_tensor *inputs) {
  for (uint32_t i = 0; i < program->n_inputs; i++) {
    const lepton_port *port = &program->inputs[i];
    if (inputs[i].rank != port->rank) return false;
    for (int32_t d = 0; d < port->rank; d++)
      if (port->shape[d] >= 0 && inputs[i].shape[d] != port->shape[d]) return false;
  }
  return true;
}

lepton_session *lpt_variant_for(const lepton_session *session, const lepton_tensor *inputs) {
  for (uint32_t i = 0; inputs && i < session->program->n_variants; i++)
    if (made_for(session->program->variants[i], inputs)) return session->variants[i];
  return NULL;
}

static void forget(const lepton_session *session, const lepton_session *keep, lepton_tensor *outputs) {
  for (uint32_t i = 0; session != keep && i < session->program->n_outputs; i++)
    if (outputs[i].data && outputs[i].data == session->outputs[i].data) outputs[i].data = NULL;
}

void lpt_take_back(const lepton_session *session, const lepton_session *keep, lepton_tensor *outputs) {
  if (!outputs || !session->variants) return;
  forget(session, keep, outputs);
  for (uint32_t i = 0; i < session->program->n_variants; i++) forget(session->variants[i], keep, outputs);
}

lepton_status lpt_say(lepton_session *session, const lepton_session *variant, lepton_status status) {
  if (status) snprintf(session->message, sizeof session->message, "%s", variant->message);
  return status;
}

uint32_t lpt_all_steps(const lepton_session *session) {
  uint32_t n = session->program->n_steps;
  for (uint32_t i = 0; i < session->program->n_variants; i++) n += session->program->variants[i]->n_steps;
  return n;
}

void lpt_profile_variants(lepton_session *session, int enable) {
  lepton_step_time *at = session->profile;
  const lepton_session *before = session;
  for (uint32_t i = 0; i < session->program->n_variants; i++) {
    lepton_session *variant = session->variants[i];
    at = at ? at + before->program->n_steps : NULL;
    variant->profile = at; /* a part of the whole: lpt_end_variants hides it from destroy */
    for (uint32_t k = 0; enable && k < variant->program->n_steps; k++)
      at[k] = (lepton_step_time){.name = variant->program->steps[k].name};
    variant->profiling = enable;
    before = variant;
  }
}

/* steps.c: the interpreter: one pass over the program's steps. */
#define _GNU_SOURCE
#include <string.h>
#include <time.h>

#include "runtime.h"

typedef struct kernel_call {
  lpt_kernel kernel;
  void *const *buffers;
  const int64_t *dims;
  uintptr_t scratch; /* as an integer: NULL where no step needs any */
  size_t scratch_stride;
} kernel_call;

static void run_part(void *context, uint32_t thread, int64_t lo, int64_t hi) {
  const kernel_call *c = context;
  c->kernel(c->buffers, c->dims, (void *)(c->scratch + thread * c->scratch_stride), lo, hi);
}

/* The same with denormals taken for 0 and made 0. Whose thread it is, finds its own ways again. */
static void run_part_flushing(void *context, uint32_t thread, int64_t lo, int64_t hi) {
#if defined(__x86_64__)
  uint32_t before = __builtin_ia32_stmxcsr();
  __builtin_ia32_ldmxcsr(before | 0x8040); /* FTZ, DAZ */
  run_part(context, thread, lo, hi);
  __builtin_ia32_ldmxcsr(before);
#elif defined(__aarch64__)
  uint64_t before;
  __asm__ volatile("mrs %0, fpcr" : "=r"(before));
  __asm__ volatile("msr fpcr, %0" : : "r"(before | (uint64_t)1 << 24) : "memory"); /* FZ */
  run_part(context, thread, lo, hi);
  __asm__ volatile("msr fpcr, %0" : : "r"(before) : "memory");
#else
  run_part(context, thread, lo, hi);
#endif
}

void *lpt_operand_at(const lepton_session *session, uint32_t index) {
  const lpt_operand *o = &session->program->operands[index];
  /* As integers: an empty tensor's base may be NULL. */
  return (void *)((uintptr_t)session->bases[o->buffer] + (uintptr_t)session->env[o->offset_slot]);
}

lepton_status lpt_read(lepton_session *session, const void *from, void *to, size_t size) {
  if (session->cuda) return lpt_cuda_read(session, from, to, size);
  memcpy(to, from, size);
  return LEPTON_OK;
}

static void call_kernel(lepton_session *session, const lpt_step *step) {
  int64_t tasks = session->env[step->tasks_slot];
  if (tasks == 0) return;
  for (uint32_t i = 0; i < step->n_operands; i++)
    session->operands[i] = lpt_operand_at(session, step->first_operand + i);
  kernel_call c = {step->kernel, session->operands, session->env + step->dims_slot, (uintptr_t)session->scratch.data,
            session->scratch_stride};
  lpt_parallel_for(session->threads, tasks, session->env[step->grain_slot],
                   session->program->flushes ? run_part_flushing : run_part, &c);
}

static uint64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static lepton_status call(lepton_session *session, uint32_t index, lepton_tensor *outputs) {
  const lpt_step *step = &session->program->steps[index];
  if (step->kind == LPT_HOST_CALL) return lpt_call_host(session, index, outputs);
  if (session->cuda) return lpt_cuda_launch(session, step);
  call_kernel(session, step);
  return LEPTON_OK;
}

static lepton_status call_and_time(lepton_session *session, uint32_t index, lepton_tensor *outputs) {
  uint64_t start = now(), spent = 0;
  bool launched = session->cuda && session->program->steps[index].kind == LPT_CALL;
  lepton_status status = launched ? lpt_cuda_time(session, &session->program->steps[index], &spent)
                                  : call(session, index, outputs);
  session->profile[index].nanoseconds += launched ? spent : now() - start;
  session->profile[index].calls++;
  return status;
}

static lepton_status bind_size(lepton_session *session, uint32_t index, lepton_tensor *outputs) {
  const lpt_step *step = &session->program->steps[index];
  int64_t size = session->env[step->tasks_slot];
  lepton_status status = step->n_operands
    ? lpt_read(session, lpt_operand_at(session, step->first_operand), &size, sizeof size) : LEPTON_OK;
  if (status) return status;
  if (size < 0 || size > LPT_MAX_BYTES)
    return lpt_fail(session, LEPTON_INVALID_ARGUMENT, "the data give a size of %lld at step '%s'", (long long)size,
                    step->name ? step->name : "?");
  session->env[step->dims_slot] = size;
  return lpt_prepare_late(session, index, outputs);
}

static lepton_status reserve(lepton_session *session, const lpt_step *step) {
  int64_t bytes = session->env[step->tasks_slot], count = 1;
  lepton_status status = step->n_operands > 1
    ? lpt_read(session, lpt_operand_at(session, step->first_operand + 1), &count, sizeof count) : LEPTON_OK;
  if (status) return status;
  if (__builtin_mul_overflow(bytes, count, &bytes)) bytes = -1;
  return lpt_reserve_growing(session, session->program->operands[step->first_operand].buffer, bytes);
}

/* `out_more`: whether there is another round. Behind the last one both numbers are 0 again: a GPU's graphs are found by
 * what lies in `env`. */
static lepton_status count_round(lepton_session *session, const lpt_step *step, bool *out_more) {
  int64_t *done = &session->env[step->dims_slot], *rounds = done + 1;
  lepton_status status = LEPTON_OK;
  if (!*done) *rounds = session->env[step->tasks_slot];
  if (!*done && step->n_operands)
    status = lpt_read(session, lpt_operand_at(session, step->first_operand), rounds, sizeof *rounds);
  *out_more = *done < *rounds;
  if (*out_more) ++*done;
  else *done = *rounds = 0;
  return status;
}

/* A run that ends in the middle of a loop leaves no round behind. */
static lepton_status stop(lepton_session *session, lepton_status status) {
  const lpt_program *program = session->program;
  for (uint32_t i = 0; i < program->n_steps; i++)
    if (program->steps[i].kind == LPT_ROUND)
      session->env[program->steps[i].dims_slot] = session->env[program->steps[i].dims_slot + 1] = 0;
  return status;
}

lepton_status lpt_run_steps(lepton_session *session, lepton_tensor *outputs) {
  const lpt_program *program = session->program;
  for (uint32_t i = 0; i < program->n_steps;) {
    const lpt_step *step = &program->steps[i];
    lepton_status status = LEPTON_OK;
    uint32_t next = i + 1;
    uint8_t truth = 1;
    bool more = false;
    switch (step->kind) {
      case LPT_CALL:
      case LPT_HOST_CALL:
        status = session->profiling ? call_and_time(session, i, outputs) : call(session, i, outputs);
        break;
      case LPT_JUMP:
        next = step->target;
        break;
      case LPT_JUMP_IF_FALSE:
        status = lpt_read(session, lpt_operand_at(session, step->first_operand), &truth, sizeof truth);
        if (!truth) next = step->target;
        break;
      case LPT_BIND:
        status = bind_size(session, i, outputs);
        break;
      case LPT_RESERVE:
        status = reserve(session, step);
        break;
      case LPT_CHECK:
        status = lpt_check_part(session, i);
        break;
      case LPT_ROUND:
        status = count_round(session, step, &more);
        if (!more) next = step->target;
        break;
    }
    if (status) return stop(session, status);
    i = next;
  }
  return LEPTON_OK;
}

lepton_status lpt_profile(lepton_session *session, int enable, const lepton_step_time **out_steps,
                          size_t *out_count) {
  if (!session) return LEPTON_INVALID_ARGUMENT;
  const lpt_program *program = session->program;
  session->message[0] = '\0';
  session->profiling = false;
  if (enable && !session->profile) {
    session->profile = lpt_allocate(&session->allocator, lpt_all_steps(session) * sizeof *session->profile);
    if (!session->profile)
      return lpt_fail(session, LEPTON_OUT_OF_MEMORY, "no memory for step times");
  }
  for (uint32_t i = 0; enable && i < program->n_steps; i++)
    session->profile[i] = (lepton_step_time){.name = program->steps[i].name};
  session->profiling = enable;
  lpt_profile_variants(session, enable);
  if (out_steps) *out_steps = session->profile;
  if (out_count) *out_count = session->profile ? lpt_all_steps(session) : 0;
  return LEPTON_OK;
}

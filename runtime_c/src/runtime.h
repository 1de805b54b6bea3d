#ifndef LPT_RUNTIME_H_
#define LPT_RUNTIME_H_
/*
 * runtime.h: what the runtime's own files share. internal.h is the contract with generated code;
 * nothing here is.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "internal.h"

enum { LPT_ALIGNMENT = 64, LPT_MESSAGE_SIZE = 768, LPT_MAX_THREADS = 256 };

/* No buffer is larger: user space ends here on both x86-64 and aarch64. */
#define LPT_MAX_BYTES ((int64_t)1 << 47)

/* ---- alloc.c: the caller's allocator, or the C library's ------------------------------------- */

typedef struct lpt_allocator {
  void *(*allocate)(void *context, size_t size, size_t alignment);
  void (*release)(void *context, void *block);
  void *context;
  bool (*copy)(void *context, void *to, const void *from, size_t size); /* NULL: memcpy */
} lpt_allocator;

/* A block that grows and forgets what it held. */
typedef struct lpt_block {
  void *data;
  size_t capacity;
} lpt_block;

lpt_allocator lpt_allocator_of(const lepton_options *options);
/* 64-byte aligned, not NULL for size 0; NULL when there is no memory. */
void *lpt_allocate(const lpt_allocator *allocator, size_t size);
void *lpt_allocate_zeroed(const lpt_allocator *allocator, size_t count, size_t size);
/* Have the system map pages of a file that are about to be read, one after the other: half the work of faults in the
 * middle of a run. They stay shared. */
void lpt_map_ahead(const void *weights, uint64_t size);
void lpt_release(const lpt_allocator *allocator, void *block);
/* At least `size` bytes in `block`; false (and an empty block) when there is no memory. */
bool lpt_block_reserve(const lpt_allocator *allocator, lpt_block *block, size_t size);
/* The same, but what the block holds stays, and it grows by half at least. */
bool lpt_block_grow(const lpt_allocator *allocator, lpt_block *block, size_t size);

/* ---- strings.c ------------------------------------------------------------------------------------ */

enum { LPT_STRING_CHUNKS = 40 }; /* each at least twice the one before: never reached */

typedef struct lpt_string_entry {
  lepton_string text;
  uint32_t hash, slot;
  uint32_t rank; /* string_rank's, while it works */
} lpt_string_entry;

typedef struct lpt_strings {
  lpt_string_entry *entries; /* `count` of n_slots / 2; an entry's place is its string's number    */
  uint32_t *slots;           /* hash table of numbers; UINT32_MAX: free                            */
  uint32_t count, n_slots;
  uint32_t n_chunks, chunk;  /* chunk: where the next bytes go, behind `used`                      */
  size_t used;
  lpt_block chunks[LPT_STRING_CHUNKS];
} lpt_strings;

typedef struct lpt_linked { /* a host call's function */
  lepton_function function;
  void *context;
} lpt_linked;

/* ---- the session ------------------------------------------------------------------------------ */

struct lepton_session {
  const lpt_program *program;
  const uint8_t *weights;
  lpt_allocator allocator;
  lpt_allocator memory;      /* what kernels work in: `allocator`'s, or the device's                 */
  struct lpt_cuda_session *cuda; /* NULL: kernels are functions on the CPU                           */
  uint32_t threads;
  bool dynamic;              /* sizes depend on the inputs: env changes, memory is planned here    */
  bool ready;                /* env, memory and `shapes` are those of the last inputs seen         */
  int64_t *env;
  int64_t (*shapes)[LEPTON_MAX_RANK]; /* of the inputs that env was made from                      */
  void **bases;              /* per buffer: where it starts                                        */
  void **operands;           /* of the step that runs now                                          */
  uint32_t *output_buffers;  /* per output: its buffer                                             */
  lpt_block *outputs;        /* per output: memory for callers that brought none                   */
  lpt_block *arenas;         /* [0]: workspace; one more for each LPT_BIND, in order               */
  lpt_block *growing;        /* per buffer: the memory of those that are LPT_GROWING               */
  uint32_t n_arenas;
  uint64_t *state;           /* of random draws: the seed, then a counter for each node that draws  */
  uint32_t n_state;
  lpt_block scratch;         /* `threads` pieces of `scratch_stride` bytes                         */
  size_t scratch_stride;
  lpt_strings strings;
  lpt_block *numbers;        /* per input, then output: a string port's elements as numbers        */
  lpt_linked *linked;        /* per host call                                                      */
  lepton_tensor *tensors;    /* what the host call that runs now is shown                          */
  struct {                   /* lpt_plan's arguments, one entry per workspace buffer               */
    uint32_t *buffers, *first, *last, *order;
    int64_t *sizes, *offsets;
    int64_t *planned;        /* per buffer: the size it was last placed with                       */
  } plan;
  lepton_session **variants; /* sessions of the program's variants                                 */
  lepton_step_time *profile; /* NULL until profiling was switched on                               */
  bool profiling;
  char message[LPT_MESSAGE_SIZE];
};

/* session.c. `weights` NULL: the program's own. */
lepton_status lpt_create(const lpt_program *program, const uint8_t *weights,
                         const lepton_options *options, lepton_session **out_session);
lepton_status lpt_resolve(lepton_session *session, const lepton_tensor *inputs,
                          lepton_tensor *out_outputs);
lepton_status lpt_run(lepton_session *session, const lepton_tensor *inputs, lepton_tensor *outputs);
const char *lpt_message(const lepton_session *session);
lepton_status lpt_seed(lepton_session *session, uint64_t seed);
void lpt_destroy(lepton_session *session);

/* Where the steps write the outputs, for the shapes that `outputs` have now. */
lepton_status lpt_bind_outputs(lepton_session *session, const lepton_tensor *outputs);

/* Write the message and return `status`. A NULL session writes this thread's create message. */
__attribute__((format(printf, 3, 4)))
lepton_status lpt_fail(lepton_session *session, lepton_status status, const char *format, ...);

/* api.c: the table for one program; `create` is left NULL, the caller knows which. */
void lpt_fill_api(const lpt_program *program, lepton_api *out_api);

/* ---- check.c: arguments ----------------------------------------------------------------------- */

/* Bytes of a dense tensor; -1 for an unknown dtype, a negative dimension or more than LPT_MAX_BYTES. */
int64_t lpt_tensor_bytes(lepton_dtype dtype, int32_t rank, const int64_t *shape);
/* Dtype, rank, sizes the model fixes. `with_data` also: pointers present and aligned. */
lepton_status lpt_check_inputs(lepton_session *session, const lepton_tensor *inputs, bool with_data);
/* Whether env, computed from these inputs, agrees with every one of their dimensions. */
lepton_status lpt_check_sizes(lepton_session *session, const lepton_tensor *inputs);
lepton_status lpt_check_outputs(lepton_session *session, const lepton_tensor *inputs,
                                const lepton_tensor *outputs);
/* Whether the caller brought no memory, or what an earlier run lent it. */
bool lpt_wants_own(const lepton_session *session, uint32_t index, const lepton_tensor *output);
/* Whether an output has a dimension that is known only while the model runs. */
bool lpt_output_is_late(const lpt_program *program, uint32_t output);

/* ---- verify.c: is the program's table sound? -------------------------------------------------- */

lepton_status lpt_verify(const lpt_program *program);
/* Whether sizes depend on the inputs; if not, env and the workspace's plan are the compiler's. */
bool lpt_is_dynamic(const lpt_program *program);

/* ---- shape.c: sizes and memory for the inputs at hand ----------------------------------------- */

lepton_status lpt_prepare(lepton_session *session, const lepton_tensor *inputs);
/* Memory for the largest sizes that the program was compiled for, where all have such. */
lepton_status lpt_reserve_most(lepton_session *session);
/* At step `step`, which has bound sizes: all sizes again, and memory for what starts there or later. */
lepton_status lpt_prepare_late(lepton_session *session, uint32_t step, lepton_tensor *outputs);
/* LPT_CHECK: guards and sizes of what step `index` stands before. */
lepton_status lpt_check_part(lepton_session *session, uint32_t index);
/* LPT_RESERVE: memory for a growing buffer. */
lepton_status lpt_reserve_growing(lepton_session *session, uint32_t buffer, int64_t bytes);
/* Memory of the session's for output `index`, into bases and *output. */
lepton_status lpt_own_output(lepton_session *session, uint32_t index, lepton_tensor *output);
/* The output's dtype, rank and shape from env; late dimensions are -1 unless `late`. */
void lpt_describe_output(const lepton_session *session, uint32_t index, bool late,
                         lepton_tensor *output);

/* ---- variants.c: programs for certain sizes ---------------------------------------------------- */

lepton_status lpt_start_variants(lepton_session *session, const lepton_options *options);
void lpt_end_variants(lepton_session *session);
/* The session to answer for inputs of these shapes in this one's place, or NULL. */
lepton_session *lpt_variant_for(const lepton_session *session, const lepton_tensor *inputs);
/* Memory lent by this session or a variant of its that is not `keep`: forget it. */
void lpt_take_back(const lepton_session *session, const lepton_session *keep, lepton_tensor *outputs);
/* What the variant says, as said by the session. */
lepton_status lpt_say(lepton_session *session, const lepton_session *variant, lepton_status status);
/* Steps of the program and its variants together, and their times side by side in `profile`. */
uint32_t lpt_all_steps(const lepton_session *session);
void lpt_profile_variants(lepton_session *session, int enable);

/* ---- plan.c ------------------------------------------------------------------------------------ */

/* Offsets for n buffers in one arena such that buffers alive at a common step do not overlap:
 * buffer i is alive from the start of step first[i] to the end of step last[i]. Offsets are
 * multiples of 64. Largest first, best fit; deterministic. `order` is 2n entries to work in.
 * The arena's size, or -1 when a size is negative or the sum is more than LPT_MAX_BYTES. */
int64_t lpt_plan(uint32_t n, const int64_t *sizes, const uint32_t *first, const uint32_t *last,
                 uint32_t *order, int64_t *out_offsets);

/* ---- call.c ------------------------------------------------------------------------------------ */

/* Find the function of every host call. Writes the create message on failure. */
lepton_status lpt_link_calls(lepton_session *session, const lepton_options *options);
lepton_status lpt_call_host(lepton_session *session, uint32_t step, lepton_tensor *outputs);
/* The most inputs and outputs that one call has. */
uint32_t lpt_most_call_tensors(const lpt_program *program);
/* Whether sizes become known at this step. */
bool lpt_binds(const lpt_program *program, const lpt_step *step);
/* The session that makes the call: for functions of the runtime's own. */
lepton_session *lpt_session_of(lepton_call *call);
/* builtins.c; NULL: no such function. */
lepton_function lpt_builtin(const char *name);
/* text.c, numbers.c: the builtins. */
lepton_status lpt_number_to_string(lepton_call *call);
lepton_status lpt_regex_full_match(lepton_call *call);
lepton_status lpt_string_case(lepton_call *call);
lepton_status lpt_string_concat(lepton_call *call);
lepton_status lpt_string_rank(lepton_call *call);
lepton_status lpt_string_split(lepton_call *call);
lepton_status lpt_string_to_number(lepton_call *call);

/* ---- strings.c ----------------------------------------------------------------------------------- */

/* The program's constants. Writes the create message on failure. */
lepton_status lpt_strings_start(lepton_session *session);
/* Forget what is not a constant. */
void lpt_strings_reset(lepton_session *session);
void lpt_strings_end(const lpt_allocator *allocator, lpt_strings *strings);
lepton_string lpt_text(const lpt_strings *strings, int64_t number);
lepton_status lpt_intern(lepton_session *session, lepton_string text, int64_t *out_number);
/* Room in the table for a string of at most `most` bytes; NULL: no memory, and the message says so. Before
 * any other string is made: `finish` with what was written there, or `drop`. */
char *lpt_string_begin(lepton_session *session, size_t most);
lepton_status lpt_string_finish(lepton_session *session, size_t most, lepton_string made, int64_t *out_number);
void lpt_string_drop(lepton_session *session, size_t most);
/* The string inputs' elements as numbers, in session->numbers. */
lepton_status lpt_take_strings(lepton_session *session, const lepton_tensor *inputs);
/* Where an output of that shape is made as numbers; NULL: no memory. */
void *lpt_string_numbers(lepton_session *session, uint32_t output, const lepton_tensor *tensor);
/* The string outputs' elements, from their numbers. */
void lpt_give_strings(lepton_session *session, const lepton_tensor *outputs);

/* ---- steps.c ----------------------------------------------------------------------------------- */

/* `size` bytes of what kernels have written, after all of them. */
lepton_status lpt_read(lepton_session *session, const void *from, void *to, size_t size);
/* Where operand `index` of the program lies now. */
void *lpt_operand_at(const lepton_session *session, uint32_t index);
lepton_status lpt_run_steps(lepton_session *session, lepton_tensor *outputs);
lepton_status lpt_profile(lepton_session *session, int enable, const lepton_step_time **out_steps,
                          size_t *out_count);

/* ---- cuda.c: the part of a session on a GPU ------------------------------------------------------- */

/* Nothing for a CPU's program. Writes the create message on failure; lpt_cuda_end cleans up. */
lepton_status lpt_cuda_start(lepton_session *session);
void lpt_cuda_end(lepton_session *session);
/* Around everything that reaches the driver: make the GPU's context this thread's, and again what was before. Nothing
 * for a CPU's session. `leave` only where `enter` was good. */
lepton_status lpt_cuda_enter(lepton_session *session);
void lpt_cuda_leave(const lepton_session *session); /* NULL: of a GPU's session that is gone */
/* Where constant bytes lie. */
void *lpt_cuda_constant(const lepton_session *session, uint64_t offset);
/* session->state to the device. */
lepton_status lpt_cuda_seed(lepton_session *session);
/* Where kernels find input `index`: the caller's memory, or a copy. */
lepton_status lpt_cuda_take(lepton_session *session, uint32_t index, const lepton_tensor *tensor, void **out_base);
/* Device memory for output `index`, of the size env says. */
lepton_status lpt_cuda_place(lepton_session *session, uint32_t index, void **out_base);
bool lpt_cuda_owns(const lepton_session *session, uint32_t index, const void *data);
lepton_status lpt_cuda_run(lepton_session *session, lepton_tensor *outputs);
/* Wait for all that is queued; `status` as it is, or what the device says if it was good. */
lepton_status lpt_cuda_finish(lepton_session *session, lepton_status status);
lepton_status lpt_cuda_launch(lepton_session *session, const lpt_step *step);
lepton_status lpt_cuda_time(lepton_session *session, const lpt_step *step, uint64_t *out_nanoseconds);
lepton_status lpt_cuda_read(lepton_session *session, const void *from, void *to, size_t size);
/* cuda_call.c: host memory for a host call. `fetch` waits for the device and puts copies of its inputs in their
 * place, `stage` gives its outputs room, `store` takes them to the device; `first_operand` is the first output's. */
lepton_status lpt_cuda_fetch(lepton_session *session, lepton_tensor *inputs, uint32_t n);
lepton_status lpt_cuda_stage(lepton_session *session, uint32_t first, lepton_tensor *outputs, uint32_t n);
lepton_status lpt_cuda_store(lepton_session *session, uint32_t first_operand, const lepton_tensor *outputs, uint32_t n);
/* Bytes of device memory that the step's blocks work in. */
int64_t lpt_cuda_scratch(const lepton_session *session, const lpt_step *step);
/* The device has just refused memory: why. Not LEPTON_OK. */
lepton_status lpt_cuda_no_memory(lepton_session *session, const char *what, size_t bytes);

/* ---- cpu.c, cores.c: the machine ---------------------------------------------------------------- */

uint64_t lpt_cpu_features(void);
/* The names of these features, comma-separated, for messages. */
void lpt_cpu_feature_names(uint64_t features, char *out, size_t size);
/* Ask the system for what must be asked for (AMX's tile registers). False: refused. */
bool lpt_cpu_enable(uint64_t features);
/* Cores this process may use: its affinity mask, cut by the cgroup's quota. At least 1. */
uint32_t lpt_cores(void);
/* The quota of a cgroup in whole cores, rounded up; 0: none. `mount` is where cgroups lie
 * ("/sys/fs/cgroup"), `membership` the text of /proc/self/cgroup. */
uint32_t lpt_cgroup_cores(const char *mount, const char *membership);

/* ---- pool.c ------------------------------------------------------------------------------------ */

typedef void (*lpt_part)(void *context, uint32_t thread, int64_t lo, int64_t hi);

/* A share in the process's thread pool, which has at least `threads` - 1 workers from then on, or
 * as many as the system would start. The last release ends them. */
void lpt_pool_acquire(uint32_t threads);
void lpt_pool_release(void);
/* To be called before a row of parallel regions: a forked process starts workers of its own here, and what is asked of
 * sleeping workers depends on how long the row has lasted. */
void lpt_pool_check(void);

/* Equivalent serial code:  part(context, 0, 0, tasks);
 * Calls `part` on contiguous pieces that make up [0, tasks), on at most `threads` threads, and at most
 * one for every `grain` tasks. `thread` is below `threads`, and no two calls with the same one overlap
 * in time; the caller is thread 0. On return all have run and what they wrote is visible.
 * Runs serially when the pool is in use by another caller. */
void lpt_parallel_for(uint32_t threads, int64_t tasks, int64_t grain, lpt_part part, void *context);

#endif

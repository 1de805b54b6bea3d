#ifndef LPT_INTERNAL_H_
#define LPT_INTERNAL_H_
/*
 * internal.h: the contract between the runtime and generated code.
 *
 * codegen/tables.py writes these structs as constants, field by field in this order; a change here
 * is a change there. All integers are sized so that natural alignment leaves no holes to guess.
 *
 * env is one array of int64 per session: [constants and sizes]. Slot 0 always holds 0 and slot 1
 * always holds 1. For a static model the table's `env` is the whole truth and `shape` is NULL.
 */
#include "lepton.h"

typedef void (*lpt_kernel)(void *const *bufs, const int64_t *dims, void *scratch, int64_t lo, int64_t hi);

/* Computes every derived slot of env from the symbols that lie in env already. */
typedef void (*lpt_shape_function)(int64_t *env);

typedef enum lpt_storage {
  LPT_INPUT = 0,      /* index: which input                                   */
  LPT_OUTPUT = 1,     /* index: which output                                  */
  LPT_CONSTANT = 2,   /* index unused; offset (bytes) into the weights        */
  LPT_WORKSPACE = 3,  /* size and lifetime below; offset planned              */
  LPT_STATE = 4,      /* 8 bytes of the session's that outlive a run: index 0 is the seed of random
                       * draws, each other one counts the draws of one node. offset: the first value */
  LPT_GROWING = 5     /* memory of its own: LPT_RESERVE steps say how much    */
} lpt_storage;

typedef struct lpt_buffer {
  uint32_t storage;    /* lpt_storage                                                            */
  uint32_t index;
  uint64_t offset;     /* CONSTANT: bytes into weights. WORKSPACE of a static model: planned offset */
  uint32_t size_slot;  /* env slot of the size in bytes (WORKSPACE, OUTPUT)                      */
  uint32_t first_step; /* WORKSPACE: live from the start of this step ...                        */
  uint32_t last_step;  /* ... to the end of this one, inclusive                                  */
  uint32_t reserved;
} lpt_buffer;

/* One operand of a step: a place inside a buffer. */
typedef struct lpt_operand {
  uint32_t buffer;
  uint32_t offset_slot; /* env slot of the byte offset from the buffer's start (0: none)         */
} lpt_operand;

typedef enum lpt_step_kind {
  LPT_CALL = 0,          /* kernel over [0, env[tasks_slot])                                     */
  LPT_JUMP = 1,          /* continue at step `target`                                            */
  LPT_JUMP_IF_FALSE = 2, /* operand 0 is a bool[]: continue at `target` when it is 0             */
  LPT_BIND = 3,          /* a data-dependent size: env[dims_slot] = *(int64_t *)operand 0, then shape again; without
                            operands env[tasks_slot]                                             */
  LPT_HOST_CALL = 4,     /* calls[target] on the operands: a function of the runtime's or of the host's */
  LPT_RESERVE = 5,       /* operand 0, LPT_GROWING, gets env[tasks_slot] bytes, times *(int64_t *)operand 1
                            if there is one; what it holds stays                                 */
  LPT_CHECK = 6,         /* guards [first_operand, + n_operands) must hold, and so must the sizes of the steps
                            before `target`: the start of a branch or a loop's body, which may never run */
  LPT_ROUND = 7          /* one more of env[tasks_slot] rounds, or, at the first of them, *(int64_t *)operand 0;
                            else continue at `target`. env[dims_slot] counts them, of env[dims_slot + 1] */
} lpt_step_kind;

typedef struct lpt_step {
  lpt_kernel kernel;
  const char *name;        /* for profiles and messages                                          */
  uint32_t kind;           /* lpt_step_kind                                                      */
  uint32_t first_operand;  /* into lpt_program.operands                                          */
  uint32_t n_operands;
  uint32_t dims_slot;      /* kernel's `dims` = env + dims_slot                                  */
  uint32_t tasks_slot;     /* env slot: number of tasks; 0 tasks: the step is skipped            */
  uint32_t scratch_slot;   /* env slot: bytes of scratch per thread                              */
  uint32_t grain_slot;     /* env slot: tasks that are worth waking a thread for */
  uint32_t target;         /* jumps: a step. HOST_CALL: an entry of lpt_program.calls. CALL of a CUDA
                            * program: an entry of lpt_program.kernels; `kernel` is NULL and grain unused */
} lpt_step;

/* A symbol: the size of one dimension of one input (the first that names it). */
typedef struct lpt_symbol {
  uint32_t env_slot;
  uint32_t input;
  uint32_t axis;
  uint32_t reserved;
  int64_t low, high; /* the sizes that the program was compiled for; high 0: any                 */
} lpt_symbol;

#define LPT_SLOT_LATE 0x80000000u

/* Something the compiled code takes for granted: env[left] == env[right]. It is checked when the input
 * shapes are known or, with LPT_SLOT_LATE added to `left`, by an LPT_CHECK step. */
typedef struct lpt_guard {
  uint32_t left, right;
  const char *message; /* "node 'Add_7': N must equal M" ; the runtime appends the two values      */
} lpt_guard;

/* One dimension of a port that must have a given size: env slot per dimension. An output's dimension
 * that is known only after an LPT_BIND has LPT_SLOT_LATE added to its slot.
 * Until a bind has happened, the slots it computes hold whatever `shape` makes of the initial env. */
typedef struct lpt_port_slots {
  uint32_t slot[16];   /* env slot of each dimension's size (inputs: checked; outputs: given)    */
} lpt_port_slots;

/* What a host call is told about one tensor. An output's dimension that the call itself binds has
 * LPT_SLOT_LATE added to its slot. */
typedef struct lpt_call_tensor {
  uint32_t dtype;          /* lepton_dtype; 0: an optional input that is absent, which has no operand */
  uint32_t rank;
  lpt_port_slots slots;
} lpt_call_tensor;

typedef struct lpt_host_call {
  const char *name;        /* "domain::Name": registered by the host. Without "::": a row of builtins.c */
  const void *attributes;  /* constant bytes whose meaning is the function's                     */
  uint64_t attributes_size;
  const lpt_call_tensor *tensors; /* n_inputs, then n_outputs                                    */
  const uint32_t *bound;   /* env slots of the sizes that the function gives (lepton_call.resize) */
  uint32_t n_inputs, n_outputs, n_bound, reserved;
} lpt_host_call;

/* ---- CUDA ---------------------------------------------------------------------------------------- */

typedef enum lpt_program_kind { LPT_CPU = 0, LPT_CUDA = 1 } lpt_program_kind;

typedef enum lpt_image_kind {
  LPT_CUBIN = 0,       /* runs where the major is `arch`'s and the minor not below it            */
  LPT_CUBIN_EXACT = 1, /* runs on `arch` alone: sm_90a                                           */
  LPT_PTX = 2          /* text ended by a zero, which the driver compiles for `arch` and all later ones */
} lpt_image_kind;

/* All kernels of a CUDA program for one kind of device. */
typedef struct lpt_cuda_image {
  const void *data;
  uint64_t size;
  uint32_t arch;       /* compute capability times 10: 90                                        */
  uint32_t kind;       /* lpt_image_kind                                                         */
} lpt_cuda_image;

/* What is launched:
 *   name(n_operands pointers, unsigned char *scratch, i64 scratch_stride, n_dims sizes as i64, i64 tasks)
 * by blocks of `threads`, each with `shared_bytes` of dynamic shared memory, in a grid of
 * ceil(tasks / tasks_per_block) blocks, or fewer: kernels take whatever grid they get. */
typedef struct lpt_cuda_kernel {
  const char *name;
  uint32_t threads;         /* 32, 64 ... 1024                                                    */
  uint32_t tasks_per_block;
  uint32_t shared_bytes;
  uint32_t max_blocks;      /* 0: as many as the runtime finds right                              */
  uint32_t n_operands;      /* those of its steps                                                 */
  uint32_t n_dims;
  uint32_t scratch;         /* 1: each block has env[scratch_slot] bytes of device memory, at scratch + block *
                             * scratch_stride. 0: `scratch` is NULL                               */
  uint32_t early;           /* 1: waits itself for what was launched before it (griddepcontrol.wait)  */
} lpt_cuda_kernel;

typedef struct lpt_program {
  const char *target;          /* "x86-avx2"                                                     */
  const char *metadata;
  uint64_t cpu_features;       /* lpt_cpu_feature bits that must be present                      */
  const lepton_port *inputs, *outputs;
  const lpt_port_slots *input_slots, *output_slots;
  const lpt_buffer *buffers;
  const lpt_operand *operands;
  const lpt_step *steps;
  const lpt_symbol *symbols;
  const lpt_guard *guards;
  const int64_t *env;          /* initial contents, n_env of them                                */
  lpt_shape_function shape;    /* NULL: static                                                   */
  const lpt_host_call *calls;
  const char *const *functions; /* the names in `calls` that the host must register, each once   */
  const lepton_string *strings; /* constants, all different; number 0 is empty. Tensors of strings hold int64
                                 * numbers: into these, or behind them what a run has made (strings.c) */
  const struct lpt_program *const *variants; /* for certain sizes, with the same ports: tried first  */
  const uint8_t *weights;      /* 64-byte aligned (page-aligned in a .so); NULL in the JIT: given at bind */
  uint64_t weights_size;
  uint64_t workspace_size;     /* static models: bytes of the planned arena (offsets in buffers are final) */
  uint32_t n_inputs, n_outputs, n_buffers, n_operands, n_steps, n_symbols, n_guards, n_env;
  uint32_t n_calls, n_functions, n_strings, n_variants;
  uint32_t default_threads;    /* 0: one per core the process may use                            */
  uint32_t max_operands;       /* the largest n_operands of any step                             */
  uint32_t kind;               /* lpt_program_kind. What the fields say of memory is then the device's  */
  const lpt_cuda_image *images;
  const lpt_cuda_kernel *kernels; /* each symbol once; steps share them                          */
  uint32_t n_images, n_kernels;
  uint32_t flushes;            /* denormals are 0 in its kernels                                 */
} lpt_program;

/* Instruction sets, as bits of lpt_program.cpu_features; codegen/target.py holds the same list. */
enum {
  LPT_CPU_SSE42 = 1u << 0, LPT_CPU_AVX2_FMA = 1u << 1, LPT_CPU_AVX512 = 1u << 2, /* F BW CD DQ VL */
  LPT_CPU_AVX512_VNNI = 1u << 3, LPT_CPU_AVX512_BF16 = 1u << 4, LPT_CPU_AMX = 1u << 5,
  LPT_CPU_AVX_VNNI = 1u << 6, LPT_CPU_F16C = 1u << 7, LPT_CPU_NEON = 1u << 16,
  LPT_CPU_NEON_DOTPROD = 1u << 17
};

/* All the programs of an artifact, for each model best first. In a .so the linker resolves `lpt_artifact`
 * (defined by generated code) and entry.c hands out lepton_query; the JIT calls lpt_bind. */
typedef struct lpt_artifact_table {
  const lpt_program *const *programs;
  uint64_t n_programs;
  const uint32_t *model_of; /* beside `programs`: which model it computes; NULL: all the one    */
  uint64_t n_models;        /* 0: one                                                           */
} lpt_artifact_table;

#endif

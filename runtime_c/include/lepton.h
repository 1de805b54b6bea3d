#ifndef LEPTON_H_
#define LEPTON_H_
/*
 * lepton.h: how a program runs a model that leptonc compiled.
 *
 * A compiled model is one shared library that exports one symbol, lepton_query. It hands out a
 * table of functions; everything else in the library is hidden, so any number of models can be
 * loaded into one process.
 *
 * Ownership    What you create, you destroy. What you lend (tensor data, an allocator) stays yours
 *              and must outlive the call, or the object that says so below. Nothing else crosses.
 * Threads      A model is immutable: share it. A session is not: one thread at a time.
 * Errors       Every function that can fail returns lepton_status and writes its results through
 *              trailing `out_` pointers, which are left untouched on failure.
 */
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LEPTON_ABI_VERSION 1u

/* Added to lepton_query's argument: which of the file's programs are meant. Without one: those of the first
 * target's kind, so a model compiled for CUDA never runs on the CPU unless it is asked to. */
#define LEPTON_ON_CPU (1u << 16)
#define LEPTON_ON_CUDA (2u << 16)
#define LEPTON_ON_ANY (3u << 16) /* the GPU where there is one that fits, else the CPU */

/* Added to lepton_query's argument: which model of a file that holds several is meant, counted from 0 in the order
 * in which they were compiled (the metadata's "models" names them); past the last the answer is NULL. */
#define LEPTON_MODEL(index) ((uint32_t)(index) << 24)

/* cffi: begin */
typedef enum lepton_status {
  LEPTON_OK = 0,
  LEPTON_INVALID_ARGUMENT = 1, /* the caller's fault: wrong shape, dtype, count, null pointer      */
  LEPTON_UNSUPPORTED = 2,      /* this machine lacks what the model was compiled for               */
  LEPTON_OUT_OF_MEMORY = 3,
  LEPTON_DEVICE_ERROR = 4,     /* the CUDA driver refused; the message carries its words           */
  LEPTON_INTERNAL = 5          /* a bug in Lepton                                                  */
} lepton_status;

/* Element types. The numbers are part of the ABI. Types of less than a byte take a byte each, as in
 * numpy; bool is a byte of 0 or 1; a complex number is two floats; a string is a lepton_string. */
typedef enum lepton_dtype {
  LEPTON_F32 = 1, LEPTON_F64 = 2, LEPTON_F16 = 3, LEPTON_BF16 = 4,
  LEPTON_I8 = 5, LEPTON_I16 = 6, LEPTON_I32 = 7, LEPTON_I64 = 8,
  LEPTON_U8 = 9, LEPTON_U16 = 10, LEPTON_U32 = 11, LEPTON_U64 = 12,
  LEPTON_BOOL = 13, LEPTON_STRING = 14, LEPTON_C64 = 15, LEPTON_C128 = 16,
  LEPTON_F8E4M3FN = 17, LEPTON_F8E4M3FNUZ = 18, LEPTON_F8E5M2 = 19, LEPTON_F8E5M2FNUZ = 20,
  LEPTON_F8E8M0 = 21, LEPTON_F4E2M1 = 22,
  LEPTON_I4 = 23, LEPTON_U4 = 24, LEPTON_I2 = 25, LEPTON_U2 = 26
} lepton_dtype;

enum { LEPTON_MAX_RANK = 16 };

/* Whose memory a tensor lies in. */
typedef enum lepton_device {
  LEPTON_HOST = 0,
  LEPTON_CUDA = 1              /* of the GPU that the session runs on; for models compiled for CUDA */
} lepton_device;

/* A view of memory the caller owns: dense, row-major, aligned to its element. On a GPU: what writes an input must be
 * finished, or queued on the default stream; outputs are written when `run` returns. */
typedef struct lepton_tensor {
  void *data;
  lepton_dtype dtype;
  int16_t rank;
  int16_t device;              /* lepton_device; where `data` is NULL, of the memory to be given   */
  int64_t shape[16];
} lepton_tensor;

/* An element of a tensor of strings: `size` bytes, by convention UTF-8, taken as they are; no zero ends
 * them. An output's strings (not only the array of them) live until the session's next run. */
typedef struct lepton_string {
  const char *data;            /* NULL is allowed where size is 0                                  */
  size_t size;
} lepton_string;

/* What the model expects or gives, in order. Static: lives as long as the library is loaded. */
typedef struct lepton_port {
  const char *name;
  lepton_dtype dtype;
  int32_t rank;
  int64_t shape[16];           /* -1 where the model leaves the dimension open                     */
  const char *const *dims;     /* per dimension, the symbol or expression in words: "N", "4*N", "3" */
} lepton_port;

typedef struct lepton_session lepton_session;

/* One call of a function from inside a model. Everything in here is lent until the function returns.
 * Tensors are dense. Inside a model a string is a number: `data` of a LEPTON_STRING tensor points at
 * int64_t numbers, equal for equal strings, that `text` and `intern` translate. */
typedef struct lepton_call {
  uint32_t struct_size;        /* sizeof(lepton_call) of the model: lets the struct grow           */
  uint32_t n_inputs, n_outputs;
  uint32_t n_sizes;            /* how many sizes the function must give to `resize`; 0: none       */
  const char *name;            /* "domain::Name"                                                   */
  void *context;               /* as registered                                                    */
  const void *attributes;      /* the node's, as the compiler wrote them                           */
  size_t attributes_size;
  const lepton_tensor *inputs; /* dtype 0: an optional input that is absent                        */
  const lepton_tensor *outputs; /* to be written. With n_sizes, unknown dimensions are -1 and no
                                * output has `data` before `resize` has succeeded                  */
  /* Give the sizes that depend on the data: once, each where the outputs' shapes first have its -1.
   * A status other than LEPTON_OK is to be returned from the function at once. */
  lepton_status (*resize)(struct lepton_call *call, const int64_t *sizes);
  /* `return call->fail(call, status, "why");`: keeps a copy of the words for `message`. */
  lepton_status (*fail)(struct lepton_call *call, lepton_status status, const char *words);
  /* The string with this number; the empty one for a number that no string has. Its bytes stay where they
   * are until the run ends. */
  lepton_string (*text)(const struct lepton_call *call, int64_t number);
  /* The number of a string, whose bytes are copied. LEPTON_OUT_OF_MEMORY is to be returned at once. */
  lepton_status (*intern)(struct lepton_call *call, lepton_string text, int64_t *out_number);
} lepton_call;

/* Called by the thread that runs the session, while no other step runs. It must return: no longjmp and
 * no exception may leave it. Any status but LEPTON_OK ends the run, which returns it. */
typedef lepton_status (*lepton_function)(lepton_call *call);

/* A function that models may call, by name. */
typedef struct lepton_registration {
  const char *name;            /* "domain::Name"                                                   */
  lepton_function function;
  void *context;               /* handed to every call                                             */
} lepton_registration;

/* What one step of the model (a kernel call) has cost since profiling was switched on. */
typedef struct lepton_step_time {
  const char *name;            /* static                                                           */
  uint64_t calls;
  uint64_t nanoseconds;        /* wall clock, all calls together                                   */
} lepton_step_time;

typedef struct lepton_options {
  uint32_t struct_size;        /* sizeof(lepton_options): lets the struct grow                     */
  uint32_t threads;            /* 0: the model's default, or one per core the process may use      */
  void *(*allocate)(void *context, size_t size, size_t alignment); /* NULL: the C library's        */
  void (*release)(void *context, void *block);
  void *context;               /* lent; must outlive the session                                   */
  const lepton_registration *functions; /* lent until create returns; their contexts outlive the session */
  size_t n_functions;
} lepton_options;

typedef struct lepton_api {
  uint32_t abi_version;
  const char *target;          /* "x86-avx2": the code chosen for this machine; NULL if none fits  */
  const char *metadata;        /* JSON: model hash, options, versions, statistics                  */
  size_t n_inputs, n_outputs;
  const lepton_port *inputs, *outputs;
  size_t workspace_size;       /* bytes of intermediate tensors; 0 if it depends on input shapes   */
  size_t n_functions;          /* functions that a session needs registered in its options, each once */
  const char *const *functions; /* their names, "domain::Name"                                     */

  /* Make a session: workspace and a share in the process's thread pool.
   * `options` may be NULL. On success *out_session is yours; end it with destroy. */
  lepton_status (*create)(const lepton_options *options, lepton_session **out_session);

  /* The outputs' dtypes and shapes for these inputs' shapes (data pointers are not read and may be
   * NULL). `out_outputs` is an array of n_outputs; its `data` members are set to NULL. Allocates
   * when the shapes are new. A dimension that depends on the data is given as -1. */
  lepton_status (*resolve)(lepton_session *session, const lepton_tensor *inputs,
                           lepton_tensor *out_outputs);

  /* Run once. Blocks until the outputs are written. Input shapes that differ from the last call's
   * (or last resolve's) plan memory again; otherwise no allocation happens here.
   * An output whose `data` is NULL is given memory of the session's: all its fields are filled in,
   * valid until the session's next call; handing the same tensor in again asks for the same again.
   * An output with a dimension that depends on the data must be asked for this way. Outputs may
   * overlap neither inputs nor each other. */
  lepton_status (*run)(lepton_session *session, const lepton_tensor *inputs, lepton_tensor *outputs);

  /* Why the last call on this session (NULL: the last create on this thread) failed.
   * Never NULL; valid until the next call on the session. */
  const char *(*message)(const lepton_session *session);

  /* Free everything create made. NULL is allowed. */
  void (*destroy)(lepton_session *session);

  /* Step times: `enable` 1 starts counting at zero, 0 stops; the first start allocates.
   * *out_steps is an array of *out_count records in the order of the steps, the session's, updated
   * by every run that is counted, valid until destroy. Both `out_` pointers may be NULL. */
  lepton_status (*profile)(lepton_session *session, int enable,
                           const lepton_step_time **out_steps, size_t *out_count);

  /* What the model draws at random follows from the seed and the number of runs since it was set: the
   * next run draws what the first run of a new session with this seed draws. A new session has the
   * seed the model was compiled with (0 by default). Draws that the model itself gives a seed keep
   * theirs and start again. A model without draws ignores it. */
  lepton_status (*seed)(lepton_session *session, uint64_t seed);
} lepton_api;
/* cffi: end */

/* The table, or NULL if the library cannot speak `abi_version` or has no such model. Static; never freed.
 * A machine that lacks the GPU or every instruction set the model was compiled for still gets the table, so
 * that the ports can be read; its `create` returns LEPTON_UNSUPPORTED and says what is missing. */
const lepton_api *lepton_query(uint32_t abi_version);

#ifdef __cplusplus
}
#endif
#endif

#ifndef LPT_CUDA_H_
#define LPT_CUDA_H_
/*
 * cuda.h: what the runtime's CUDA files share. No header of NVIDIA's is needed: the driver is found when a
 * CUDA program is asked for, and its functions are known by name. The numbers are those of cuda.h, which are
 * part of the driver's ABI.
 */
#include "runtime.h"

typedef int cu_result; /* 0: success */
typedef uint64_t cu_pointer;
typedef void *cu_handle; /* of contexts, modules, functions, streams, graphs, events */

enum { CU_OUT_OF_MEMORY = 2, CU_CAPTURE_RELAXED = 2, CU_STREAM_NON_BLOCKING = 1, CU_MAX_DYNAMIC_SHARED = 8,
       CU_LAUNCH_EARLY = 6 };

/* CUlaunchAttribute and CUlaunchConfig. */
typedef struct cu_attribute {
  uint32_t id, unused;
  union { int32_t on; uint64_t room[8]; } value;
} cu_attribute;
typedef struct cu_launch {
  uint32_t grid[3], threads[3], shared;
  cu_handle stream;
  const cu_attribute *attributes;
  uint32_t n_attributes;
} cu_launch;

/* X(field, symbol, parameters) */
#define LPT_CUDA_FUNCTIONS(X)                                                                         \
  X(init, "cuInit", (unsigned flags))                                                                 \
  X(device_count, "cuDeviceGetCount", (int *count))                                                   \
  X(device_get, "cuDeviceGet", (int *device, int ordinal))                                            \
  X(device_attribute, "cuDeviceGetAttribute", (int *value, int attribute, int device))                \
  X(device_name, "cuDeviceGetName", (char *name, int size, int device))                               \
  X(context_retain, "cuDevicePrimaryCtxRetain", (cu_handle *context, int device))                     \
  X(context_push, "cuCtxPushCurrent_v2", (cu_handle context))                                         \
  X(context_pop, "cuCtxPopCurrent_v2", (cu_handle *context))                                          \
  X(module_load, "cuModuleLoadDataEx",                                                                \
    (cu_handle *module, const void *image, unsigned n, int *options, void **values))                  \
  X(module_unload, "cuModuleUnload", (cu_handle module))                                              \
  X(module_function, "cuModuleGetFunction", (cu_handle *function, cu_handle module, const char *name)) \
  X(function_set, "cuFuncSetAttribute", (cu_handle function, int attribute, int value))               \
  X(allocate, "cuMemAlloc_v2", (cu_pointer *pointer, size_t size))                                    \
  X(release, "cuMemFree_v2", (cu_pointer pointer))                                                    \
  X(memory_info, "cuMemGetInfo_v2", (size_t *free, size_t *total))                                    \
  X(copy_in, "cuMemcpyHtoDAsync_v2", (cu_pointer to, const void *from, size_t size, cu_handle stream)) \
  X(copy_out, "cuMemcpyDtoHAsync_v2", (void *to, cu_pointer from, size_t size, cu_handle stream))     \
  X(copy_inside, "cuMemcpyDtoDAsync_v2", (cu_pointer to, cu_pointer from, size_t size, cu_handle stream)) \
  X(stream_create, "cuStreamCreate", (cu_handle *stream, unsigned flags))                             \
  X(stream_destroy, "cuStreamDestroy_v2", (cu_handle stream))                                         \
  X(stream_wait, "cuStreamSynchronize", (cu_handle stream))                                           \
  X(launch, "cuLaunchKernelEx",                                                                       \
    (const cu_launch *launch, cu_handle function, void **parameters, void **extra))                   \
  X(capture_begin, "cuStreamBeginCapture_v2", (cu_handle stream, int mode))                           \
  X(capture_end, "cuStreamEndCapture", (cu_handle stream, cu_handle *graph))                          \
  X(graph_instantiate, "cuGraphInstantiateWithFlags", (cu_handle *exec, cu_handle graph, unsigned long long flags)) \
  X(graph_destroy, "cuGraphDestroy", (cu_handle graph))                                               \
  X(exec_destroy, "cuGraphExecDestroy", (cu_handle exec))                                             \
  X(graph_launch, "cuGraphLaunch", (cu_handle exec, cu_handle stream))                                \
  X(event_create, "cuEventCreate", (cu_handle *event, unsigned flags))                                \
  X(event_destroy, "cuEventDestroy_v2", (cu_handle event))                                            \
  X(event_record, "cuEventRecord", (cu_handle event, cu_handle stream))                               \
  X(event_wait, "cuEventSynchronize", (cu_handle event))                                              \
  X(event_elapsed, "cuEventElapsedTime", (float *milliseconds, cu_handle start, cu_handle end))       \
  X(error_name, "cuGetErrorName", (cu_result result, const char **name))                              \
  X(error_words, "cuGetErrorString", (cu_result result, const char **words))

typedef struct lpt_cuda_driver {
#define LPT_FIELD(field, symbol, parameters) cu_result (*field) parameters;
  LPT_CUDA_FUNCTIONS(LPT_FIELD)
#undef LPT_FIELD
  bool ready;
  char why[256];           /* why it is not */
  cu_handle context;       /* the device's primary one: shared with every other user of CUDA in the process */
  int capability;          /* times 10: 90 */
  int multiprocessors;
  char name[96];
} lpt_cuda_driver;

/* ---- cuda_driver.c ---------------------------------------------------------------------------------- */

/* The driver and the first device that it shows this process. Never NULL; made once. */
const lpt_cuda_driver *lpt_cuda(void);
/* "cannot `what`: CUDA_ERROR_X: the driver's words", as LEPTON_OUT_OF_MEMORY or LEPTON_DEVICE_ERROR. 0: LEPTON_OK. */
lepton_status lpt_cuda_check(lepton_session *session, cu_result result, const char *what);
/* How well a program's best image fits the device: 0 not at all. */
uint32_t lpt_cuda_rank(const lpt_program *program);
/* The image to load; NULL: none fits. */
const lpt_cuda_image *lpt_cuda_image_for(const lpt_program *program);

/* ---- cuda_model.c: what the sessions of a program share ----------------------------------------------- */

typedef struct lpt_cuda_model {
  const lpt_program *program;
  const uint8_t *weights;
  struct lpt_cuda_model *next;
  cu_handle module;
  cu_handle *functions;    /* per row of program->kernels */
  cu_pointer constants;
  uint64_t first, end;     /* the part of the weights that lies there */
  uint32_t users;
} lpt_cuda_model;

/* The program's code and constants on the device: there already, or brought now. Writes the create message. */
lepton_status lpt_cuda_acquire(const lpt_program *program, const uint8_t *weights, lpt_cuda_model **out_model);
void lpt_cuda_drop(lpt_cuda_model *model);

/* ---- cuda_graph.c ------------------------------------------------------------------------------------- */

/* A recorded run: it may be launched again when everything that launches are made of is the same. */
typedef struct lpt_cuda_graph {
  uint64_t *key;           /* sizes and addresses; all of it or nothing counts */
  uint64_t last_use;       /* 0: free */
  cu_handle exec;          /* NULL: seen once */
  uint64_t launches;       /* of the last run without it */
  bool refused;
} lpt_cuda_graph;

/* ---- cuda.c: a session's part ---------------------------------------------------------------------------- */

struct lpt_cuda_session {
  lpt_cuda_model *model;
  cu_handle stream, capture; /* `stream` waits for the default stream's work, `capture` for nobody's */
  cu_handle now;           /* where launches go: one of them */
  cu_handle events[2];
  lpt_block *inputs, *outputs; /* device copies of what the caller has in host memory */
  lpt_block *staged;       /* host copies of what a host call works on, one for each of its tensors */
  uint32_t n_staged;
  lpt_block state;
  uint64_t *words;         /* a launch's arguments */
  void **parameters;       /* pointers to them */
  cu_result failed;        /* why device memory was refused last */
  bool straight;           /* which kernels are launched follows from the program's sizes */
  bool early;              /* kernels that can may begin before those in front of them end */
  uint32_t n_graphs, key_words;
  uint64_t *key, clock, launches;
  lpt_cuda_graph *graphs;
};

lepton_status lpt_cuda_launch(lepton_session *session, const lpt_step *step);
/* All steps of a straight program, by a graph where it has one. */
lepton_status lpt_cuda_replay(lepton_session *session, lepton_tensor *outputs);
lepton_status lpt_cuda_graphs_start(lepton_session *session);
void lpt_cuda_graphs_end(lepton_session *session);

#endif

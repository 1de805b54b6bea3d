// A libcuda.so.1 without a GPU: the functions that the runtime uses, over malloc, so that whole artifacts run in tests.
//
// Kernels come from shared libraries in $LEPTON_FAKECUDA: NAME.image holds the bytes of an image as a model carries it,
// NAME.so the same kernels for this CPU (tests/cuda/fakecuda.py makes both). Nothing runs before somebody waits for it.
// What CUDA refuses is refused; memory starts as 0xFF bytes; addresses of kernels are looked up before they run.
#include <dirent.h>
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

typedef int Result;
typedef uint64_t Pointer;
enum {
  OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_IMAGE = 200, INVALID_CONTEXT = 201,
  NO_BINARY = 209, INVALID_HANDLE = 400, NOT_FOUND = 500, ILLEGAL_ADDRESS = 700, CAPTURE_UNSUPPORTED = 900,
  CAPTURE_INVALID = 901,
};

// What kernel libraries export: `fake_kernels`, ended by a row without a name.
struct Kernel {
  const char *name;
  int threads, n_pointers, n_words;
  void (*run)(long long grid, int threads, size_t shared, const uint64_t *words);
};

namespace {
struct Module { void *library; const Kernel *kernels; };
typedef void (*Early)(void (*run)(void *), void *what);  // of a kernel library: lp_sim_early
struct Function { const Kernel *kernel; size_t granted; Early early; };
struct Launch { const Kernel *kernel; unsigned grid, threads; size_t shared; Early early; std::vector<uint64_t> words; };
struct Graph { std::vector<Launch> launches; };
struct Work { std::function<void()> run; bool launches; };
struct Stream { std::vector<Work> queue; bool capturing; Graph *graph; };
struct Event { double at; };

std::recursive_mutex lock;
// Never destroyed: what tests make the driver lose is no leak of theirs.
auto &memory = *new std::map<Pointer, size_t>;
auto &handles = *new std::map<void *, const char *>;  // what was made and not yet destroyed, with its kind
auto &functions = *new std::map<std::pair<void *, std::string>, Function *>;
Stream ordinary{};                       // stream 0
Result sticky = OK;                      // an error that only shows when the work runs
thread_local int contexts = 0;
size_t used = 0, limit = (size_t)1 << 40;
int capability = 90, devices = 1;
long long n_launches = 0, n_graph_launches = 0, n_early = 0;
double clock_ns = 0;
bool late = true;                        // how the simulator runs asynchronous copies
unsigned long long seed = 1;
std::string failing;                     // the function one of whose calls will fail ("kernel": a launch that ran)
long long calls_left = 0;                // until then
Result planned = OK;
bool may_lose = false;                   // a failure was planned: something may stay that nobody could take back

Result point(const char *function) {
  return !failing.empty() && failing == function && --calls_left == 0 ? planned : (Result)OK;
}
#define POINT std::lock_guard<std::recursive_mutex> guard(lock); if (Result r = point(__func__)) return r;
#define ENTER POINT if (contexts <= 0) return INVALID_CONTEXT;

template <class T> T *made(T *handle, const char *kind) { handles[handle] = kind; return handle; }
bool is(void *handle, const char *kind) {
  auto found = handles.find(handle);
  return found != handles.end() && !strcmp(found->second, kind);
}
Stream *stream_of(void *handle) { return handle ? is(handle, "stream") ? (Stream *)handle : nullptr : &ordinary; }

bool inside(Pointer p, size_t size) {
  auto next = memory.upper_bound(p);
  if (next == memory.begin()) return false;
  --next;
  return p + size <= next->first + next->second;
}
// A kernel waits here for the next piece of work. If that is one that may begin early, it does; what waits runs when it
// is waited for.
Launch waiting{};
bool in_turn = false;                    // the next kernel does not wait: otherwise the same ones always would

// Where waiting or a kernel fails, the device is broken: what is queued never happens.
Result broken(Result r) {
  ordinary.queue.clear();
  for (auto &h : handles) if (!strcmp(h.second, "stream")) ((Stream *)h.first)->queue.clear();
  waiting = {};
  return sticky = r;
}
void settle();
void perform(const Launch &l, bool early = false) {
  if (sticky) return;
  for (int i = 0; i < l.kernel->n_pointers; ++i)
    if (l.words[i] && !inside(l.words[i], 0)) {
      fprintf(stderr, "fakecuda: argument %d of %s is no device address\n", i, l.kernel->name);
      broken(ILLEGAL_ADDRESS);
      return;
    }
  clock_ns += 1000;
  n_launches++;
  if (Result r = point("kernel")) {
    broken(r);
    return;
  }
  if (early) {
    n_early++;
    l.early([](void *) { settle(); }, nullptr);
  }
  l.kernel->run(l.grid, (int)l.threads, l.shared, l.words.data());
}
void settle() {
  if (!waiting.kernel) return;
  const Launch l = std::move(waiting);
  waiting = {};
  perform(l);
}
void execute(const Launch &l) {
  if (waiting.kernel && l.early) return perform(l, true);
  settle();
  if (in_turn) perform(l);
  else waiting = l;
  in_turn = false;
}
void drain(Stream &s) {
  auto queue = std::move(s.queue);
  s.queue.clear();
  in_turn = seed % 2 == 0;
  for (auto &work : queue) {
    if (sticky) break;
    if (!work.launches) settle();
    work.run();
  }
  settle();
}
void drain_all() {
  drain(ordinary);
  for (auto &h : handles) if (!strcmp(h.second, "stream")) drain(*(Stream *)h.first);
}
Result put(void *handle, std::function<void()> work, bool launches = false) {
  Stream *s = stream_of(handle);
  if (!s) return INVALID_HANDLE;
  if (s->capturing) return CAPTURE_UNSUPPORTED;
  if (!sticky) s->queue.push_back({std::move(work), launches});
  return sticky;
}
struct AtExit {
  ~AtExit() {
    if (!may_lose && (!memory.empty() || !handles.empty()))
      fprintf(stderr, "fakecuda: at exit %zu allocations (%zu bytes) and %zu handles are left\n", memory.size(), used, handles.size());
  }
} at_exit;
bool same(const char *path, const unsigned char *image) {
  FILE *f = fopen(path, "rb");
  if (!f) return false;
  bool equal = true;
  for (int c; equal && (c = fgetc(f)) != EOF;) equal = (unsigned char)c == *image++;
  fclose(f);
  return equal;
}
}  // namespace

extern "C" {
// For tests: what there is, and what is simulated.
void fakecuda_counts(long long *out) {
  std::lock_guard<std::recursive_mutex> guard(lock);
  const long long row[] = {(long long)memory.size(), (long long)used, (long long)handles.size(), n_launches, n_graph_launches,
                            n_early};
  memcpy(out, row, sizeof row);
}
void fakecuda_set(int cc, int count, size_t bytes) {
  capability = cc; devices = count; limit = bytes;
  sticky = OK;
}
static void set_mode(void *library) {
  auto mode = (void (*)(int, unsigned long long))dlsym(library, "lp_sim_mode");
  if (mode) mode(late, seed);
}
void fakecuda_mode(int copies_late, unsigned long long order) {
  std::lock_guard<std::recursive_mutex> guard(lock);
  late = copies_late; seed = order;
  for (auto &h : handles) if (!strcmp(h.second, "module")) set_mode(((Module *)h.first)->library);
}
// The `nth` call of `function` from now on gives `result`; 0 calls that off. How many calls were still to come to the
// failure before; NULL only asks.
long long fakecuda_fail(const char *function, long long nth, int result) {
  std::lock_guard<std::recursive_mutex> guard(lock);
  long long left = calls_left;
  if (!function) return left;
  may_lose |= nth > 0;
  failing = nth ? function : ""; calls_left = nth; planned = result;
  return left;
}

Result cuInit(unsigned) { POINT return OK; }
Result cuDeviceGetCount(int *count) { POINT *count = devices; return OK; }
Result cuDeviceGet(int *device, int ordinal) { POINT *device = ordinal; return ordinal < devices ? OK : NO_DEVICE; }
Result cuDeviceGetName(char *name, int size, int) { POINT snprintf(name, size, "Fake GPU"); return OK; }
Result cuDeviceGetAttribute(int *value, int attribute, int) {
  POINT
  *value = attribute == 75 ? capability / 10 : attribute == 76 ? capability % 10 : attribute == 16 ? 2 : 0;
  return *value || attribute == 76 ? OK : INVALID_VALUE;
}
Result cuDevicePrimaryCtxRetain(void **context, int) { POINT *context = (void *)&memory; return OK; }
Result cuCtxPushCurrent_v2(void *context) { POINT contexts++; return context == (void *)&memory ? OK : INVALID_CONTEXT; }
Result cuCtxPopCurrent_v2(void **context) { *context = (void *)&memory; return contexts-- > 0 ? OK : INVALID_CONTEXT; }

Result cuModuleLoadDataEx(void **module, const void *image, unsigned, int *, void **) {
  ENTER
  const char *folder = getenv("LEPTON_FAKECUDA");
  DIR *dir = folder ? opendir(folder) : nullptr;
  if (!dir) return INVALID_IMAGE;
  std::string found;
  while (dirent *e = readdir(dir)) {
    std::string name = e->d_name, path = std::string(folder) + "/" + name;
    if (name.size() > 6 && name.substr(name.size() - 6) == ".image" && same(path.c_str(), (const unsigned char *)image))
      found = path.substr(0, path.size() - 6) + ".so";
  }
  closedir(dir);
  if (found.empty()) return INVALID_IMAGE;
  void *library = dlopen(found.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) { fprintf(stderr, "fakecuda: %s\n", dlerror()); return NO_BINARY; }
  set_mode(library);
  *module = made(new Module{library, (const Kernel *)dlsym(library, "fake_kernels")}, "module");
  return OK;
}
Result cuModuleUnload(void *module) {
  ENTER
  if (!is(module, "module")) return INVALID_HANDLE;
  drain_all();
  for (auto i = functions.begin(); i != functions.end();)
    if (i->first.first == module) { delete i->second; i = functions.erase(i); } else ++i;
  handles.erase(module);
  delete (Module *)module;  // the library stays: other modules may have it
  return OK;
}
Result cuModuleGetFunction(void **function, void *module, const char *name) {
  ENTER
  if (!is(module, "module")) return INVALID_HANDLE;
  for (const Kernel *k = ((Module *)module)->kernels; k->name; ++k)
    if (!strcmp(k->name, name)) {
      Function *&f = functions[{module, name}];
      if (!f) f = new Function{k, 48 * 1024, (Early)dlsym(((Module *)module)->library, "lp_sim_early")};
      *function = f;
      return OK;
    }
  return NOT_FOUND;
}
Result cuFuncSetAttribute(void *function, int attribute, int value) {
  ENTER
  if (attribute != 8 || value < 0 || value > 227 * 1024) return INVALID_VALUE;
  ((Function *)function)->granted = (size_t)value;
  return OK;
}

Result cuMemAlloc_v2(Pointer *pointer, size_t size) {
  ENTER
  if (!size) return INVALID_VALUE;
  if (size > limit - std::min(limit, used)) return OUT_OF_MEMORY;
  void *block = nullptr;
  if (posix_memalign(&block, 256, size)) return OUT_OF_MEMORY;
  memset(block, 0xFF, size);
  memory[(Pointer)block] = size;
  used += size;
  *pointer = (Pointer)block;
  return OK;
}
Result cuMemFree_v2(Pointer pointer) {
  ENTER
  auto found = memory.find(pointer);
  if (found == memory.end()) return INVALID_VALUE;
  drain_all();
  used -= found->second;
  memory.erase(found);
  free((void *)pointer);
  return OK;
}
Result cuMemGetInfo_v2(size_t *left, size_t *total) { ENTER *left = limit - used; *total = limit; return OK; }
Result cuMemcpyHtoDAsync_v2(Pointer to, const void *from, size_t size, void *stream) {
  ENTER
  if (!inside(to, size)) return INVALID_VALUE;
  return put(stream, [=] { memcpy((void *)to, from, size); });
}
Result cuMemcpyDtoHAsync_v2(void *to, Pointer from, size_t size, void *stream) {
  ENTER
  if (!inside(from, size)) return INVALID_VALUE;
  return put(stream, [=] { memcpy(to, (void *)from, size); });
}
Result cuMemcpyDtoDAsync_v2(Pointer to, Pointer from, size_t size, void *stream) {
  ENTER
  if (!inside(from, size) || !inside(to, size)) return INVALID_VALUE;
  return put(stream, [=] { memcpy((void *)to, (void *)from, size); });
}

Result cuStreamCreate(void **stream, unsigned) { ENTER *stream = made(new Stream{}, "stream"); return OK; }
Result cuStreamDestroy_v2(void *stream) {
  ENTER
  if (!is(stream, "stream")) return INVALID_HANDLE;
  drain(*(Stream *)stream);
  handles.erase(stream);
  delete (Stream *)stream;
  return OK;
}
Result cuStreamSynchronize(void *stream) {
  std::lock_guard<std::recursive_mutex> guard(lock);
  if (Result r = point(__func__)) return broken(r);
  if (contexts <= 0) return INVALID_CONTEXT;
  Stream *s = stream_of(stream);
  if (!s) return INVALID_HANDLE;
  if (s->capturing) return CAPTURE_UNSUPPORTED;
  drain(*s);
  return sticky;
}
struct Attribute { unsigned id, unused; int on; char room[60]; };
struct Config { unsigned grid[3], threads[3], shared; void *stream; const Attribute *attributes; unsigned n_attributes; };
static_assert(sizeof(Attribute) == 72 && sizeof(Config) == 56, "as the driver's");
Result cuLaunchKernelEx(const Config *c, void *function, void **parameters, void **extra) {
  ENTER
  Function *f = (Function *)function;
  const unsigned x = c->grid[0], y = c->grid[1], z = c->grid[2];
  unsigned long long threads = (unsigned long long)c->threads[0] * c->threads[1] * c->threads[2];
  if (!f || extra || !x || !y || !z || x > 0x7fffffffu || y > 65535 || z > 65535 || !threads || threads > 1024 ||
      (int)threads > f->kernel->threads || c->shared > f->granted)
    return INVALID_VALUE;
  bool early = false;
  for (unsigned i = 0; i < c->n_attributes; ++i) {
    if (c->attributes[i].id != 6) return INVALID_VALUE;
    early = c->attributes[i].on == 1;
  }
  void *stream = c->stream;
  Launch l{f->kernel, x, (unsigned)threads, c->shared, early ? f->early : nullptr, {}};
  for (int i = 0; i < f->kernel->n_words; ++i) l.words.push_back(*(uint64_t *)parameters[i]);
  Stream *s = stream_of(stream);
  if (!s) return INVALID_HANDLE;
  if (s->capturing) {
    s->graph->launches.push_back(std::move(l));
    return OK;
  }
  return put(stream, [l] { execute(l); }, true);
}
Result cuLaunchKernel(void *function, unsigned x, unsigned y, unsigned z, unsigned tx, unsigned ty, unsigned tz,
                      unsigned shared, void *stream, void **parameters, void **extra) {
  const Config c{{x, y, z}, {tx, ty, tz}, shared, stream, nullptr, 0};
  return cuLaunchKernelEx(&c, function, parameters, extra);
}

Result cuGraphDestroy(void *graph);
Result cuStreamBeginCapture_v2(void *stream, int) {
  ENTER
  Stream *s = stream_of(stream);
  if (!s || s == &ordinary) return CAPTURE_UNSUPPORTED;
  if (s->capturing) return CAPTURE_INVALID;
  s->capturing = true;
  s->graph = made(new Graph{}, "graph");
  return OK;
}
Result cuStreamEndCapture(void *stream, void **graph) {
  std::lock_guard<std::recursive_mutex> guard(lock);
  Stream *s = stream_of(stream);
  if (!s || !s->capturing) return CAPTURE_INVALID;
  s->capturing = false;
  if (Result r = point(__func__)) {
    cuGraphDestroy(s->graph);
    return r;
  }
  *graph = s->graph;
  return OK;
}
Result cuGraphInstantiateWithFlags(void **exec, void *graph, unsigned long long) {
  ENTER
  if (!is(graph, "graph")) return INVALID_HANDLE;
  *exec = made(new Graph(*(Graph *)graph), "exec");
  return OK;
}
Result cuGraphDestroy(void *graph) {
  ENTER
  if (!is(graph, "graph")) return INVALID_HANDLE;
  handles.erase(graph);
  delete (Graph *)graph;
  return OK;
}
Result cuGraphExecDestroy(void *exec) {
  ENTER
  if (!is(exec, "exec")) return INVALID_HANDLE;
  drain_all();
  handles.erase(exec);
  delete (Graph *)exec;
  return OK;
}
Result cuGraphLaunch(void *exec, void *stream) {
  ENTER
  if (!is(exec, "exec")) return INVALID_HANDLE;
  n_graph_launches++;
  return put(stream, [exec] { for (const Launch &l : ((Graph *)exec)->launches) execute(l); }, true);
}

Result cuEventCreate(void **event, unsigned) { ENTER *event = made(new Event{}, "event"); return OK; }
Result cuEventDestroy_v2(void *event) {
  ENTER
  if (!is(event, "event")) return INVALID_HANDLE;
  handles.erase(event);
  delete (Event *)event;
  return OK;
}
Result cuEventRecord(void *event, void *stream) { ENTER return put(stream, [event] { ((Event *)event)->at = clock_ns; }); }
Result cuEventSynchronize(void *) {
  std::lock_guard<std::recursive_mutex> guard(lock);
  if (Result r = point(__func__)) return broken(r);
  drain_all();
  return sticky;
}
Result cuEventElapsedTime(float *ms, void *start, void *end) {
  ENTER
  *ms = (float)((((Event *)end)->at - ((Event *)start)->at) * 1e-6);
  return OK;
}

Result cuGetErrorName(Result r, const char **name) {
  static const std::map<int, const char *> names = {
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE"}, {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY"},
    {NO_DEVICE, "CUDA_ERROR_NO_DEVICE"}, {INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE"},
    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT"}, {NO_BINARY, "CUDA_ERROR_NO_BINARY_FOR_GPU"},
    {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE"}, {NOT_FOUND, "CUDA_ERROR_NOT_FOUND"},
    {ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS"}, {CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"},
    {CAPTURE_INVALID, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"}};
  auto found = names.find(r);
  *name = found == names.end() ? nullptr : found->second;
  return *name ? OK : INVALID_VALUE;
}
Result cuGetErrorString(Result r, const char **words) {
  *words = r == OUT_OF_MEMORY ? "out of memory" : r == ILLEGAL_ADDRESS ? "an illegal memory access was encountered" : "as the fake driver says";
  return OK;
}
}

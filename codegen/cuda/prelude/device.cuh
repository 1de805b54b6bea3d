// What generated kernels need of the machine, on a GPU. The only file with PTX. sim.hpp says the same for a CPU.
typedef signed char i8; typedef unsigned char u8; typedef short i16; typedef unsigned short u16;
typedef int i32; typedef unsigned int u32; typedef long long i64; typedef unsigned long long u64;
#define LP_INLINE __device__ __forceinline__
#define LP_MEMBER static __device__ __forceinline__
#define LP_METHOD __device__ __forceinline__
#define LP_KERNEL(...) extern "C" __global__ void __launch_bounds__(__VA_ARGS__)
#define LP_MEMCPY memcpy
#define LP_UNROLL _Pragma("unroll")
#define LP_THREAD (i64)threadIdx.x
#define LP_THREADS (i64)blockDim.x
#define LP_BLOCK (i64)blockIdx.x
#define LP_BLOCKS (i64)gridDim.x
#define LP_SHARED extern __shared__ __align__(1024) unsigned char lp_shared[];

LP_INLINE void lp_sync() { __syncthreads(); }
LP_INLINE void lp_sync_warp() { __syncwarp(); }
LP_INLINE u32 lp_shuffle_down(u32 x, int by) { return __shfl_down_sync(0xFFFFFFFFu, x, by); }
LP_INLINE u32 lp_shuffle_xor(u32 x, int by) { return __shfl_xor_sync(0xFFFFFFFFu, x, by); }

// What follows this kernel may be put on free multiprocessors; from here on, what was launched before it has ended and
// its results are there (sm_90). The first thing that a kernel does.
LP_INLINE void lp_begin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// --- memory in 16 bytes ---
LP_INLINE void lp_load16(const void *p, u32 (&x)[4]) {
  const uint4 v = *(const uint4 *)p;
  x[0] = v.x; x[1] = v.y; x[2] = v.z; x[3] = v.w;
}
LP_INLINE void lp_store16(void *p, const u32 (&x)[4]) { *(uint4 *)p = make_uint4(x[0], x[1], x[2], x[3]); }

// --- asynchronous copies into shared memory (sm_80): 16 bytes, zeros where there is nothing to read ---
LP_INLINE u32 lp_shared_address(const void *p) { return (u32)__cvta_generic_to_shared(p); }
LP_INLINE void lp_copy16(void *to, const void *from, bool there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :: "r"(lp_shared_address(to)), "l"(from), "r"(there ? 16 : 0) : "memory");
}
LP_INLINE void lp_copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> LP_INLINE void lp_copy_wait() { asm volatile("cp.async.wait_group %0;" :: "n"(N) : "memory"); }

// --- tensor cores (sm_80): a warp's fragments of 16 x 32 bytes by 8 x 32 bytes; `at`: one row of 16 bytes a lane ---
LP_INLINE void lp_load_matrices(u32 (&r)[4], const void *at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(lp_shared_address(at)) : "memory");
}
LP_INLINE void lp_load_matrices_turned(u32 (&r)[4], const void *at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(lp_shared_address(at)) : "memory");
}
#define LP_MMA(name, shape, types, T, c) \
  LP_INLINE void name(T (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) { \
    asm volatile("mma.sync.aligned." shape ".row.col." types \
                 " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
                 : "+" c(d[0]), "+" c(d[1]), "+" c(d[2]), "+" c(d[3]) \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1)); \
  }
LP_MMA(lp_mma_f16, "m16n8k16", "f32.f16.f16.f32", float, "f")
LP_MMA(lp_mma_bf16, "m16n8k16", "f32.bf16.bf16.f32", float, "f")
LP_MMA(lp_mma_tf32, "m16n8k8", "f32.tf32.tf32.f32", float, "f")
LP_MMA(lp_mma_s8s8, "m16n8k32", "s32.s8.s8.s32", i32, "r")
LP_MMA(lp_mma_u8s8, "m16n8k32", "s32.u8.s8.s32", i32, "r")
LP_MMA(lp_mma_s8u8, "m16n8k32", "s32.s8.u8.s32", i32, "r")
LP_MMA(lp_mma_u8u8, "m16n8k32", "s32.u8.u8.s32", i32, "r")
#if __CUDA_ARCH__ >= 890
#define LP_FLOAT8
LP_MMA(lp_mma_e4m3e4m3, "m16n8k32", "f32.e4m3.e4m3.f32", float, "f")
LP_MMA(lp_mma_e5m2e4m3, "m16n8k32", "f32.e5m2.e4m3.f32", float, "f")
LP_MMA(lp_mma_e4m3e5m2, "m16n8k32", "f32.e4m3.e5m2.f32", float, "f")
LP_MMA(lp_mma_e5m2e5m2, "m16n8k32", "f32.e5m2.e5m2.f32", float, "f")
#endif
LP_INLINE u32 lp_to_tf32(u32 x) {  // the nearest of the numbers that tensor cores multiply
  u32 y;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "r"(x));
  return y;
}

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define LP_WARPGROUPS
// --- barriers in shared memory that wait for arrivals and for bytes; copies of many bytes by one thread (sm_90) ---
LP_INLINE void lp_barrier_start(u64 *b, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(lp_shared_address(b)), "r"(arrivals) : "memory");
}
LP_INLINE void lp_barriers_started() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
LP_INLINE void lp_barrier_expect(u64 *b, u32 bytes) {  // an arrival, and so many bytes to come
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(lp_shared_address(b)), "r"(bytes) : "memory");
}
LP_INLINE void lp_barrier_arrive(u64 *b) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: "r"(lp_shared_address(b)) : "memory");
}
LP_INLINE void lp_barrier_wait(u64 *b, u32 parity) {  // until the phase of this parity is over
  asm volatile("{ .reg .pred done; again_%=: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1; @!done bra again_%=; }"
               :: "r"(lp_shared_address(b)), "r"(parity) : "memory");
}
LP_INLINE void lp_copy_bulk(void *to, const void *from, u32 bytes, u64 *b) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
               :: "r"(lp_shared_address(to)), "l"(from), "r"(bytes), "r"(lp_shared_address(b)) : "memory");
}
// What this thread wrote to shared memory may be read by products of warp groups and by copies.
LP_INLINE void lp_publish() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
template <int N> LP_INLINE void lp_registers_more() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(N)); }
template <int N> LP_INLINE void lp_registers_less() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(N)); }

// --- products of warp groups (sm_90a): 64 rows by 2 R columns, 32 bytes along k, both factors in shared memory ---
LP_INLINE void lp_products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
LP_INLINE void lp_products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N> LP_INLINE void lp_products_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(N) : "memory"); }
LP_INLINE u64 lp_rows128(const void *p) {  // rows of 128 bytes, chunks permuted; eight rows are 1024 bytes
  return u64(lp_shared_address(p) >> 4) | 1ull << 16 | 64ull << 32 | 1ull << 62;
}
#define LP_TEN(t) "%" #t "0, %" #t "1, %" #t "2, %" #t "3, %" #t "4, %" #t "5, %" #t "6, %" #t "7, %" #t "8, %" #t "9, "
#define LP_NAMES_32 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, " LP_TEN(1) LP_TEN(2) "%30, %31"
#define LP_NAMES_64 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, " LP_TEN(1) LP_TEN(2) LP_TEN(3) LP_TEN(4) LP_TEN(5) \
  "%60, %61, %62, %63"
#define LP_NAMES_128 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, " LP_TEN(1) LP_TEN(2) LP_TEN(3) LP_TEN(4) LP_TEN(5) \
  LP_TEN(6) LP_TEN(7) LP_TEN(8) LP_TEN(9) LP_TEN(10) LP_TEN(11) "%120, %121, %122, %123, %124, %125, %126, %127"
#define LP_SUMS_4(c, i) "+" c(d[i]), "+" c(d[i + 1]), "+" c(d[i + 2]), "+" c(d[i + 3])
#define LP_SUMS_16(c, i) LP_SUMS_4(c, i), LP_SUMS_4(c, i + 4), LP_SUMS_4(c, i + 8), LP_SUMS_4(c, i + 12)
#define LP_SUMS_32(c, i) LP_SUMS_16(c, i), LP_SUMS_16(c, i + 16)
#define LP_SUMS_64(c, i) LP_SUMS_32(c, i), LP_SUMS_32(c, i + 32)
#define LP_SUMS_128(c, i) LP_SUMS_64(c, i), LP_SUMS_64(c, i + 64)
// `add`: to what is there; otherwise sums begin anew.
#define LP_PRODUCTS_OF(name, R, shape, types, more, T, c, left, right, adds) \
  LP_INLINE void name(T (&d)[R], u64 a, u64 b, int add = 1) { \
    asm volatile("{ .reg .pred add; setp.ne.b32 add, " adds ", 0; wgmma.mma_async.sync.aligned." shape types " {" \
                 LP_NAMES_##R "}, " left ", " right ", add" more "; }" : LP_SUMS_##R(c, 0) : "l"(a), "l"(b), "r"(add)); \
  }
#define LP_PRODUCTS(name, k, types, more, T, c) \
  LP_PRODUCTS_OF(name, 32, "m64n64" k, types, more, T, c, "%32", "%33", "%34") \
  LP_PRODUCTS_OF(name, 64, "m64n128" k, types, more, T, c, "%64", "%65", "%66") \
  LP_PRODUCTS_OF(name, 128, "m64n256" k, types, more, T, c, "%128", "%129", "%130")
LP_PRODUCTS(lp_products_f16, "k16", ".f32.f16.f16", ", 1, 1, 0, 0", float, "f")
LP_PRODUCTS(lp_products_bf16, "k16", ".f32.bf16.bf16", ", 1, 1, 0, 0", float, "f")
LP_PRODUCTS(lp_products_s8s8, "k32", ".s32.s8.s8", "", i32, "r")
LP_PRODUCTS(lp_products_u8s8, "k32", ".s32.u8.s8", "", i32, "r")
LP_PRODUCTS(lp_products_e4m3e4m3, "k32", ".f32.e4m3.e4m3", ", 1, 1", float, "f")
LP_PRODUCTS(lp_products_e5m2e4m3, "k32", ".f32.e5m2.e4m3", ", 1, 1", float, "f")
LP_PRODUCTS(lp_products_e4m3e5m2, "k32", ".f32.e4m3.e5m2", ", 1, 1", float, "f")
LP_PRODUCTS(lp_products_e5m2e5m2, "k32", ".f32.e5m2.e5m2", ", 1, 1", float, "f")
#endif

LP_INLINE float lp_from_f16(u16 h) { float f; asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h)); return f; }
LP_INLINE u16 lp_to_f16(float f) { u16 h; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f)); return h; }

#define LP_MATH1(name, single, both) \
  LP_INLINE float name(float x) { return single(x); } LP_INLINE double name(double x) { return both(x); }
#define LP_MATH2(name, single, both) \
  LP_INLINE float name(float x, float y) { return single(x, y); } \
  LP_INLINE double name(double x, double y) { return both(x, y); }

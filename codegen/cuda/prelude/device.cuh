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
#define LP_SHARED extern __shared__ __align__(16) unsigned char lp_shared[];

LP_INLINE void lp_sync() { __syncthreads(); }
LP_INLINE u32 lp_shuffle_down(u32 x, int by) { return __shfl_down_sync(0xFFFFFFFFu, x, by); }
LP_INLINE u32 lp_shuffle_xor(u32 x, int by) { return __shfl_xor_sync(0xFFFFFFFFu, x, by); }

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
LP_INLINE u32 lp_to_tf32(u32 x) {  // the nearest of the numbers that tensor cores multiply
  u32 y;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "r"(x));
  return y;
}

LP_INLINE float lp_from_f16(u16 h) { float f; asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h)); return f; }
LP_INLINE u16 lp_to_f16(float f) { u16 h; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f)); return h; }

#define LP_MATH1(name, single, both) \
  LP_INLINE float name(float x) { return single(x); } LP_INLINE double name(double x) { return both(x); }
#define LP_MATH2(name, single, both) \
  LP_INLINE float name(float x, float y) { return single(x, y); } \
  LP_INLINE double name(double x, double y) { return both(x, y); }

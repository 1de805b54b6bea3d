// What generated kernels need of the machine, on a GPU. The only file with PTX. sim.hpp says the same for a CPU.
typedef signed char i8; typedef unsigned char u8; typedef short i16; typedef unsigned short u16;
typedef int i32; typedef unsigned int u32; typedef long long i64; typedef unsigned long long u64;
#define LP_INLINE __device__ __forceinline__
#define LP_MEMBER static __device__ __forceinline__
#define LP_KERNEL(threads) extern "C" __global__ void __launch_bounds__(threads)
#define LP_MEMCPY memcpy
#define LP_UNROLL _Pragma("unroll")
#define LP_THREAD (i64)threadIdx.x
#define LP_THREADS (i64)blockDim.x
#define LP_BLOCK (i64)blockIdx.x
#define LP_BLOCKS (i64)gridDim.x
#define LP_SHARED extern __shared__ __align__(16) unsigned char lp_shared[];

LP_INLINE void lp_sync() { __syncthreads(); }
LP_INLINE u32 lp_shuffle_down(u32 x, int by) { return __shfl_down_sync(0xFFFFFFFFu, x, by); }

LP_INLINE float lp_from_f16(u16 h) { float f; asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h)); return f; }
LP_INLINE u16 lp_to_f16(float f) { u16 h; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f)); return h; }

#define LP_MATH1(name, single, both) \
  LP_INLINE float name(float x) { return single(x); } LP_INLINE double name(double x) { return both(x); }
#define LP_MATH2(name, single, both) \
  LP_INLINE float name(float x, float y) { return single(x, y); } \
  LP_INLINE double name(double x, double y) { return both(x, y); }

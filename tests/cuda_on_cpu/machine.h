// What generated CUDA C finds when it is compiled as C++: CUDA's words, and the functions of machine.cpp behind them.
#pragma once
#include <math.h>
#include <string.h>

#include <type_traits>
#include <utility>

#define __device__
#define __global__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __syncthreads() gpu::barrier(0, 0, __LINE__)

struct uint2 { unsigned x, y; } __attribute__((aligned(8)));
struct uint4 { unsigned x, y, z, w; } __attribute__((aligned(16)));
struct dim3_ { unsigned x, y, z; };
extern dim3_ threadIdx, blockIdx, blockDim, gridDim;

namespace gpu {
// the block's threads
void barrier(int number, int threads, int line);  // threads 0: all
void* shared(int number, size_t bytes, size_t aligned);
unsigned char* dynamic_shared();
unsigned shared_address(const void* p);
void exchange(const void* mine, void* out, size_t bytes, int lane_xor);
// copies
void copy_async(void* to, const void* from, bool valid);
void commit_copies();
void wait_copies(int pending);
// a warp's matrices
void load_matrices(unsigned* r, const void* p, bool turned);
enum Kind { HALF, BF16, TF32 };
void mma(float* d, const unsigned* a, unsigned b0, unsigned b1, Kind kind);
// a group of 128 threads
void group_aligned(const char* what);
void wgmma(float* d, int n, unsigned long long a, const unsigned* held, unsigned long long b, int turned_a, int turned_b,
           Kind kind, int add);
void wgmma_commit();
void wgmma_wait(int pending);
// gates and bulk copies
void gate_start(void* gate, int arrivals);
void gate_arrive(void* gate);
void gate_expect(void* gate, int bytes);
void gate_await(void* gate, unsigned phases);
void bulk_copy(void* to, const void* map, void* gate, int rank, const int* at);
// numbers
float float_of_half(unsigned short x);
unsigned short half_of(float x);
unsigned short half_of(double x);
unsigned short bf16_of(float x);
unsigned tf32_of(unsigned x);
inline float max_nan(float a, float b) { return a != a || b != b ? NAN : fmaxf(a, b); }
inline float min_nan(float a, float b) { return a != a || b != b ? NAN : fminf(a, b); }
inline float exp2_ftz(float x) {
    const float y = exp2f(x);
    return y < 0x1p-126f ? 0.0f : y;
}
template <typename... P, size_t... I>
void call(void (*f)(P...), void** values, std::index_sequence<I...>) { f(*(P*)values[I]...); }
template <typename... P> void call(void (*f)(P...), void** values) { call(f, values, std::index_sequence_for<P...>()); }
}  // namespace gpu

inline unsigned long long __cvta_generic_to_shared(const void* p) { return gpu::shared_address(p); }
template <typename To, typename From> inline To gpu_bits(From x) {
    static_assert(sizeof(To) == sizeof(From));
    To y;
    memcpy(&y, &x, sizeof(To));
    return y;
}
inline unsigned __float_as_uint(float x) { return gpu_bits<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return gpu_bits<float>(x); }
inline float __int_as_float(int x) { return gpu_bits<float>(x); }
inline double __longlong_as_double(long long x) { return gpu_bits<double>(x); }
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned by) {
    return by % 32 ? high << by % 32 | low >> (32 - by % 32) : high;
}
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline double __dadd_rn(double x, double y) { return x + y; }
inline double __dsub_rn(double x, double y) { return x - y; }
inline float __double2float_rz(double x) {
    const float y = (float)x;
    return fabs((double)y) > fabs(x) ? nextafterf(y, 0.0f) : y;
}
template <typename T> inline T __shfl_xor_sync(unsigned mask, T x, int d) {
    static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8), "no shuffle of this type");
    (void)mask;  // dlc names all lanes
    T y;
    gpu::exchange(&x, &y, sizeof(T), d);
    return y;
}
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
template <typename A, typename B> inline std::common_type_t<A, B> max(A a, B b) { return a > b ? a : b; }
template <typename A, typename B> inline std::common_type_t<A, B> min(A a, B b) { return a < b ? a : b; }

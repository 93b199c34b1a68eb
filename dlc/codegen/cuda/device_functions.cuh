// Device functions that generated kernels call, each section under the name that calls it: prelude.py finds what a text
// needs by its words. Their order is that of definitions in a module, whichever of them it gets.
//
// NVRTC from PyPI comes without CUDA's headers, so half floats are our own two structs, converted by single PTX
// instructions (sm_80 and later).

//! half
struct half { unsigned short bits; };

//! bf16
struct bf16 { unsigned short bits; };

//! vec
template <typename T, int N> struct vec { T at[N]; };  // elements that one thread moves at once

//! load
template <int N, typename T>
__device__ __forceinline__ vec<T, N> load(const T* p) {  // p is aligned to min(16, N * sizeof(T)) bytes
    constexpr int bytes = N * sizeof(T);
    union { vec<T, N> values; uint4 wide[(bytes + 15) / 16]; uint2 two; unsigned one; unsigned short small; } r;
    if constexpr (bytes % 16 == 0)
        for (int k = 0; k < bytes / 16; ++k) r.wide[k] = ((const uint4*)p)[k];
    else if constexpr (bytes == 8) r.two = *(const uint2*)p;
    else if constexpr (bytes == 4) r.one = *(const unsigned*)p;
    else if constexpr (bytes == 2) r.small = *(const unsigned short*)p;
    else for (int k = 0; k < N; ++k) r.values.at[k] = p[k];
    return r.values;
}

//! store
template <int N, typename T>
__device__ __forceinline__ void store(T* p, const vec<T, N>& x) {
    constexpr int bytes = N * sizeof(T);
    union { vec<T, N> values; uint4 wide[(bytes + 15) / 16]; uint2 two; unsigned one; unsigned short small; } r;
    r.values = x;
    if constexpr (bytes % 16 == 0)
        for (int k = 0; k < bytes / 16; ++k) ((uint4*)p)[k] = r.wide[k];
    else if constexpr (bytes == 8) *(uint2*)p = r.two;
    else if constexpr (bytes == 4) *(unsigned*)p = r.one;
    else if constexpr (bytes == 2) *(unsigned short*)p = r.small;
    else for (int k = 0; k < N; ++k) p[k] = x.at[k];
}

//! bits
template <typename To, typename From>
__device__ __forceinline__ To bits(From x) {
    To y;
    memcpy(&y, &x, sizeof(To));
    return y;
}

//! to_float
__device__ __forceinline__ float to_float(half x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}
__device__ __forceinline__ float to_float(bf16 x) { return __uint_as_float((unsigned)x.bits << 16); }

//! to_half
__device__ __forceinline__ half to_half(float x) {
    half y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}
__device__ __forceinline__ half to_half(double x) {
    half y;
    asm("cvt.rn.f16.f64 %0, %1;" : "=h"(y.bits) : "d"(x));
    return y;
}

//! to_bf16
__device__ __forceinline__ bf16 to_bf16(float x) {
    bf16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}
__device__ __forceinline__ bf16 to_bf16(double x) {  // by way of a float rounded to odd, so that it rounds once
    float y = __double2float_rz(x);
    if ((double)y != x && x == x) y = __uint_as_float(__float_as_uint(y) | 1u);
    return to_bf16(y);
}

//! to_int
// saturating, NaN gives 0
template <typename T> __device__ __forceinline__ T to_int(double x, double low, double high, T lowest, T highest) {
    return x != x ? T(0) : x <= low ? lowest : x >= high ? highest : T(x);
}
template <typename T> __device__ __forceinline__ T to_int(float x, float low, float high, T lowest, T highest) {
    return x != x ? T(0) : x <= low ? lowest : x >= high ? highest : T(x);
}

//! udiv
__device__ __forceinline__ int udiv(int a, int b) { return (int)((unsigned)a / (unsigned)b); }  // both at least 0
__device__ __forceinline__ long long udiv(long long a, long long b) { return (long long)((unsigned long long)a / (unsigned long long)b); }

//! umod
__device__ __forceinline__ int umod(int a, int b) { return (int)((unsigned)a % (unsigned)b); }
__device__ __forceinline__ long long umod(long long a, long long b) { return (long long)((unsigned long long)a % (unsigned long long)b); }

//! floor_div
// rounds towards minus infinity; 0 for division by 0
template <typename T> __device__ __forceinline__ T floor_div(T a, T b) {
    if (b == T(0)) return T(0);
    if (b == T(-1) && T(-1) < T(0)) return T(0ull - (unsigned long long)a);
    T q = a / b;
    return (a % b != T(0) && (a < T(0)) != (b < T(0))) ? q - T(1) : q;
}

//! floor_mod
template <typename T> __device__ __forceinline__ T floor_mod(T a, T b) {
    if (b == T(0) || (b == T(-1) && T(-1) < T(0))) return T(0);
    T r = a % b;
    return (r != T(0) && (r < T(0)) != (b < T(0))) ? r + b : r;
}

//! floor_mod_float
template <typename T> __device__ __forceinline__ T floor_mod_float(T a, T b) {
    T r = fmod(a, b);
    if (r == T(0)) return copysign(T(0), b);
    return ((b < T(0)) != (r < T(0))) ? r + b : r;
}

//! floor_div_float
template <typename T> __device__ __forceinline__ T floor_div_float(T a, T b) {
    if (b == T(0)) return a / b;
    T r = fmod(a, b), q = (a - r) / b;
    if (r != T(0) && (b < T(0)) != (r < T(0))) q -= T(1);
    if (q == T(0)) return copysign(T(0), a / b);
    T whole = floor(q);
    return q - whole > T(0.5) ? whole + T(1) : whole;
}

//! sign_of
template <typename T> __device__ __forceinline__ T sign_of(T x) {
    return x > T(0) ? T(1) : x < T(0) ? T(-1) : x == T(0) ? T(0) : x;
}

//! sigmoid_of
// e^-|x| neither overflows nor loses the tail
template <typename T> __device__ __forceinline__ T sigmoid_of(T x) {
    T z = exp(-fabs(x)), y = T(1) / (T(1) + z);
    return x < T(0) ? z * y : y;
}

//! shift_left
template <typename T, typename U> __device__ __forceinline__ T shift_left(T a, U n, int width) {
    return n >= U(0) && n < U(width) ? T((unsigned long long)a << n) : T(0);
}

//! shift_right
template <typename T, typename U> __device__ __forceinline__ T shift_right(T a, U n, int width) {
    if (n >= U(0) && n < U(width)) return T(a >> n);
    return a < T(0) ? T(-1) : T(0);
}

//! max_of
// NaN wins
template <typename T> __device__ __forceinline__ T max_of(T a, T b) { return (a > b || a != a) ? a : b; }
template <> __device__ __forceinline__ float max_of<float>(float a, float b) {
    float c;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(c) : "f"(a), "f"(b));
    return c;
}

//! min_of
template <typename T>
__device__ __forceinline__ T min_of(T a, T b) { return (a < b || a != a) ? a : b; }
template <> __device__ __forceinline__ float min_of<float>(float a, float b) {
    float c;
    asm("min.NaN.f32 %0, %1, %2;" : "=f"(c) : "f"(a), "f"(b));
    return c;
}

//! hidden
// a number of which the compiler knows nothing
__device__ __forceinline__ int hidden(int x) {
    asm volatile("" : "+r"(x));
    return x;
}

//! exp2_of
__device__ __forceinline__ float exp2_of(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

//! threefry
__device__ __forceinline__ unsigned long long threefry(unsigned k0, unsigned k1, unsigned c0, unsigned c1) {
    // Threefry-2x32, 20 rounds (Salmon et al. 2011)
    const unsigned keys[3] = {k0, k1, k0 ^ k1 ^ 0x1BD11BDAu};
    const int turns[2][4] = {{13, 15, 26, 6}, {17, 29, 16, 24}};
    unsigned x0 = c0 + k0, x1 = c1 + k1;
    #pragma unroll
    for (int group = 0; group < 5; ++group) {
        #pragma unroll
        for (int r = 0; r < 4; ++r) {
            x0 += x1;
            x1 = __funnelshift_l(x1, x1, turns[group % 2][r]) ^ x0;
        }
        x0 += keys[(group + 1) % 3];
        x1 += keys[(group + 2) % 3] + group + 1;
    }
    return (unsigned long long)x0 << 32 | x1;
}

//! op_add
struct op_add { template <typename T> static __device__ T of(T a, T b) { return T(a + b); } };

//! op_mul
struct op_mul { template <typename T> static __device__ T of(T a, T b) { return T(a * b); } };

//! op_max
struct op_max { template <typename T> static __device__ T of(T a, T b) { return max_of(a, b); } };

//! op_min
struct op_min { template <typename T> static __device__ T of(T a, T b) { return min_of(a, b); } };

//! op_and
struct op_and { template <typename T> static __device__ T of(T a, T b) { return T(a & b); } };

//! op_or
struct op_or { template <typename T> static __device__ T of(T a, T b) { return T(a | b); } };

//! fold
template <typename T> __device__ __forceinline__ T other_lane(T x, int d) {
    if constexpr (sizeof(T) < 4) return (T)__shfl_xor_sync(0xffffffffu, (int)x, d);
    else return __shfl_xor_sync(0xffffffffu, x, d);
}
// the values of N neighbouring lanes of a warp combined, in all of them
template <typename Op, int N, typename T> __device__ __forceinline__ T fold(T x) {
    #pragma unroll
    for (int d = N / 2; d > 0; d /= 2) x = Op::of(x, other_lane(x, d));
    return x;
}

//! fold_block
// the values of N neighbouring threads combined, in all of them; scratch has a place for each warp
template <typename Op, int N, typename T> __device__ __forceinline__ T fold_block(T x, T* scratch) {
    const int warp = threadIdx.x / 32, first = warp / (N / 32) * (N / 32);
    x = fold<Op, 32>(x);
    if (threadIdx.x % 32 == 0) scratch[warp] = x;
    __syncthreads();
    x = scratch[first];
    #pragma unroll
    for (int k = 1; k < N / 32; ++k) x = Op::of(x, scratch[first + k]);
    return x;
}

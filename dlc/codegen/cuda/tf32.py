"""The device function behind an Mma of float32: `mma.sync` in TF32 (sm_80 and on).

Tiles along the inner range lie in swizzled rows of 32, which `ldmatrix` deals out as the instruction wants words; of
tiles along rows (columns) each thread reads its words, whose rows are 8 longer than a multiple of 32: for the banks.
With the left tile in registers, as sums are held (HELD), a thread has the words of inner positions 2t and 2t + 1 where
the instruction wants t and t + 4: the order of what is summed is free, so the right tile's words follow.
The instruction would cut what does not fit in 11 bits; rounding is unbiased, and keeps infinities and NaN.
"""

from __future__ import annotations

TF32 = """__device__ __forceinline__ unsigned tf32_of(unsigned x) {
    unsigned y;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(__uint_as_float(x)));
    return y;
}
__device__ __forceinline__ void load_words(unsigned (&r)[4], const void* p) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
        : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"((unsigned)__cvta_generic_to_shared(p)) : "memory");
}
// a thread's words of a 16 x 8 tile at (x, k): row lane / 4 of inner position lane % 4; 8 rows on (ROWS_FIRST) or 4
// inner positions on; then the other, then both
template <bool ALONG_K, bool ROWS_FIRST>
__device__ __forceinline__ void tf32_words(unsigned (&r)[4], const float* tile, int x, int k, int row) {
    const int lane = threadIdx.x % 32, second = lane / 8 % 2, third = lane / 16;
    if constexpr (ALONG_K) {
        const int at = x + lane % 8 + (ROWS_FIRST ? second : third) * 8;
        load_words(r, tile + at * row + swizzled(at, k + (ROWS_FIRST ? third : second) * 4, float()));
    } else {
        const float* at = tile + (k + lane % 4) * row + x + lane / 4;
        r[0] = __float_as_uint(at[0]), r[ROWS_FIRST ? 1 : 2] = __float_as_uint(at[8]);
        r[ROWS_FIRST ? 2 : 1] = __float_as_uint(at[4 * row]), r[3] = __float_as_uint(at[4 * row + 8]);
    }
    #pragma unroll
    for (int i = 0; i < 4; ++i) r[i] = tf32_of(r[i]);
}
__device__ __forceinline__ void mma_8(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// sums of a warp's M x N products over K inner positions, N a multiple of 16
template <int M, int N, int K, bool A_ALONG_K, bool B_ALONG_K>
__device__ __forceinline__ void mma_tf32(float (&d)[M / 16][N / 8][4], const float* a, int a_x, int a_row,
                                         const float* b, int b_x, int b_row) {
    #pragma unroll
    for (int k = 0; k < K; k += 8) {
        unsigned x[M / 16][4], y[N / 16][4];
        #pragma unroll
        for (int i = 0; i < M / 16; ++i) tf32_words<A_ALONG_K, true>(x[i], a, a_x + i * 16, k, a_row);
        #pragma unroll
        for (int j = 0; j < N / 16; ++j) tf32_words<B_ALONG_K, false>(y[j], b, b_x + j * 16, k, b_row);
        #pragma unroll
        for (int i = 0; i < M / 16; ++i) {
            #pragma unroll
            for (int j = 0; j < N / 16; ++j) {
                mma_8(d[i][2 * j], x[i], y[j][0], y[j][1]);
                mma_8(d[i][2 * j + 1], x[i], y[j][2], y[j][3]);
            }
        }
    }
}"""

TF32_HELD = """\
// sums of a warp's 16 x N products with a 16 x K tile held as sums are; the other tile has blocks of 32
// columns, `block` elements apart
template <int N, int K>
__device__ __forceinline__ void mma_tf32_held(float (&d)[N / 8][4], const float (*a)[4], const float* b, int first,
                                              int block) {
    const int lane = threadIdx.x % 32;
    #pragma unroll
    for (int k = 0; k < K; k += 8) {
        unsigned x[4];
        #pragma unroll
        for (int i = 0; i < 4; ++i) x[i] = tf32_of(__float_as_uint(a[k / 8][i % 2 * 2 + i / 2]));
        const int row = k + lane % 4 * 2;
        #pragma unroll
        for (int j = 0; j < N; j += 8) {
            const int column = first + j + lane / 4;
            const float* at = b + column / 32 * block + row * 32;
            const unsigned y0 = tf32_of(__float_as_uint(at[swizzled(row, column % 32, float())]));
            const unsigned y1 = tf32_of(__float_as_uint(at[32 + swizzled(row + 1, column % 32, float())]));
            mma_8(d[j / 8], x, y0, y1);
        }
    }
}"""

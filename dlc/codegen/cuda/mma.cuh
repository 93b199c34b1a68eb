// Matrix instructions and asynchronous copies as inline PTX: the device functions behind Mma, Async and Wait (mma.py).
//
// `wgmma` (sm_90a) takes its operands from shared memory by descriptors of tiles whose rows of 128 bytes are swizzled
// (PTX ISA, "asynchronous warpgroup level matrix instructions"); `mma.sync` (sm_80) takes them from registers that
// `ldmatrix` fills from the same tiles.
//
// Float32 is multiplied by `mma.sync` in TF32 (sm_80 and on). Tiles along the inner range lie in swizzled rows of 32,
// which `ldmatrix` deals out as the instruction wants words; of tiles along rows (columns) each thread reads its words,
// whose rows are 8 longer than a multiple of 32: for the banks. With the left tile in registers, as sums are held
// (mma_tf32_held), a thread has the words of inner positions 2t and 2t + 1 where the instruction wants t and t + 4: the
// order of what is summed is free, so the right tile's words follow. The instruction would cut what does not fit in 11
// bits; rounding is unbiased, and keeps infinities and NaN.
//
// wgmma: sums += a 64 x 16 tile times a 16 x $n tile; TA and TB say that a tile runs along rows (columns). With `add` 0
// the sums start at 0. wgmma_held: the same with the 64 x 16 tile held by the threads as sums are. Placeholders within
// the instruction are its operands, which are numbered in the order in which they are given: $sums, $a, $b, ... (mma.py)

//! copy_async
// copies 16 bytes to shared memory, or zeros where `valid` is false
__device__ __forceinline__ void copy_async(void* to, const void* from, bool valid = true) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
        :: "r"((unsigned)__cvta_generic_to_shared(to)), "l"(from), "r"(valid ? 16 : 0) : "memory");
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> __device__ __forceinline__ void wait_copies() {
    asm volatile("cp.async.wait_group %0;" :: "n"(N) : "memory");
}

//! swizzled
// where element c of a row stands that has 128 bytes in eight pieces
template <typename T> __device__ __forceinline__ int swizzled(unsigned row, unsigned c, T) {
    constexpr unsigned piece = 16 / sizeof(T);
    return ((c / piece) ^ (row % 8)) * piece + c % piece;
}

//! mma_tf32
__device__ __forceinline__ unsigned tf32_of(unsigned x) {
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
}

//! mma_tf32_held
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
}

//! wgmma_sync
// writes to shared memory become visible to the matrix unit
__device__ __forceinline__ void fence_shared() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N> __device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(N) : "memory");
}
// keeps the compiler from reading the sums before the wait above
template <int N> __device__ __forceinline__ void hold_sums(float (&d)[N][4]) {
    #pragma unroll
    for (int j = 0; j < N; ++j)
        asm volatile("" : "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3]) :: "memory");
}
// a tile with rows of 128 swizzled bytes; `leading` bytes from one block of 64 columns to the next
__device__ __forceinline__ unsigned long long tile_at(const void* p, int leading) {
    const unsigned long long at = (unsigned)__cvta_generic_to_shared(p);
    return (at & 0x3ffff) >> 4 | (unsigned long long)(leading >> 4) << 16 | 64ull << 32 | 1ull << 62;
}

//! mma_16
__device__ __forceinline__ void load_matrices(unsigned (&r)[4], const void* p) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
        : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"((unsigned)__cvta_generic_to_shared(p)) : "memory");
}
__device__ __forceinline__ void load_turned_matrices(unsigned (&r)[4], const void* p) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
        : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"((unsigned)__cvta_generic_to_shared(p)) : "memory");
}
__device__ __forceinline__ void mma(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, half) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void mma(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, bf16) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// element (x: row or column of the product, k: inner) of a swizzled tile, eight of them in a piece; a tile along x has
// blocks of 64 of it, `block` elements apart
template <bool ALONG_K, typename T>
__device__ __forceinline__ const T* piece_at(const T* tile, int x, int k, int block) {
    return ALONG_K ? tile + x * 64 + swizzled(x, k, T()) : tile + x / 64 * block + k * 64 + swizzled(k, x % 64, T());
}
// sums of a warp's 16 x N products over K inner positions
template <int N, int K, bool A_ALONG_K, bool B_ALONG_K, typename T>
__device__ __forceinline__ void mma_16(float (&d)[N / 8][4], const T* a, int a_x, int a_block, const T* b, int b_x,
                                       int b_block) {
    const int lane = threadIdx.x % 32;
    #pragma unroll
    for (int k = 0; k < K; k += 16) {
        unsigned x[4];
        if constexpr (A_ALONG_K) load_matrices(x, piece_at<true>(a, a_x + lane % 16, k + lane / 16 * 8, a_block));
        else load_turned_matrices(x, piece_at<false>(a, a_x + lane / 8 % 2 * 8, k + lane % 8 + lane / 16 * 8, a_block));
        #pragma unroll
        for (int j = 0; j < N; j += 16) {
            unsigned y[4];
            if constexpr (B_ALONG_K)
                load_matrices(y, piece_at<true>(b, b_x + j + lane % 8 + lane / 16 * 8, k + lane / 8 % 2 * 8, b_block));
            else load_turned_matrices(y, piece_at<false>(b, b_x + j + lane / 16 * 8, k + lane % 16, b_block));
            mma(d[j / 8], x, y[0], y[1], T());
            if (j + 8 < N) mma(d[j / 8 + 1 < N / 8 ? j / 8 + 1 : 0], x, y[2], y[3], T());
        }
    }
}

//! pair_of
// two neighbouring halves in a register
template <typename T> __device__ __forceinline__ unsigned pair_of(const T (&x)[4], int r) {
    return (unsigned)x[r].bits | (unsigned)x[r + 1].bits << 16;
}

//! mma_held_16
// the same with the 16 x K tile held as sums are
template <int N, int K, bool B_ALONG_K, typename T>
__device__ __forceinline__ void mma_held_16(float (&d)[N / 8][4], const T (*a)[4], const T* b, int b_x, int b_block) {
    const int lane = threadIdx.x % 32;
    #pragma unroll
    for (int k = 0; k < K; k += 16) {
        const T (*at)[4] = a + k / 8;
        const unsigned x[4] = {pair_of(at[0], 0), pair_of(at[0], 2), pair_of(at[1], 0), pair_of(at[1], 2)};
        #pragma unroll
        for (int j = 0; j < N; j += 16) {
            unsigned y[4];
            if constexpr (B_ALONG_K)
                load_matrices(y, piece_at<true>(b, b_x + j + lane % 8 + lane / 16 * 8, k + lane / 8 % 2 * 8, b_block));
            else load_turned_matrices(y, piece_at<false>(b, b_x + j + lane / 16 * 8, k + lane % 16, b_block));
            mma(d[j / 8], x, y[0], y[1], T());
            if (j + 8 < N) mma(d[j / 8 + 1 < N / 8 ? j / 8 + 1 : 0], x, y[2], y[3], T());
        }
    }
}

//! sync_first
// the block's first N threads wait for each other
template <int N> __device__ __forceinline__ void sync_first() {
    asm volatile("bar.sync 1, %0;" :: "n"(N) : "memory");
}

//! setmaxnreg
// what a group of 128 threads gives back others may take; these wait until there is as much
template <int N> __device__ __forceinline__ void fewer_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(N));
}
template <int N> __device__ __forceinline__ void more_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(N));
}

//! wgmma
template <int TA, int TB> __device__ __forceinline__
void wgmma_64x$n(float (&d)[$tiles][4], unsigned long long a, unsigned long long b, $type, int add = 1) {
    asm volatile("{ .reg .pred add; setp.ne.b32 add, $add, 0; "
        "wgmma.mma_async.sync.aligned.m64n${n}k16.f32.$ptx.$ptx {$sums}, "
        "$a, $b, add, 1, 1, $ta, $tb; }"
        : $outputs
        : "l"(a), "l"(b), "n"(TA), "n"(TB), "r"(add));
}

//! wgmma_held
template <int TB> __device__ __forceinline__
void wgmma_held_64x$n(float (&d)[$tiles][4], const $type (*a)[4], unsigned long long b, int add = 1) {
    asm volatile("{ .reg .pred add; setp.ne.b32 add, $add, 0; "
        "wgmma.mma_async.sync.aligned.m64n${n}k16.f32.$ptx.$ptx {$sums}, "
        "{$a}, $b, add, 1, 1, $tb; }"
        : $outputs
        : "r"(pair_of(a[0], 0)), "r"(pair_of(a[0], 2)), "r"(pair_of(a[1], 0)), "r"(pair_of(a[1], 2)), "l"(b), "n"(TB), "r"(add));
}

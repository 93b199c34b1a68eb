"""Matrix instructions and asynchronous copies as inline PTX: the device functions behind Mma, Async and Wait.

`wgmma` (sm_90a) takes its operands from shared memory by descriptors of tiles whose rows of 128 bytes are swizzled
(PTX ISA, "asynchronous warpgroup level matrix instructions"); `mma.sync` (sm_80) takes them from registers that
`ldmatrix` fills from the same tiles.
"""

from __future__ import annotations

import re

from dlc.codegen.cuda.mbarrier import GATES, bulk_function
from dlc.codegen.cuda.tf32 import TF32, TF32_HELD

_BULK = re.compile(r"\bbulk_copy_(\d)\(")
_WGMMA = re.compile(r"\bwgmma_64x(\d+)\b")
_WGMMA_HELD = re.compile(r"\bwgmma_held_64x(\d+)\b")

ASYNC = """// copies 16 bytes to shared memory, or zeros where `valid` is false
__device__ __forceinline__ void copy_async(void* to, const void* from, bool valid = true) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
        :: "r"((unsigned)__cvta_generic_to_shared(to)), "l"(from), "r"(valid ? 16 : 0) : "memory");
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> __device__ __forceinline__ void wait_copies() {
    asm volatile("cp.async.wait_group %0;" :: "n"(N) : "memory");
}"""

SYNC_FIRST = """// the block's first N threads wait for each other
template <int N> __device__ __forceinline__ void sync_first() {
    asm volatile("bar.sync 1, %0;" :: "n"(N) : "memory");
}"""

REGISTERS = """// what a group of 128 threads gives back others may take; these wait until there is as much
template <int N> __device__ __forceinline__ void fewer_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(N));
}
template <int N> __device__ __forceinline__ void more_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(N));
}"""

SWIZZLED = """// where element c of a row stands that has 128 bytes in eight pieces
template <typename T> __device__ __forceinline__ int swizzled(unsigned row, unsigned c, T) {
    constexpr unsigned piece = 16 / sizeof(T);
    return ((c / piece) ^ (row % 8)) * piece + c % piece;
}"""

WARPGROUP = """// writes to shared memory become visible to the matrix unit
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
}"""

WARP = """__device__ __forceinline__ void load_matrices(unsigned (&r)[4], const void* p) {
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
}"""

HELD = """// two neighbouring halves in a register
template <typename T> __device__ __forceinline__ unsigned pair_of(const T (&x)[4], int r) {
    return (unsigned)x[r].bits | (unsigned)x[r + 1].bits << 16;
}"""

WARP_HELD = """// the same with the 16 x K tile held as sums are
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
}"""

_FUNCTIONS = ((("copy_async", "commit_copies", "wait_copies"), ASYNC),
              (("swizzled", "mma_16", "mma_held_16", "mma_tf32"), SWIZZLED),
              (("mma_tf32<", "mma_tf32_held<"), TF32), (("mma_tf32_held<",), TF32_HELD),
              (("fence_shared", "wgmma_"), WARPGROUP),
              (("mma_16", "mma_held_16"), WARP), (("_held_",), HELD), (("mma_held_16",), WARP_HELD),
              (("sync_first<",), SYNC_FIRST), (("_registers<",), REGISTERS), (("gate_",), GATES))


def matrix_functions(text: str) -> str:
    """The device functions of this file that `text` calls."""
    parts = [source for names, source in _FUNCTIONS if any(name in text for name in names)]
    parts += [bulk_function(int(n)) for n in sorted(set(_BULK.findall(text)))]
    for pattern, function in ((_WGMMA, _wgmma), (_WGMMA_HELD, _wgmma_held)):
        parts += [function(int(n)) for n in sorted(set(pattern.findall(text)), key=int)]
    return "\n".join(parts)


def _wgmma(n: int) -> str:
    """sums += a 64 x 16 tile times a 16 x n tile; TA and TB say that a tile runs along rows (columns). With `add` 0 the
    sums start at 0."""
    count = n // 2
    sums = ", ".join(f"%{k}" for k in range(count))
    outputs = ", ".join(f'"+f"(d[{k // 4}][{k % 4}])' for k in range(count))
    shape = f"m64n{n}k16.f32"

    def one(c_type: str, name: str) -> str:
        return f"""template <int TA, int TB> __device__ __forceinline__
void wgmma_64x{n}(float (&d)[{n // 8}][4], unsigned long long a, unsigned long long b, {c_type}, int add = 1) {{
    asm volatile("{{ .reg .pred add; setp.ne.b32 add, %{count + 4}, 0; "
        "wgmma.mma_async.sync.aligned.{shape}.{name}.{name} {{{sums}}}, "
        "%{count}, %{count + 1}, add, 1, 1, %{count + 2}, %{count + 3}; }}"
        : {outputs}
        : "l"(a), "l"(b), "n"(TA), "n"(TB), "r"(add));
}}"""

    return one("half", "f16") + "\n" + one("bf16", "bf16")


def _wgmma_held(n: int) -> str:
    """The same with the 64 x 16 tile held by the threads as sums are."""
    count = n // 2
    sums = ", ".join(f"%{k}" for k in range(count))
    outputs = ", ".join(f'"+f"(d[{k // 4}][{k % 4}])' for k in range(count))
    tile = ", ".join(f"%{count + k}" for k in range(4))
    held = ", ".join(f'"r"(pair_of(a[{k // 2}], {k % 2 * 2}))' for k in range(4))

    def one(c_type: str, name: str) -> str:
        return f"""template <int TB> __device__ __forceinline__
void wgmma_held_64x{n}(float (&d)[{n // 8}][4], const {c_type} (*a)[4], unsigned long long b, int add = 1) {{
    asm volatile("{{ .reg .pred add; setp.ne.b32 add, %{count + 6}, 0; "
        "wgmma.mma_async.sync.aligned.m64n{n}k16.f32.{name}.{name} {{{sums}}}, "
        "{{{tile}}}, %{count + 4}, add, 1, 1, %{count + 5}; }}"
        : {outputs}
        : {held}, "l"(b), "n"(TB), "r"(add));
}}"""

    return one("half", "f16") + "\n" + one("bf16", "bf16")

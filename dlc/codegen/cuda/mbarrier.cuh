// Gates and bulk copies as inline PTX: the device functions behind Arrive, Await and Bulk, and the tensor maps
// (mbarrier.py).
//
// A gate's slot is an `mbarrier`, which tells even phases from odd ones. A Bulk is a copy by the tensor memory
// accelerator (sm_90): the view that it copies from is described by a tensor map, a parameter of the kernel after the
// pointers, which the host makes for the address that it passes.
//
// bulk_copy: the copy of a box from a view with `$rank` axes; positions innermost first.

//! mbarrier
struct __align__(64) TensorMap { unsigned long long words[16]; };
typedef unsigned long long Gate;
__device__ __forceinline__ unsigned gate_address(Gate* g) { return (unsigned)__cvta_generic_to_shared(g); }
__device__ __forceinline__ void gate_start(Gate* g, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(gate_address(g)), "r"(arrivals) : "memory");
}
__device__ __forceinline__ void gates_started() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void gate_arrive(Gate* g) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: "r"(gate_address(g)) : "memory");
}
__device__ __forceinline__ void gate_expect(Gate* g, int bytes) {
    asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;"
        :: "r"(gate_address(g)), "r"(bytes) : "memory");
}
// until so many phases are completed
__device__ __forceinline__ void gate_await(Gate* g, unsigned phases) {
    asm volatile("{\n.reg .pred done;\n"
        "again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;\n}" :: "r"(gate_address(g)), "r"((phases + 1) & 1) : "memory");
}

//! bulk_copy
__device__ __forceinline__ void bulk_copy_$rank(void* to, const TensorMap& from, Gate* g$parameters) {
    asm volatile("cp.async.bulk.tensor.${rank}d.shared::cluster.global.mbarrier::complete_tx::bytes "
        "[%0], [%1, {$places}], [%2];"
        :: "r"((unsigned)__cvta_generic_to_shared(to)), "l"(&from), "r"(gate_address(g))$values : "memory");
}

// A GPU's block on one CPU thread: every thread of the block is a fiber, which runs until it waits for others.
//
// The order of the fibers, and whether asynchronous copies and products happen at once or at the last moment, are the
// launch's options: a kernel that is right gives the same for all of them. What cannot go on (a barrier that not all
// threads reach, lanes of a warp at different instructions) is an error, as is a write outside of memory that was given.
#include "machine.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>

#include <algorithm>
#include <deque>
#include <random>
#include <string>
#include <vector>

dim3_ threadIdx, blockIdx, blockDim, gridDim;

extern "C" __attribute__((visibility("hidden"))) void gpu_switch(void** from, void* to);
asm(R"(
.text
.hidden gpu_switch
.globl gpu_switch
.type gpu_switch, @function
gpu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size gpu_switch, .-gpu_switch
)");

namespace {

enum State { READY, AT_BARRIER, AT_GATE, WITH_OTHERS, DONE };

struct Copy { void* to; const void* from; bool valid; };

struct Fiber {
    void* sp;
    State state;
    int line, barrier;  // its barrier
    int epoch;          // barriers that it has passed
    const char* what;   // what it waits for
    const uint64_t* gate;
    unsigned parity;
    std::deque<Copy> copies;
    std::deque<size_t> groups;  // committed copies: how many of each group
    size_t open;                // copies since the last commit
};

struct Meeting {  // threads that do something together
    int size, arrived;
    const char* what;
    void* mine[128];
};

struct Product { float* d[128]; unsigned held[128][4]; bool is_held; int n; uint64_t a, b; int turned_a, turned_b, add;
                 gpu::Kind kind; };
struct Group { std::deque<Product> products; std::deque<size_t> sizes; size_t open; };

struct Map {  // as tests/cuda_on_cpu/device.py packs it
    unsigned char* address;
    int64_t start;
    uint8_t rank, item, swizzled, param, rest[4];
    uint32_t sizes[5];
    uint32_t pad;
    int64_t strides[5];
    uint16_t box[5];
};
struct Bulk { unsigned char* to; Map map; uint64_t* gate; int at[5]; };

constexpr int THREADS = 1024;
constexpr size_t STACK = 256 << 10, SHARED = 1 << 20, GUARD = 256;
constexpr unsigned char POISON = 0xff;  // NaN as a float, -1 as an integer

// Who touched a byte last; ids are block * THREADS + thread + 1. Readers: one, or several of a block, or of many blocks.
struct Cell { uint32_t writer, reader; int write_epoch, read_epoch; };
constexpr uint32_t SEVERAL = 1u << 31, MANY = ~0u;

struct Range {
    uintptr_t start, end;
    bool written;
    std::vector<unsigned char> memory;
    unsigned char* at;
    std::vector<Cell> cells;
};

std::deque<Range> ranges;
std::vector<Cell> shared_cells;
size_t cells_end;  // of those that were touched
bool checking;

unsigned char* stacks;
alignas(1024) unsigned char shared_memory[SHARED];
Fiber fibers[THREADS];
Meeting warps[THREADS / 32], warpgroups[THREADS / 128];
Group groups[THREADS / 128];
struct Barrier { int arrived, line, threads; } barriers[16];
struct Static { unsigned char* at; size_t bytes; };
std::vector<Static> statics;
size_t shared_end, dynamic_bytes;
std::deque<Bulk> bulks;
int threads, running, unfinished;
bool late;
bool inside;  // a fiber, not the scheduler
void* main_sp;
std::string error;
void (*body)(void**);
void** arguments;
std::vector<void*> given;  // pointers to the arguments
const char* kernel_name;

[[noreturn]] void leave() {  // to the scheduler, for good
    void* gone;
    gpu_switch(&gone, main_sp);
    __builtin_unreachable();
}

void complain(const char* format, ...) {
    if (!error.empty()) return;
    char text[512];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    char where[128];
    snprintf(where, sizeof where, "%s, block %u, thread %u: ", kernel_name, blockIdx.x, threadIdx.x);
    error = std::string(where) + text;
}

[[noreturn]] void fail(const char* format, ...) {
    char text[512];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    complain("%s", text);
    leave();
}

void wait_as(State state, const char* what) {
    Fiber& f = fibers[running];
    f.state = state, f.what = what;
    gpu_switch(&f.sp, main_sp);
}

void entry() {
    body(arguments);
    fibers[running].state = DONE;
    --unfinished;
    leave();
}

// All threads of a meeting come here; the last one does it for all.
void together(Meeting& m, int first, int full, const char* what, void* mine, void (*all)(void**)) {
    if (m.size != full) fail("%s in a group of %d threads, not %d", what, m.size, full);
    if (m.arrived == 0) m.what = what;
    else if (strcmp(m.what, what)) fail("%s where a thread of the same group is at %s", what, m.what);
    m.mine[running - first] = mine;
    if (++m.arrived < m.size) {
        wait_as(WITH_OTHERS, what);
        return;
    }
    m.arrived = 0;
    all(m.mine);
    for (int k = first; k < first + m.size; ++k) fibers[k].state = READY;
}

void in_warp(const char* what, void* mine, void (*all)(void**)) {
    together(warps[running / 32], running / 32 * 32, 32, what, mine, all);
}

void in_group(const char* what, void* mine, void (*all)(void**)) {
    together(warpgroups[running / 128], running / 128 * 128, 128, what, mine, all);
}

float number(unsigned short bits, gpu::Kind kind) {
    if (kind == gpu::HALF) return gpu::float_of_half(bits);
    const unsigned wide = (unsigned)bits << 16;
    return gpu_bits<float>(wide);
}

// gates: arrivals of a phase | arrivals missing << 12 | parity << 24 | MADE << 25 | bytes missing << 32
constexpr uint64_t MADE = 0x2a;

struct Gate {
    unsigned of, missing, parity;
    int bytes;
    explicit Gate(const uint64_t* g) {
        if ((*g >> 25 & 0x7f) != MADE) {
            complain("a gate that was not started");
            if (inside) leave();
        }
        of = *g & 0xfff, missing = *g >> 12 & 0xfff, parity = *g >> 24 & 1, bytes = (int)(*g >> 32);
    }
    void put(uint64_t* g) {
        if (missing == 0 && bytes == 0) missing = of, parity ^= 1;
        *g = of | (uint64_t)missing << 12 | (uint64_t)parity << 24 | MADE << 25 | (uint64_t)(unsigned)bytes << 32;
    }
};

uint64_t swizzle(uint64_t at) { return at ^ (at >> 7 & 7) << 4; }

void perform(const Copy& c) {
    if (c.valid) memcpy(c.to, c.from, 16);
    else memset(c.to, 0, 16);
}

void perform(const Bulk& b) {
    const Map& m = b.map;
    int k[5] = {}, bytes = 0;
    const uint64_t base = b.to - shared_memory;
    for (;;) {
        int64_t from = 0;
        bool inside = true;
        for (int r = 0; r < m.rank; ++r) {  // outermost first, as the map has them
            const int64_t p = (int64_t)b.at[m.rank - 1 - r] + k[r];
            inside &= p >= 0 && p < (int64_t)m.sizes[r];
            from += p * m.strides[r];
        }
        uint64_t to = base + bytes;
        if (m.swizzled) to = swizzle(to);
        if (inside) memcpy(shared_memory + to, m.address + (m.start + from) * m.item, m.item);
        else memset(shared_memory + to, 0, m.item);
        bytes += m.item;
        int r = m.rank - 1;
        while (r >= 0 && ++k[r] == m.box[r]) k[r--] = 0;
        if (r < 0) break;
    }
    Gate g(b.gate);
    g.bytes -= bytes;
    g.put(b.gate);
}

// element (x, k) of a tile that a descriptor stands for
float element(uint64_t tile, int x, int k, bool turned, gpu::Kind kind) {
    const uint64_t start = (tile & 0x3fff) << 4, leading = (tile >> 16 & 0x3fff) << 4, stride = (tile >> 32 & 0x3fff) << 4;
    const uint64_t at = turned ? start + x / 64 * leading + k / 8 * stride + k % 8 * 128 + x % 64 * 2
                               : start + x / 8 * stride + x % 8 * 128 + k * 2;
    unsigned short bits;
    memcpy(&bits, shared_memory + swizzle(at), 2);
    return number(bits, kind);
}

void perform(const Product& p) {
    static float a[64][16], b[256][16];
    for (int x = 0; x < 64 && !p.is_held; ++x)
        for (int k = 0; k < 16; ++k) a[x][k] = element(p.a, x, k, p.turned_a, p.kind);
    for (int t = 0; t < 128 && p.is_held; ++t)
        for (int e = 0; e < 8; ++e) {
            const int lane = t % 32, row = t / 32 * 16 + lane / 4 + e / 2 % 2 * 8, k = lane % 4 * 2 + e / 4 * 8 + e % 2;
            a[row][k] = number((unsigned short)(p.held[t][e / 2] >> (e % 2 * 16)), p.kind);
        }
    for (int x = 0; x < p.n; ++x)
        for (int k = 0; k < 16; ++k) b[x][k] = element(p.b, x, k, p.turned_b, p.kind);
    for (int t = 0; t < 128; ++t)
        for (int e = 0; e < p.n / 2; ++e) {
            const int lane = t % 32, row = t / 32 * 16 + lane / 4 + e / 2 % 2 * 8, n = e / 4 * 8 + lane % 4 * 2 + e % 2;
            float sum = 0;
            for (int k = 0; k < 16; ++k) sum += a[row][k] * b[n][k];
            p.d[t][e] = (p.add ? p.d[t][e] : 0.0f) + sum;
        }
}

bool gate_open(const Fiber& f) { return ((*f.gate >> 24) & 1) != f.parity; }

void run_block(const int* order) {
    for (int k = 0; k < threads; ++k) {
        Fiber& f = fibers[k];
        f.state = READY, f.open = 0, f.epoch = 0;
        f.copies.clear(), f.groups.clear();
        void** top = (void**)(stacks + (k + 1) * STACK) - 2;
        top[0] = (void*)entry;
        f.sp = top - 6;
    }
    for (int w = 0; w * 32 < threads; ++w) warps[w].size = std::min(32, threads - w * 32), warps[w].arrived = 0;
    for (int w = 0; w * 128 < threads; ++w) {
        warpgroups[w].size = std::min(128, threads - w * 128), warpgroups[w].arrived = 0;
        groups[w].products.clear(), groups[w].sizes.clear(), groups[w].open = 0;
    }
    for (Barrier& b : barriers) b.arrived = 0;
    bulks.clear();
    statics.clear();
    memset(shared_memory, POISON, shared_end);
    shared_cells.resize(SHARED);
    std::fill(shared_cells.begin(), shared_cells.begin() + cells_end, Cell());
    cells_end = 0;
    shared_end = dynamic_bytes + GUARD;
    memset(shared_memory, POISON, shared_end);
    unfinished = threads;
    while (unfinished && error.empty()) {
        bool moved = false;
        for (int k = 0; k < threads && error.empty(); ++k) {
            Fiber& f = fibers[order[k]];
            if (f.state == AT_GATE && gate_open(f)) f.state = READY;
            if (f.state != READY) continue;
            moved = true;
            running = order[k];
            threadIdx.x = running;
            inside = true;
            gpu_switch(&main_sp, f.sp);
            inside = false;
        }
        if (!moved && !bulks.empty()) {
            perform(bulks.front());
            bulks.pop_front();
        } else if (!moved && error.empty()) {
            for (int k = 0; k < threads; ++k)
                if (fibers[k].state != DONE) {
                    threadIdx.x = k;
                    complain("waits for ever at %s (line %d); %d of %d threads are done", fibers[k].what, fibers[k].line,
                             threads - unfinished, threads);
                }
        }
    }
    auto whole = [](const unsigned char* p) {
        return std::all_of(p, p + GUARD, [](unsigned char c) { return c == POISON; });
    };
    if (!whole(shared_memory + dynamic_bytes)) complain("writes behind its dynamic shared memory");
    for (const Static& s : statics)
        if (s.at && !whole(s.at + s.bytes)) complain("writes behind a shared array of %zu bytes", s.bytes);
}

uint32_t block_of(uint32_t id) { return id & SEVERAL ? id & ~SEVERAL : (id - 1) / THREADS; }

void touch(Cell& c, bool write, const char* where) {
    const uint32_t me = blockIdx.x * THREADS + running + 1;
    const int epoch = fibers[running].epoch;
    const bool apart = c.writer && c.writer != me && (block_of(c.writer) != blockIdx.x || c.write_epoch == epoch);
    if (apart) fail("%s %s what thread %u of block %u wrote, with no barrier between", write ? "writes over" : "reads",
                    where, (c.writer - 1) % THREADS, block_of(c.writer));
    if (write) {
        if (c.reader && c.reader != me &&
            (c.reader == MANY || block_of(c.reader) != blockIdx.x || c.read_epoch == epoch))
            fail("writes over %s what others read, with no barrier between", where);
        c.writer = me, c.write_epoch = epoch;
    } else {
        const bool before = c.reader != MANY && block_of(c.reader) == blockIdx.x && c.read_epoch < epoch;
        if (!c.reader || before) c.reader = me;  // those who read before the last barrier count no more
        else if (c.reader != me && c.reader != MANY)
            c.reader = block_of(c.reader) == blockIdx.x ? SEVERAL | blockIdx.x : MANY;
        c.read_epoch = epoch;
    }
}

// An access by a kernel.
void access(const void* p, size_t bytes, bool write) {
    if (!checking || !inside) return;
    const unsigned char* at = (const unsigned char*)p;
    if (at >= stacks && at < stacks + THREADS * STACK) return;
    if (at >= shared_memory && at < shared_memory + SHARED) {
        bool own = at + bytes <= shared_memory + dynamic_bytes;
        for (const Static& s : statics) own |= s.at && at >= s.at && at + bytes <= s.at + s.bytes;
        if (!own) fail("%s outside of its shared arrays", write ? "writes" : "reads");
        const size_t start = at - shared_memory;
        cells_end = std::max(cells_end, start + bytes);
        for (size_t k = start; k < start + bytes; ++k) touch(shared_cells[k], write, "in shared memory");
        return;
    }
    for (Range& r : ranges)
        if (at >= r.at && at + bytes <= r.at + (r.end - r.start)) {
            // a single number may be read by all threads, and used by the one that overwrites it
            const bool alone = bytes == r.end - r.start;
            for (size_t k = 0; k < bytes && !alone; ++k) touch(r.cells[at - r.at + k], write, "in memory");
            return;
        }
    Dl_info info;
    if (!write && dladdr(p, &info)) return;  // a table of constants
    if (at >= (unsigned char*)given.data() && at < (unsigned char*)(given.data() + given.size())) return;
    for (void* v : given)
        if (at >= (unsigned char*)v && at + bytes <= (unsigned char*)v + 128) return;
    fail("%s outside of all its parameters", write ? "writes" : "reads");
}

}  // namespace

namespace gpu {

void barrier(int number, int count, int line) {
    Barrier& b = barriers[number];
    if (!count) count = threads;
    if (b.arrived == 0) b.line = line, b.threads = count;
    else if (b.line != line || b.threads != count)
        fail("at the barrier of line %d, others are at the one of line %d", line, b.line);
    fibers[running].line = line, fibers[running].barrier = number;
    if (++b.arrived < count) {
        wait_as(AT_BARRIER, number ? "a barrier of some threads" : "__syncthreads");
        return;
    }
    b.arrived = 0;
    for (int k = 0; k < threads; ++k)
        if (fibers[k].state == AT_BARRIER && fibers[k].barrier == number) fibers[k].state = READY, ++fibers[k].epoch;
    ++fibers[running].epoch;
}

void* shared(int number, size_t bytes, size_t aligned) {
    if (statics.size() <= (size_t)number) statics.resize(number + 1);
    Static& s = statics[number];
    if (!s.at) {
        const size_t at = (shared_end + aligned - 1) / aligned * aligned;
        shared_end = at + bytes + GUARD;
        if (shared_end > SHARED) fail("more shared memory than there is");
        memset(shared_memory + at, POISON, bytes + GUARD);
        s = {shared_memory + at, bytes};
    }
    return s.at;
}

unsigned char* dynamic_shared() { return shared_memory; }

unsigned shared_address(const void* p) {
    const size_t at = (const unsigned char*)p - shared_memory;
    if (at >= shared_end) fail("an address that is not in shared memory");
    return (unsigned)at;
}

struct Exchange { const void* mine; void* out; size_t bytes; int d; };

void exchange(const void* mine, void* out, size_t bytes, int d) {
    Exchange e{mine, out, bytes, d};
    in_warp("__shfl_xor_sync", &e, [](void** lanes) {
        for (int k = 0; k < 32; ++k) {
            const Exchange &to = *(Exchange*)lanes[k], &from = *(Exchange*)lanes[(k ^ to.d) & 31];
            memcpy(to.out, from.mine, to.bytes);
        }
    });
}

void copy_async(void* to, const void* from, bool valid) {
    if ((uintptr_t)to % 16 || (uintptr_t)from % 16) fail("an asynchronous copy off 16 bytes");
    shared_address(to);
    access(to, 16, true);
    if (valid) access(from, 16, false);
    Fiber& f = fibers[running];
    f.copies.push_back({to, from, valid});
    ++f.open;
    if (!late) perform(f.copies.back());
}

void commit_copies() {
    Fiber& f = fibers[running];
    f.groups.push_back(f.open);
    f.open = 0;
}

void wait_copies(int pending) {
    Fiber& f = fibers[running];
    while (f.groups.size() > (size_t)pending) {
        for (size_t k = 0; k < f.groups.front(); ++k) {
            access(f.copies.front().to, 16, true);
            if (late) perform(f.copies.front());
            f.copies.pop_front();
        }
        f.groups.pop_front();
    }
}

struct Matrices { unsigned* r; const unsigned char* p; };

void load_matrices(unsigned* r, const void* p, bool turned) {
    if ((uintptr_t)p % 16) fail("ldmatrix off 16 bytes");
    shared_address(p);
    access(p, 16, false);
    Matrices m{r, (const unsigned char*)p};
    if (!turned)
        in_warp("ldmatrix", &m, [](void** lanes) {
            for (int k = 0; k < 32; ++k)
                for (int i = 0; i < 4; ++i)
                    memcpy(&((Matrices*)lanes[k])->r[i], ((Matrices*)lanes[i * 8 + k / 4])->p + k % 4 * 4, 4);
        });
    else
        in_warp("ldmatrix.trans", &m, [](void** lanes) {
            for (int k = 0; k < 32; ++k)
                for (int i = 0; i < 4; ++i)
                    for (int h = 0; h < 2; ++h)
                        memcpy((char*)&((Matrices*)lanes[k])->r[i] + 2 * h,
                               ((Matrices*)lanes[i * 8 + k % 4 * 2 + h])->p + k / 4 * 2, 2);
        });
}

struct Fragments { float* d; const unsigned* a; unsigned b[2]; };

template <Kind KIND> void products(void** lanes) {
    constexpr int K = KIND == TF32 ? 8 : 16;
    float a[16][K], b[8][K];
    for (int lane = 0; lane < 32; ++lane) {
        const Fragments& f = *(Fragments*)lanes[lane];
        const int g = lane / 4, t = lane % 4;
        if constexpr (KIND == TF32) {
            for (int i = 0; i < 4; ++i) a[g + i % 2 * 8][t + i / 2 * 4] = gpu_bits<float>(f.a[i] & ~0x1fffu);
            for (int i = 0; i < 2; ++i) b[g][t + i * 4] = gpu_bits<float>(f.b[i] & ~0x1fffu);
        } else {
            for (int e = 0; e < 8; ++e)
                a[g + e / 2 % 2 * 8][t * 2 + e / 4 * 8 + e % 2] =
                    number((unsigned short)(f.a[e / 2] >> (e % 2 * 16)), KIND);
            for (int e = 0; e < 4; ++e)
                b[g][t * 2 + e / 2 * 8 + e % 2] = number((unsigned short)(f.b[e / 2] >> (e % 2 * 16)), KIND);
        }
    }
    for (int lane = 0; lane < 32; ++lane)
        for (int i = 0; i < 4; ++i) {
            const int row = lane / 4 + i / 2 * 8, n = lane % 4 * 2 + i % 2;
            float sum = 0;
            for (int k = 0; k < K; ++k) sum += a[row][k] * b[n][k];
            ((Fragments*)lanes[lane])->d[i] += sum;
        }
}

void mma(float* d, const unsigned* a, unsigned b0, unsigned b1, Kind kind) {
    Fragments f{d, a, {b0, b1}};
    if (kind == HALF) in_warp("mma.f16", &f, products<HALF>);
    else if (kind == BF16) in_warp("mma.bf16", &f, products<BF16>);
    else in_warp("mma.tf32", &f, products<TF32>);
}

void group_aligned(const char* what) {
    in_group(what, nullptr, [](void**) {});
}

struct Operands { float* d; const unsigned* held; Product p; };

void wgmma(float* d, int n, unsigned long long a, const unsigned* held, unsigned long long b, int turned_a, int turned_b,
           Kind kind, int add) {
    Operands mine;
    mine.d = d, mine.held = held;
    mine.p.n = n, mine.p.a = a, mine.p.b = b, mine.p.turned_a = turned_a, mine.p.turned_b = turned_b;
    mine.p.kind = kind, mine.p.add = add, mine.p.is_held = held != nullptr;
    in_group(held ? "wgmma with registers" : "wgmma", &mine, [](void** all) {
        Product p = ((Operands*)all[0])->p;
        for (int t = 0; t < 128; ++t) {
            const Operands& o = *(Operands*)all[t];
            if (o.p.a != p.a || o.p.b != p.b || o.p.n != p.n || o.p.add != p.add)
                fail("threads of a group multiply different tiles");
            p.d[t] = o.d;
            if (o.held) memcpy(p.held[t], o.held, 16);
        }
        Group& g = groups[running / 128];
        g.products.push_back(p);
        ++g.open;
        if (!late) perform(p);
    });
}

void wgmma_commit() {
    in_group("wgmma.commit_group", nullptr, [](void**) {
        Group& g = groups[running / 128];
        g.sizes.push_back(g.open);
        g.open = 0;
    });
}

void wgmma_wait(int pending) {
    in_group("wgmma.wait_group", &pending, [](void** all) {
        Group& g = groups[running / 128];
        while (g.sizes.size() > (size_t)*(int*)all[0]) {
            for (size_t k = 0; k < g.sizes.front(); ++k) {
                if (late) perform(g.products.front());
                g.products.pop_front();
            }
            g.sizes.pop_front();
        }
    });
}

void gate_start(void* gate, int arrivals) {
    *(uint64_t*)gate = arrivals | (uint64_t)arrivals << 12 | MADE << 25;
}

void gate_arrive(void* gate) {
    Gate g((uint64_t*)gate);
    if (!g.missing) fail("more arrivals at a gate than a phase has");
    --g.missing;
    g.put((uint64_t*)gate);
}

void gate_expect(void* gate, int bytes) {
    Gate g((uint64_t*)gate);
    g.bytes += bytes;
    g.put((uint64_t*)gate);
}

void gate_await(void* gate, unsigned phases) {
    Gate check((uint64_t*)gate);
    Fiber& f = fibers[running];
    f.gate = (uint64_t*)gate, f.parity = (phases + 1) & 1;
    if (!gate_open(f)) wait_as(AT_GATE, "a gate");
}

void bulk_copy(void* to, const void* map, void* gate, int rank, const int* at) {
    Bulk b;
    b.to = (unsigned char*)to, b.gate = (uint64_t*)gate;
    memcpy(&b.map, map, sizeof(Map));
    if (b.map.rank != rank) fail("a bulk copy of rank %d with a map of rank %d", rank, b.map.rank);
    Gate check(b.gate);
    if (shared_address(to) % (b.map.swizzled ? 1024 : 128)) fail("a bulk copy off its boundary");
    memcpy(b.at, at, rank * sizeof(int));
    if (late) bulks.push_back(b);
    else perform(b);
}

float float_of_half(unsigned short x) { return (float)gpu_bits<_Float16>(x); }
unsigned short half_of(float x) { return x != x ? 0x7fff : gpu_bits<unsigned short>((_Float16)x); }
unsigned short half_of(double x) { return x != x ? 0x7fff : gpu_bits<unsigned short>((_Float16)x); }
unsigned short bf16_of(float x) {
    const unsigned u = gpu_bits<unsigned>(x);
    return x != x ? 0x7fff : (unsigned short)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}
unsigned tf32_of(unsigned x) { return (x & 0x7f800000) == 0x7f800000 ? x : (x + 0x1000) & ~0x1fffu; }

}  // namespace gpu

// Every access of memory, where kernels are compiled to tell of them (-fsanitize=thread).
#define ACCESS(n) \
    extern "C" void __tsan_read##n(void* p) { access(p, n, false); } \
    extern "C" void __tsan_write##n(void* p) { access(p, n, true); } \
    extern "C" void __tsan_unaligned_read##n(void* p) { access(p, n, false); } \
    extern "C" void __tsan_unaligned_write##n(void* p) { access(p, n, true); }
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)
extern "C" void __tsan_read_range(void* p, size_t n) { access(p, n, false); }
extern "C" void __tsan_write_range(void* p, size_t n) { access(p, n, true); }
extern "C" void __tsan_init() {}
extern "C" void __tsan_func_entry(void*) {}
extern "C" void __tsan_func_exit() {}

// What the compiler's checks call (-fsanitize=bounds,alignment).
struct Source { const char* file; unsigned line, column; };
extern "C" void __ubsan_handle_out_of_bounds(const Source* at, uintptr_t index) {
    fail("index %ld outside of an array (line %u)", (long)index, at->line);
}
extern "C" void __ubsan_handle_type_mismatch_v1(const Source* at, uintptr_t address) {
    fail("an access at %#lx off its boundary (line %u)", (unsigned long)address, at->line);
}

// Run a kernel on memory of the host. `sizes` are the bytes behind each pointer, `written` says which are written; the
// tensor maps are behind the pointers. Returns an error's text, or null.
extern "C" const char* gpu_launch(const char* name, void (*kernel)(void**), int grid, int block, int shared_bytes,
                                  int order_of_threads, int copies_late, int count, unsigned char** pointers,
                                  const size_t* sizes, const unsigned char* written, int map_count, const void* maps,
                                  int races) {
    if (!stacks)
        stacks = (unsigned char*)mmap(nullptr, THREADS * STACK, PROT_READ | PROT_WRITE,
                                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    error.clear();
    kernel_name = name, threads = block, dynamic_bytes = shared_bytes, late = copies_late, body = kernel;
    blockDim = {(unsigned)block, 1, 1}, gridDim = {(unsigned)grid, 1, 1}, blockIdx = threadIdx = {0, 0, 0};
    if (block > THREADS || (size_t)shared_bytes > (232448u)) complain("more threads or shared memory than a block has");

    // Copies of what the pointers point at, with guards around; what overlaps stays so.
    std::vector<int> by_start(count);
    for (int k = 0; k < count; ++k) by_start[k] = k;
    std::sort(by_start.begin(), by_start.end(), [&](int a, int b) { return pointers[a] < pointers[b]; });
    ranges.clear();
    checking = races;
    std::vector<unsigned char*> moved(count);
    std::vector<Range*> range_of(count);
    for (int k : by_start) {
        const uintptr_t start = (uintptr_t)pointers[k], end = start + sizes[k];
        if (ranges.empty() || start >= ranges.back().end) ranges.push_back({start, end, false, {}, nullptr, {}});
        Range& r = ranges.back();
        r.end = std::max(r.end, end), r.written |= written[k];
        range_of[k] = &r;
    }
    for (Range& r : ranges) {
        r.memory.assign(r.end - r.start + 2 * GUARD + 512, POISON);
        const uintptr_t first = (uintptr_t)r.memory.data() + GUARD;
        r.at = (unsigned char*)first + ((r.start - first) & 255);
        memcpy(r.at, (void*)r.start, r.end - r.start);
        if (checking) r.cells.assign(r.end - r.start, {});
    }
    for (int k = 0; k < count; ++k) moved[k] = range_of[k]->at + ((uintptr_t)pointers[k] - range_of[k]->start);
    std::vector<Map> mine(map_count);
    std::vector<unsigned char> map_memory(map_count * 128 + 64);
    unsigned char* map_at = map_memory.data() + (-(uintptr_t)map_memory.data() & 63);
    std::vector<void*>& values = given;
    values.clear();
    for (int k = 0; k < count; ++k) values.push_back(&moved[k]);
    for (int k = 0; k < map_count; ++k) {
        memcpy(map_at + 128 * k, (const char*)maps + 128 * k, 128);
        Map& m = *(Map*)(map_at + 128 * k);
        m.address = moved[m.param];
        values.push_back(&m);
    }
    arguments = values.data();

    std::mt19937 random(order_of_threads);
    std::vector<int> order(block), blocks(grid);
    for (int k = 0; k < block; ++k) order[k] = order_of_threads == 1 ? block - 1 - k : k;
    for (int k = 0; k < grid; ++k) blocks[k] = order_of_threads == 1 ? grid - 1 - k : k;
    if (order_of_threads > 1) std::shuffle(order.begin(), order.end(), random), std::shuffle(blocks.begin(), blocks.end(), random);
    for (int k = 0; k < grid && error.empty(); ++k) {
        blockIdx.x = blocks[k];
        run_block(order.data());
    }
    for (Range& r : ranges) {
        const unsigned char *start = r.memory.data(), *end = start + r.memory.size(), *last = r.at + (r.end - r.start);
        for (const unsigned char* p = start; p < end; ++p)
            if ((p < r.at || p >= last) && *p != POISON) {
                long which = -1;
                for (int j = 0; j < count; ++j) if (range_of[j] == &r) which = j;
                complain("writes %ld bytes behind the start of parameter %ld, which has %ld",
                         (long)(p - r.at), which, (long)(last - r.at));
                break;
            }
        if (!r.written && memcmp(r.at, (void*)r.start, last - r.at)) complain("writes to a parameter that it only reads");
        if (r.written) memcpy((void*)r.start, r.at, last - r.at);
    }
    return error.empty() ? nullptr : error.c_str();
}

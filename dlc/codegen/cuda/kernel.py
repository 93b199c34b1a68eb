"""A Loop IR kernel as CUDA C: `emit_module(kernels, target)` and `launch_shape(kernel)`.

    extern "C" __global__ void NAME(T0* p0, T1* p1, ...)      one pointer for each of Kernel.params, in order

The outermost `grid` loop is blockIdx.x and the `lane` loop in it threadIdx.x. A kernel of the CPU's form is taken too:
its outermost `parallel` loop gets a thread an iteration, and without one a single thread runs it.

Two parameters may be the same memory (a donated input) if each element is read, by whatever is computed from it, before
the element is overwritten and not after, and by the thread that overwrites it: hence `__restrict__` everywhere but
where what overwrites the element is not computed from it (`Kernel.aliased`).
Parameters are aligned to 16 bytes, except those in `Kernel.unaligned`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from dlc.codegen.cuda.analysis import copied_by, long_tiles, memory_last, unfinished, writes_only
from dlc.codegen.cuda.expr import EmitError, Expressions
from dlc.codegen.cuda.launch import REGISTERS, TASK_BLOCK, dynamic, launch_shape, shared_buffers, shared_bytes_of
from dlc.codegen.cuda.mma import matrix_functions
from dlc.codegen.cuda.prelude import prelude
from dlc.codegen.cuda.types import comment, ctype, identifier
from dlc.codegen.cuda.vector import first, loads, uniform, wide_loads, wide_stores
from dlc.codegen.target.gpu import GpuTarget
from dlc.ir.dtypes import float32
from dlc.ir.loops.index import simplify
from dlc.ir.loops.instructions import Arrive, Async, Await, Bulk, Mma, Registers, Wait
from dlc.ir.loops.ir import Alloc, Buffer, Expr, Fold, For, If, Kernel, Seq, Stmt, Store, Sync, load_parts
from dlc.ir.loops.traverse import exprs, walk
from dlc.ir.program.tensor_map import arrivals, tensor_maps


def emit_module(kernels: Sequence[Kernel], target: GpuTarget) -> str:
    """The CUDA C source of some kernels, complete in itself. Their names must differ."""
    if len({symbol(k) for k in kernels}) != len(kernels):
        raise EmitError(f"kernels of one module need different names: {', '.join(sorted(k.name for k in kernels))}")
    text = "\n\n".join(emit_kernel(k, target) for k in kernels)
    matrices = matrix_functions(text)
    head = prelude(text + matrices)
    text = f"{matrices}\n\n{text}" if matrices else text
    return f"// for {target.arch}\n{head}\n\n{text}\n" if head else f"// for {target.arch}\n\n{text}\n"


def emit_kernel(kernel: Kernel, target: GpuTarget) -> str:
    """One function, without the device functions that it calls."""
    return KernelEmitter(kernel, target).function()


def symbol(kernel: Kernel) -> str:
    """The name of the kernel's function."""
    return identifier(kernel.name)


class KernelEmitter(Expressions):
    """Emission of statements."""

    def __init__(self, kernel: Kernel, target: GpuTarget):
        super().__init__()
        self.kernel, self.target = kernel, target
        self.bound: frozenset[Expr] = frozenset()
        self.unaligned: frozenset[Buffer] = kernel.unaligned
        self.serial = 0  # depth of loops that are run, not written out
        self.launch = launch_shape(kernel)
        self.dynamic = dynamic(kernel)
        self.shared_at = 0
        self.copying = False  # inside an Async
        self.maps: dict[tuple, str] = {}
        self.in_flight: dict[Buffer, None] = {}  # sums that an Mma may still be adding to
        self.warpgroups = any(isinstance(s, Mma) and s.lanes == 128 for s in walk(kernel.body))
        self.multiplies = any(isinstance(s, Mma) for s in walk(kernel.body))

    def function(self) -> str:
        k = self.kernel
        params = []
        for p in k.params:
            constant = "" if p in k.writes else "const "
            apart = "" if p in k.aliased else "__restrict__ "
            params.append(f"{constant}{ctype(p.dtype)}* {apart}{self.name(p, p.name)}")
        if self.dynamic:
            self.line("extern __shared__ __align__(1024) unsigned char shared_memory[];")
        for n, view in enumerate(tensor_maps(k)):
            self.maps[view] = self.name(None, f"map{n}")
            params.append(f"const __grid_constant__ TensorMap {self.maps[view]}")
        self.statement(k.body)
        head = [f"// {k.name}" + (f": {comment(k.scheduled)}" if k.schedule is not None else "")]
        head += [f"//   at {comment(str(loc))}" for loc in k.locs]
        head += [f"//   {self.names[p]}: {comment(p.note)}" for p in k.params if p.note]
        bounds = f"__launch_bounds__({self.launch.block}"
        if k.blocks_per_sm:
            bounds += f", {k.blocks_per_sm}"
        signature = f'extern "C" __global__ void {bounds}) {symbol(k)}('
        separator = ",\n" + " " * 4
        return "\n".join([*head, f"{signature}\n    {separator.join(params)})", "{", *self.scopes[0].lines, "}"])

    # statements

    def statement(self, s: Stmt) -> None:
        if isinstance(s, Seq):
            self.run(s.body)
        else:
            self.run((s,))

    def run(self, stmts: Sequence[Stmt]) -> None:
        """Statements in order; neighbouring stores share what they compute."""
        at = 0
        while at < len(stmts):
            s = stmts[at]
            if isinstance(s, Seq):
                self.nested(s)
            elif isinstance(s, Alloc):
                self.alloc(s.buffer)
            elif isinstance(s, For):
                self.loop(s)
            elif isinstance(s, If):
                self.branch(s)
            elif isinstance(s, Sync):
                self.line(f"sync_first<{s.threads}>();" if s.threads else "__syncthreads();")
                self.forget([b for b in self.kernel.writes] + shared_buffers(self.kernel))
            elif isinstance(s, Fold):
                self.fold(s)
            elif isinstance(s, Async):
                self.copying = True
                self.statement(s.body)
                self.copying = False
                self.line("commit_copies();")
            elif isinstance(s, Wait):
                self.wait(s)
            elif isinstance(s, Mma):
                self.mma(s)
            elif isinstance(s, (Arrive, Await, Bulk)):
                self.gate(s)
            elif isinstance(s, Registers):
                more = s.count > REGISTERS // self.launch.block
                self.line(f"{'more' if more else 'fewer'}_registers<{s.count}>();")
            elif isinstance(s, Store):
                end = at
                while end < len(stmts) and isinstance(stmts[end], Store):
                    end += 1
                self.stores(stmts[at:end])  # type: ignore[arg-type]
                at = end
                continue
            else:
                raise EmitError(f"{self.kernel.name}: no CUDA for a {type(s).__name__}")
            at += 1

    def nested(self, s: Seq) -> None:
        if any(isinstance(x, Alloc) and x.buffer.space == "reg" for x in s.body):
            self.line("{")
            self.scopes.append(type(self.scopes[-1])(self.scopes[-1].indent + 1))
            self.run(s.body)
            self.close()
        else:
            self.run(s.body)

    def alloc(self, b: Buffer) -> None:
        if b in self.names:  # written out twice
            raise EmitError(f"{self.kernel.name}: {b.name} is allocated twice")
        name, type_ = self.name(b, b.name), "Gate" if b.space == "gate" else ctype(b.dtype)
        dims = "".join(f"[{d}]" for d in b.shape)
        note = f"  // {comment(b.note)}" if b.note else ""
        if b.space == "reg" or self.kernel.parallel is not None or self.launch.block == 1:
            self.line(f"{type_} {name}{dims};{note}")
        elif not self.dynamic:
            self.line(f"__shared__ __align__({1024 if b.swizzled else 16}) {type_} {name}{dims};{note}")
        else:
            rest = "".join(f"[{d}]" for d in b.shape[1:])
            at = f"shared_memory + {self.shared_at}" if self.shared_at else "shared_memory"
            left = f"{type_}* {name}" if len(b.shape) == 1 else f"{type_} (*{name}){rest}"
            cast = f"({type_}*)" if len(b.shape) == 1 else f"({type_} (*){rest})"
            self.line(f"{left} = {cast}({at});{note}")
            self.shared_at += shared_bytes_of(b)

    def stores(self, stmts: Sequence[Store]) -> None:
        """A run of stores; those under one predicate share a branch."""
        stmts = memory_last(stmts)
        self.count(e for s in stmts for e in exprs(s))
        at = 0
        while at < len(stmts):
            predicate = stmts[at].predicate
            end = at
            while end < len(stmts) and stmts[end].predicate is predicate:
                end += 1
            if predicate is not None:
                self.open(f"if ({self.bare(predicate)})")
            self.read_first(stmts[at:end])
            for s in stmts[at:end]:
                self.store(s)
            if predicate is not None:
                self.close()
            at = end

    def read_first(self, stmts: Sequence[Store]) -> None:
        """Name what several stores load from memory that they do not write, before the first of them: an output may be
        the memory of an input that a later store still reads."""
        if len(stmts) < 2 or not any(s.buffer.space == "global" for s in stmts):
            return
        written = {s.buffer for s in stmts}
        for e in loads(stmts):
            if e.attr.space == "global" and not written & self.buffers_read(e):
                self.value(e)

    def store(self, s: Store) -> None:
        value = self.bare(s.value, ctype(s.buffer.dtype))
        self.assign(self.place(s.buffer, s.index), s, value)
        self.forget((s.buffer,))

    def assign(self, place: str, s: Store, value: str) -> None:
        if s.combine is None:
            self.line(f"{place} = {value};")
        elif s.combine == "add" and s.buffer.dtype.is_float and not s.buffer.dtype.is_half:
            self.line(f"{place} += {value};")
        else:
            self.line(f"{place} = op_{s.combine}::of<{ctype(s.buffer.dtype)}>({place}, {value});")

    def wait(self, s: Wait) -> None:
        if s.what == "copy":
            self.line(f"wait_copies<{s.pending}>();")
            if self.warpgroups:
                self.line("fence_shared();")
        elif self.warpgroups:
            self.line(f"wgmma_wait<{s.pending}>();")
            if not s.pending:
                for b in self.in_flight:
                    self.line("#pragma unroll")
                    self.line(f"for (int i = 0; i < {b.shape[0]}; ++i) hold_sums({self.names[b]}[i]);")
                self.in_flight = {}

    def mma(self, s: Mma) -> None:
        """Products of shared tiles by the tensor cores."""
        self.count(exprs(s))
        sums = self.names[s.buffer] + "".join(f"[{self.bare(i)}]" for i in s.index[:-2])
        self.in_flight[s.buffer] = None
        held = s.a_order == "sums"
        if s.a.dtype is float32 and s.fresh:
            start = self.names[s.buffer] + "".join(f"[{self.bare(i)}]" for i in s.index[:-2])
            self.line("#pragma unroll")
            self.line(f"for (int k = 0; k < {s.n // 2}; ++k) {start}[k / 4][k % 4] = 0.0f;")
        if s.a.dtype is float32 and held:
            b, index, _ = load_parts(s.b)
            tile = "".join(f"[{self.bare(i)}]" for i in index[:-3]) + "[0][0][0]"
            first = simplify(index[-3] * b.shape[-1] + index[-1])
            self.line(f"mma_tf32_held<{s.n}, {s.k}>({sums}, {self.held(s.a)}, &{self.names[b]}{tile}, "
                      f"{self.bare(first)}, {b.shape[-2] * b.shape[-1]});")
        elif s.a.dtype is float32:
            operands = ", ".join(self.rounded_tile(e, order) for e, order in ((s.a, s.a_order), (s.b, s.b_order)))
            sums = self.names[s.buffer] + "".join(f"[{self.bare(i)}]" for i in s.index[:-3])
            along = ", ".join(str(order[1] == "k").lower() for order in (s.a_order, s.b_order))
            self.line(f"mma_tf32<{s.m}, {s.n}, {s.k}, {along}>({sums}, {operands});")
        elif s.lanes == 32:
            if s.fresh:
                self.line("#pragma unroll")
                self.line(f"for (int k = 0; k < {s.n // 2}; ++k) {sums}[k / 4][k % 4] = 0.0f;")
            operands, along = [], []
            for e, order in ((s.a, s.a_order), (s.b, s.b_order)):
                b, index, _ = load_parts(e)
                if order == "sums":
                    operands.append(self.held(e))
                    continue
                along.append("true" if order[1] == "k" else "false")
                own = 2 if order[1] == "k" else 3  # the tile's indices; others say which tile
                tile = "".join(f"[{self.bare(i)}]" for i in index[:-own]) + "[0]" * own
                first = index[-2] if order[1] == "k" else index[-3] * 64 + index[-1]
                block = 0 if order[1] == "k" else b.shape[-2] * 64
                operands.append(f"&{self.names[b]}{tile}, {self.bare(simplify(first))}, {block}")
            name = "mma_held_16" if held else "mma_16"
            self.line(f"{name}<{s.n}, {s.k}, {', '.join(along)}>({sums}, {', '.join(operands)});")
        else:
            self.open("")
            for name, e, order in (("a", s.a, s.a_order), ("b", s.b, s.b_order)):
                b, index, _ = load_parts(e)
                if order == "sums":
                    continue
                leading = 16 if order[1] == "k" else b.shape[-2] * 128
                self.line(f"const unsigned long long at_{name} = tile_at(&{self.place(b, index)}, {leading});")
            self.line("wgmma_fence();")
            self.line("#pragma unroll")
            steps = [2 if order[1] == "k" else 128 for order in (s.a_order, s.b_order)]  # in units of 16 bytes
            turned = ", ".join(str(int(order[1] != "k")) for order in (s.a_order, s.b_order))
            kind = ctype(s.a.dtype)
            self.line(f"for (int k = 0; k < {s.k // 16}; ++k)")
            add = ", k > 0" if s.fresh else ""
            b = f"at_b + k * {steps[1]}"
            if held:
                turn = int(s.b_order[1] != "k")
                self.line(f"    wgmma_held_64x{s.n}<{turn}>({sums}, {self.held(s.a)} + 2 * k, {b}{add});")
            else:
                self.line(f"    wgmma_64x{s.n}<{turned}>({sums}, at_a + k * {steps[0]}, {b}, {kind}(){add});")
            self.line("wgmma_commit();")
            self.close()
        self.forget((s.buffer,))

    def rounded_tile(self, e: Expr, order: str) -> str:
        """A shared tile of float32: its first element, the first row of the product, the length of its rows."""
        b, index, _ = load_parts(e)
        tile = "".join(f"[{self.bare(i)}]" for i in index[:-2]) + "[0][0]"
        first = index[-2] if order[1] == "k" else index[-1]
        return f"&{self.names[b]}{tile}, {self.bare(simplify(first))}, {b.shape[-1]}"

    def gate(self, s: Arrive | Await | Bulk) -> None:
        self.count(exprs(s))
        gate = f"&{self.names[s.gate]}[{self.bare(s.slot)}]"
        if isinstance(s, Arrive):
            self.line(f"gate_arrive({gate});")
        elif isinstance(s, Await):
            self.line(f"gate_await({gate}, {self.bare(s.phases)});")
            self.forget([b for b in shared_buffers(self.kernel) if b is not s.gate])
        else:
            source = self.maps[s.source, s.view, s.buffer.swizzled]
            at = ", ".join(self.bare(e) for e in reversed(s.at))
            to = f"&{self.names[s.buffer]}" + "".join(f"[{self.bare(i)}]" for i in s.index)
            self.line(f"gate_expect({gate}, {math.prod(s.view.box) * s.buffer.dtype.itemsize});")
            self.line(f"bulk_copy_{len(s.at)}({to}, {source}, {gate}, {at});")

    def start_gates(self) -> None:
        """The first thread makes the block's gates."""
        gates = arrivals(self.kernel)
        if not gates:
            return
        self.open("if (threadIdx.x == 0)")
        for b, of in gates.items():
            self.line(f"for (int i = 0; i < {b.size}; ++i) gate_start(&{self.names[b]}[i], {of});")
        self.line("gates_started();")
        self.close()
        self.line("__syncthreads();")

    def held(self, e: Expr) -> str:
        """A pointer to a tile in registers."""
        b, index, _ = load_parts(e)
        return self.names[b] + "".join(f"[{self.bare(i)}]" for i in index[:-2]) + f" + {self.bare(index[-2])}"

    def fold(self, s: Fold) -> None:
        self.count(exprs(s))
        value = self.bare(s.value, ctype(s.buffer.dtype))
        place = self.place(s.buffer, s.index)
        if s.lanes <= 32:
            self.line(f"{place} = fold<op_{s.combine}, {s.lanes}>({value});")
        else:
            scratch = self.name(None, "folded")
            self.line(f"__shared__ {ctype(s.buffer.dtype)} {scratch}[{self.launch.block // 32}];")
            self.line(f"{place} = fold_block<op_{s.combine}, {s.lanes}>({value}, {scratch});")
            if self.serial:
                self.line("__syncthreads();")
        self.forget((s.buffer,))

    def branch(self, s: If) -> None:
        self.count((s.cond,))
        before = dict(self.in_flight)
        self.open(f"if ({self.bare(s.cond)})")
        self.statement(s.then)
        then, self.in_flight = self.in_flight, before
        if s.other is not None:
            self.close("} else {")
            self.scopes.append(type(self.scopes[-1])(self.scopes[-1].indent + 1))
            self.statement(s.other)
        self.in_flight = then | self.in_flight
        self.close()

    # loops

    def loop(self, s: For) -> None:
        self.count((s.extent,))
        outer = self.bound
        self.bound |= {s.axis}
        written = [x.buffer for x in walk(s.body) if isinstance(x, (Store, Fold))]
        self.forget(written)
        self.in_flight |= unfinished(s.body)  # of the iteration before
        if s.kind in ("grid", "parallel"):
            self.blocks(s)
        elif s.kind == "lane":
            self.axis(s.axis, "threadIdx.x")
            self.start_gates()
            self.statement(s.body)
        elif s.kind == "vector" and self.splits(s):
            self.bound = outer
            self.vector(s)
        else:
            self.counted(s)
        self.forget(written)
        self.bound = outer

    def axis(self, axis: Expr, source: str) -> None:
        wide = axis.attr[1] >= 1 << 31
        self.axis_type[axis] = "long long" if wide else "int"
        self.line(f"const {self.axis_type[axis]} {self.name(axis, axis.attr[0])} = {source};")

    def blocks(self, s: For) -> None:
        if s.kind == "grid":
            self.axis(s.axis, "blockIdx.x")
            self.statement(s.body)
            return
        extent = self.bare(s.extent)
        wide = "(long long)" if s.axis.attr[1] >= 1 << 31 else ""
        self.axis(s.axis, f"{wide}blockIdx.x * {TASK_BLOCK} + threadIdx.x")
        self.open(f"if ({self.names[s.axis]} < {extent})")
        self.statement(s.body)
        self.close()

    def counted(self, s: For) -> None:
        extent = self.bare(s.extent)
        type_ = self.axis_type[s.axis] = "long long" if s.axis.attr[1] >= 1 << 31 else "int"
        written_out = s.kind == "unroll" or (s.kind == "vector" and s.axis.attr[1] == s.lanes)
        if written_out:
            self.line("#pragma unroll")
        elif long_tiles(s.body):
            # or it is copied for each value of the axis, and registers run out
            end = self.name(None, "end")
            self.line(f"const int {end} = hidden({extent});")
            self.line("#pragma unroll 1")
            extent = end
        elif self.multiplies and writes_only(s.body):
            self.line("#pragma unroll 1")
        i = self.name(s.axis, s.axis.attr[0])
        self.serial += not written_out
        self.open(f"for ({type_} {i} = 0; {i} < {extent}; ++{i})")
        self.statement(s.body)
        self.close()
        self.serial -= not written_out

    def splits(self, s: For) -> bool:
        """Is this vector loop `lanes` iterations of nothing but stores?"""
        body = s.body.body if isinstance(s.body, Seq) else (s.body,)
        whole = s.extent.op == "const" and s.extent.attr == s.axis.attr[1] == s.lanes
        return whole and s.lanes > 1 and all(isinstance(x, Store) for x in body)

    def vector(self, s: For) -> None:
        """`lanes` iterations in one thread, with wide accesses before and after them."""
        body = memory_last(s.body.body if isinstance(s.body, Seq) else (s.body,))  # type: ignore[arg-type]
        at = 0
        while at < len(body):
            end = at
            while end < len(body) and body[end].predicate is body[at].predicate:
                end += 1
            predicate = body[at].predicate
            guard = None if predicate is None else uniform(predicate, s.axis, s.lanes)
            if guard is not None:
                self.count((guard,))
                self.open(f"if ({self.bare(guard)})")
            self.lanes(s, body[at:end], predicate is not None and guard is None)
            if guard is not None:
                self.close()
            at = end

    def lanes(self, s: For, body: Sequence[Store], masked: bool) -> None:
        wide = {} if masked else wide_loads(body, s.axis, s.lanes, self.bound, self.unaligned)
        out = [] if masked else wide_stores(body, s.axis, s.lanes, self.unaligned)
        if self.copying:
            self.copies(s, [x for x in out if x.value in wide and copied_by(x, s.lanes)], wide)
            body = [x for x in body if not (x in out and x.value in wide and copied_by(x, s.lanes))]
            if not body:
                return
            wide = {e: w for e, w in wide.items() if any(e is x for x in loads(body))}
            out = [x for x in out if x in body]
        whole = {x: self.name(None, f"{self.names[x.buffer]}_") for x in out}
        vectors: dict[Expr, str] = {}
        self.count([*(i for i, _ in wide.values()), *(g for _, g in wide.values() if g is not None),
                    *(first(x.index[-1], s.axis) for x in out)])
        for e, (index, guard) in wide.items():
            b = e.attr
            vectors[e] = name = self.name(None, f"{self.names[b]}_")
            outer = "".join(f"[{self.bare(i)}]" for i in e.args[: len(b.shape) - 1])
            type_ = f"vec<{ctype(b.dtype)}, {s.lanes}>"
            if guard is None:
                self.line(f"const {type_} {name} = load<{s.lanes}>({self.names[b]}{outer} + {self.bare(index)});")
            else:
                self.line(f"{type_} {name} = {{}};")
                condition = self.bare(guard)
                self.open(f"if ({condition})")
                self.line(f"{name} = load<{s.lanes}>({self.names[b]}{outer} + {self.bare(index)});")
                self.close()
        for x, name in whole.items():
            self.line(f"vec<{ctype(x.buffer.dtype)}, {s.lanes}> {name};")
        lane = self.names.get(s.axis) or self.name(s.axis, s.axis.attr[0])
        self.axis_type[s.axis] = "int"
        self.line("#pragma unroll")
        self.open(f"for (int {lane} = 0; {lane} < {s.lanes}; ++{lane})")
        self.bound |= {s.axis}
        for e, name in vectors.items():
            self.scopes[-1].values[e] = (f"{name}.at[{lane}]", ctype(e.dtype))
        self.count(e for x in body for e in ((*x.index, x.value) if x not in whole else (x.value,)))
        if masked:
            self.count(e for x in body for e in exprs(x))
            self.open(f"if ({self.bare(body[0].predicate)})")  # type: ignore[arg-type]
        self.read_first(body)
        for x in body:
            if x in whole:
                self.line(f"{whole[x]}.at[{lane}] = {self.bare(x.value, ctype(x.buffer.dtype))};")
            else:
                self.store(x)
        if masked:
            self.close()
        self.close()
        self.bound -= {s.axis}
        for x, name in whole.items():
            index = [i if k < len(x.index) - 1 else first(i, s.axis) for k, i in enumerate(x.index)]
            self.line(f"store<{s.lanes}>({self.address(x.buffer, index)}, {name});")

    def copies(self, s: For, stores: Sequence[Store], wide: dict[Expr, tuple[Expr, Expr | None]]) -> None:
        """Asynchronous copies of 16 bytes."""
        for x in stores:
            index, guard = wide[x.value]
            to = [first(i, s.axis) for i in x.index]
            self.count((index, *to, *(() if guard is None else (guard,))))
            source = f"{self.names[x.value.attr]} + {self.bare(index)}"
            if guard is None:
                self.line(f"copy_async({self.address(x.buffer, to)}, {source});")
                continue
            valid = self.name(None, "valid")
            self.line(f"const bool {valid} = {self.bare(guard)};")
            source = f"{valid} ? {source} : {self.names[x.value.attr]}"
            self.line(f"copy_async({self.address(x.buffer, to)}, {source}, {valid});")

    def address(self, b: Buffer, index: Sequence[Expr]) -> str:
        """A pointer to an element."""
        outer = "".join(f"[{self.bare(i)}]" for i in index[:-1])
        last = self.bare(index[-1])
        if b.swizzled:
            last = f"swizzled({self.bare(index[-2])}, {last}, {ctype(b.dtype)}())"
        return f"{self.names[b]}{outer} + {last}"

    def place(self, buffer: Buffer, index: tuple[Expr, ...]) -> str:
        if buffer.swizzled and not (index[-1].op == "const" and index[-1].attr == 0):
            return f"*({self.address(buffer, index)})"
        return super().place(buffer, index)



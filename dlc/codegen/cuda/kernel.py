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

import itertools
from collections.abc import Sequence
from typing import ClassVar

from dlc.codegen.cuda.analysis import long_tiles, unfinished, writes_only
from dlc.codegen.cuda.expr import EmitError, Expressions
from dlc.codegen.cuda.gates import Gates
from dlc.codegen.cuda.launch import REGISTERS, TASK_BLOCK, dynamic, launch_shape, shared_buffers, shared_bytes_of
from dlc.codegen.cuda.mma import matrix_functions
from dlc.codegen.cuda.prelude import prelude
from dlc.codegen.cuda.products import Products
from dlc.codegen.cuda.stores import Stores
from dlc.codegen.cuda.types import comment, ctype, identifier
from dlc.codegen.cuda.writer import Writer
from dlc.codegen.target.gpu import GpuTarget
from dlc.ir.loops.instructions import Arrive, Async, Await, Mma, SetMaxNReg, TmaCopy, Wait
from dlc.ir.loops.ir import Alloc, AllReduce, Expr, For, If, Kernel, Seq, Stmt, Store, Sync
from dlc.ir.loops.traverse import exprs, walk


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


class KernelEmitter:
    """Writes statements. It has the parts that write what is in them."""

    def __init__(self, kernel: Kernel, target: GpuTarget):
        self.kernel, self.target = kernel, target
        self.w = w = Writer()
        self.x = x = Expressions(w)
        self.bare = x.bare
        self.stores = Stores(w, x, kernel.unaligned)
        self.products = Products(w, x, kernel)
        self.gates = Gates(w, x, kernel)
        self.launch = launch_shape(kernel)
        self._dynamic = dynamic(kernel)
        self._shared_at = 0
        self._bound: frozenset[Expr] = frozenset()  # the axes of the loops around
        self._serial = 0  # depth of loops that are run, not written out

    def function(self) -> str:
        k = self.kernel
        params = []
        for p in k.params:
            constant = "" if p in k.writes else "const "
            apart = "" if p in k.aliased else "__restrict__ "
            params.append(f"{constant}{ctype(p.dtype)}* {apart}{self.w.name(p, p.name)}")
        if self._dynamic:
            self.w.line("extern __shared__ __align__(1024) unsigned char shared_memory[];")
        params += self.gates.parameters()
        self.statement(k.body)
        head = [f"// {k.name}" + (f": {comment(k.scheduled)}" if k.schedule is not None else "")]
        head += [f"//   at {comment(str(loc))}" for loc in k.locs]
        head += [f"//   {self.w.names[p]}: {comment(p.note)}" for p in k.params if p.note]
        bounds = f"__launch_bounds__({self.launch.block}"
        if k.blocks_per_sm:
            bounds += f", {k.blocks_per_sm}"
        signature = f'extern "C" __global__ void {bounds}) {symbol(k)}('
        separator = ",\n" + " " * 4
        return "\n".join([*head, f"{signature}\n    {separator.join(params)})", "{", *self.w.scopes[0].lines, "}"])

    # statements

    def statement(self, s: Stmt) -> None:
        if isinstance(s, Seq):
            self._run(s.body)
        else:
            self._run((s,))

    def _run(self, stmts: Sequence[Stmt]) -> None:
        """Statements in order; neighbouring stores share what they compute."""
        for stores, group in itertools.groupby(stmts, lambda s: isinstance(s, Store)):
            if stores:
                self.stores.run(list(group))  # type: ignore[arg-type]
                continue
            for s in group:
                write = self._STATEMENTS.get(type(s))
                if write is None:
                    raise EmitError(f"{self.kernel.name}: no CUDA for a {type(s).__name__}")
                write(self, s)

    def _seq(self, s: Seq) -> None:
        if any(isinstance(x, Alloc) and x.buffer.space == "reg" for x in s.body):
            self.w.block()
            self._run(s.body)
            self.w.close()
        else:
            self._run(s.body)

    def _alloc(self, s: Alloc) -> None:
        b = s.buffer
        if b in self.w.names:  # written out twice
            raise EmitError(f"{self.kernel.name}: {b.name} is allocated twice")
        name, type_ = self.w.name(b, b.name), "Gate" if b.space == "gate" else ctype(b.dtype)
        dims = "".join(f"[{d}]" for d in b.shape)
        note = f"  // {comment(b.note)}" if b.note else ""
        if b.space == "reg" or self.kernel.parallel is not None or self.launch.block == 1:
            self.w.line(f"{type_} {name}{dims};{note}")
        elif not self._dynamic:
            self.w.line(f"__shared__ __align__({1024 if b.swizzled else 16}) {type_} {name}{dims};{note}")
        else:
            rest = "".join(f"[{d}]" for d in b.shape[1:])
            at = f"shared_memory + {self._shared_at}" if self._shared_at else "shared_memory"
            left = f"{type_}* {name}" if len(b.shape) == 1 else f"{type_} (*{name}){rest}"
            cast = f"({type_}*)" if len(b.shape) == 1 else f"({type_} (*){rest})"
            self.w.line(f"{left} = {cast}({at});{note}")
            self._shared_at += shared_bytes_of(b)

    def _sync(self, s: Sync) -> None:
        self.w.line(f"sync_first<{s.threads}>();" if s.threads else "__syncthreads();")
        self.x.forget([*self.kernel.writes, *shared_buffers(self.kernel)])

    def _async(self, s: Async) -> None:
        self.stores.copying = True
        self.statement(s.body)
        self.stores.copying = False
        self.w.line("commit_copies();")

    def _wait(self, s: Wait) -> None:
        self.products.wait(s)

    def _mma(self, s: Mma) -> None:
        self.products.multiply(s)

    def _gate(self, s: Arrive | Await | TmaCopy) -> None:
        self.gates.write(s)

    def _registers(self, s: SetMaxNReg) -> None:
        more = s.count > REGISTERS // self.launch.block
        self.w.line(f"{'more' if more else 'fewer'}_registers<{s.count}>();")

    def _fold(self, s: AllReduce) -> None:
        self.x.count(exprs(s))
        value = self.bare(s.value, ctype(s.buffer.dtype))
        place = self.x.place(s.buffer, s.index)
        if s.lanes <= 32:
            self.w.line(f"{place} = fold<op_{s.combine}, {s.lanes}>({value});")
        else:
            scratch = self.w.name(None, "folded")
            self.w.line(f"__shared__ {ctype(s.buffer.dtype)} {scratch}[{self.launch.block // 32}];")
            self.w.line(f"{place} = fold_block<op_{s.combine}, {s.lanes}>({value}, {scratch});")
            if self._serial:
                self.w.line("__syncthreads();")
        self.x.forget((s.buffer,))

    def _if(self, s: If) -> None:
        self.x.count((s.cond,))
        products = self.products
        before = dict(products.in_flight)
        self.w.open(f"if ({self.bare(s.cond)})")
        self.statement(s.then)
        then, products.in_flight = products.in_flight, before
        if s.other is not None:
            self.w.otherwise()
            self.statement(s.other)
        products.in_flight = then | products.in_flight
        self.w.close()

    # loops

    def _for(self, s: For) -> None:
        self.x.count((s.extent,))
        outer = self._bound
        self._bound |= {s.axis}
        written = [x.buffer for x in walk(s.body) if isinstance(x, (Store, AllReduce))]
        self.x.forget(written)
        self.products.in_flight |= unfinished(s.body)  # of the iteration before
        if s.kind in ("grid", "parallel"):
            self._blocks(s)
        elif s.kind == "lane":
            self._axis(s.axis, "threadIdx.x")
            self.gates.start()
            self.statement(s.body)
        elif s.kind == "vector" and self.stores.splits(s):
            self.stores.vector(s, outer)
        else:
            self._counted(s)
        self.x.forget(written)
        self._bound = outer

    def _axis(self, axis: Expr, source: str) -> None:
        wide = axis.attr[1] >= 1 << 31
        self.x.axis_type[axis] = "long long" if wide else "int"
        self.w.line(f"const {self.x.axis_type[axis]} {self.w.name(axis, axis.attr[0])} = {source};")

    def _blocks(self, s: For) -> None:
        if s.kind == "grid":
            self._axis(s.axis, "blockIdx.x")
            self.statement(s.body)
            return
        extent = self.bare(s.extent)
        wide = "(long long)" if s.axis.attr[1] >= 1 << 31 else ""
        self._axis(s.axis, f"{wide}blockIdx.x * {TASK_BLOCK} + threadIdx.x")
        self.w.open(f"if ({self.w.names[s.axis]} < {extent})")
        self.statement(s.body)
        self.w.close()

    def _counted(self, s: For) -> None:
        extent = self.bare(s.extent)
        type_ = self.x.axis_type[s.axis] = "long long" if s.axis.attr[1] >= 1 << 31 else "int"
        written_out = s.kind == "unroll" or (s.kind == "vector" and s.axis.attr[1] == s.lanes)
        if written_out:
            self.w.line("#pragma unroll")
        elif long_tiles(s.body):
            # or it is copied for each value of the axis, and registers run out
            end = self.w.name(None, "end")
            self.w.line(f"const int {end} = hidden({extent});")
            self.w.line("#pragma unroll 1")
            extent = end
        elif self.products.any and writes_only(s.body):
            self.w.line("#pragma unroll 1")
        i = self.w.name(s.axis, s.axis.attr[0])
        self._serial += not written_out
        self.w.open(f"for ({type_} {i} = 0; {i} < {extent}; ++{i})")
        self.statement(s.body)
        self.w.close()
        self._serial -= not written_out

    _STATEMENTS: ClassVar = {Seq: _seq, For: _for, If: _if, Alloc: _alloc, Sync: _sync, AllReduce: _fold, Async: _async,
                             Wait: _wait, Mma: _mma, Arrive: _gate, Await: _gate, TmaCopy: _gate,
                              SetMaxNReg: _registers}

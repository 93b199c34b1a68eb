"""A Loop IR kernel as one LLVM function.

    define void @NAME(ptr %args, i64 %begin, i64 %end)

`%args` points to the array of the kernel's parameter pointers, `begin..end` is a range of the parallel loop. The
function proper is `@NAME.body`, which takes the pointers as arguments, because that is where LLVM lets us say that they
do not alias. Two parameters may still be the same memory (a donated input) if each element is read, by whatever is
computed from it, before the element is overwritten and not after; or without being computed from it if the kernel says
so (`Kernel.aliased`).

Statements are here. The other parts of the emitter have one subject each, and know only those made before them:
expressions, index arithmetic, addresses, registers, memory, tiles, control flow, folds.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import ClassVar

from dlc.codegen.llvm import types as lt
from dlc.codegen.llvm.address import Addresses
from dlc.codegen.llvm.amx import AmxEmitter
from dlc.codegen.llvm.builder import Builder, Value
from dlc.codegen.llvm.control import LOOP_METADATA, Control
from dlc.codegen.llvm.environment import Environment
from dlc.codegen.llvm.expr import EmitError, Expressions
from dlc.codegen.llvm.folds import Folds
from dlc.codegen.llvm.index import VectorAxis
from dlc.codegen.llvm.index_values import IndexValues
from dlc.codegen.llvm.memory import Memory
from dlc.codegen.llvm.ops import masks
from dlc.codegen.llvm.registers import Registers
from dlc.codegen.llvm.types import one_line, symbol
from dlc.codegen.target.cpu import CpuTarget
from dlc.ir.dtypes import int32, int64
from dlc.ir.loops.instructions import StoreTile, TileMma
from dlc.ir.loops.interval import interval
from dlc.ir.loops.ir import Alloc, For, If, Kernel, Prefetch, Seq, Stmt, Store, Sync

PASSES = "none"  # the pipeline of runtime/native that generated code needs: it is in SSA form, hoisted and unrolled
OPT_LEVEL = 2  # of the instruction selector


def emit_kernel(kernel: Kernel, target: CpuTarget) -> str:
    """The text of the kernel's functions, without the declarations and attributes that a module needs besides."""
    return KernelEmitter(kernel, target).function()


def emit_module(kernels: Iterable[Kernel], target: CpuTarget, entry_text: str = "") -> str:
    """A module of all kernels and, for a program, its entry function's text (`launch.program.emit_entry`)."""
    module = LlvmModule(target)
    for kernel in kernels:
        module.add(kernel)
    return module.text(entry_text)


class LlvmModule:
    """The text of an LLVM module, kernel after kernel. `size` is its characters so far."""

    def __init__(self, target: CpuTarget):
        self.target, self.size = target, 0
        self.kernels: dict[str, str] = {}  # name -> text
        self._declared: dict[str, str] = {}

    def add(self, kernel: Kernel) -> None:
        if kernel.name in self.kernels:
            raise EmitError(f"kernels of one module need different names: {kernel.name}")
        emitter = KernelEmitter(kernel, self.target)
        self.kernels[kernel.name] = text = emitter.function()
        self._declared.update(emitter.b.declared)
        self.size += len(text)

    def text(self, entry_text: str = "") -> str:
        """The whole module, perhaps with another function."""
        attributes = 'attributes #0 = { nounwind nofree "no-builtins"'
        if self.target.vector_bytes >= 64:
            attributes += ' "prefer-vector-width"="512"'
        parts = [*self.kernels.values(), *((entry_text,) if entry_text else ())]
        declared = "\n".join(self._declared[name] for name in sorted(self._declared))
        return "\n\n".join([*parts, declared, attributes + " }", LOOP_METADATA]) + "\n"


class KernelEmitter:
    """Emission of statements. It has the parts that write what is in them."""

    def __init__(self, kernel: Kernel, target: CpuTarget):
        self.kernel = kernel
        self.b = b = Builder(target)
        self.env = env = Environment(kernel)
        self.index = env.index
        self.expressions = expressions = Expressions(b, env)
        self.expr = expressions.expr
        indices = IndexValues(b, env, expressions)
        self.addresses = addresses = Addresses(b, env, expressions, indices)
        self.registers = registers = Registers(b, env, expressions)
        self.memory = memory = Memory(b, env, expressions, addresses, registers)
        self.tiles = AmxEmitter(b, env, expressions, addresses, memory)
        self.control = control = Control(b, env, registers, memory)
        self.folds = Folds(b, env, expressions, addresses, registers, memory, control)
        self._allocas: list[str] = []

    # the function

    def function(self) -> str:
        """The text of the kernel's two functions; written once."""
        kernel = self.kernel
        name = symbol(kernel.name)
        arguments, loads, passed = [], [], []
        for n, p in enumerate(kernel.params):
            readonly = "" if p in self.env.analysis.stored else " readonly"
            apart = "" if p in kernel.aliased else " noalias"
            arguments.append(f"ptr{apart}{readonly} %p{n}")
            loads += [f"  %a{n} = getelementptr ptr, ptr %args, i64 {n}", f"  %p{n} = load ptr, ptr %a{n}, align 8"]
            passed.append(f"ptr %p{n}")
            self.addresses.pointers[p] = Value(f"%p{n}")
        self.statement(kernel.body)
        self.expressions.close()
        arguments += ["i64 %begin", "i64 %end"]
        passed += ["i64 %begin", "i64 %end"]
        header = [f"; kernel {kernel.name}" + (f"  schedule {kernel.scheduled}" if kernel.schedule is not None else "")]
        header += [f";   {loc}" for loc in kernel.locs]
        header += [
            f";   %p{n} {p.name} {p.dtype.short}[{p.size}]{' ' + p.note if p.note else ''}"
            for n, p in enumerate(kernel.params)
        ]
        outer = [
            f"define void @{name}(ptr %args, i64 %begin, i64 %end) #0 {{",
            "entry:",
            "  %some = icmp slt i64 %begin, %end",
            "  br i1 %some, label %run, label %done",
            "run:",
            *loads,
            f"  call void @{symbol(kernel.name + '.body')}({', '.join(passed)})",
            "  br label %done",
            "done:",
            "  ret void",
            "}",
        ]
        before, begin, end = self.tiles.shapes(kernel.name + ".tiles")
        inner = [
            f"define internal void @{symbol(kernel.name + '.body')}({', '.join(arguments)}) #0 {{",
            "entry:",
            *self._allocas,
            *begin,
            *self.b.scopes[0].lines,
            *self._drained(),
            *end,
            "  ret void",
            "}",
        ]
        return "\n".join([*(one_line(h) for h in header), *before, *outer, *inner])

    def _drained(self) -> list[str]:
        """Stores past the cache are not ordered before those that tell other threads of them, if nothing is done."""
        if not self.memory.streamed or not self.b.target.is_x86:
            return []
        self.b.declared["llvm.x86.sse.sfence"] = "declare void @llvm.x86.sse.sfence()"
        return ["  call void @llvm.x86.sse.sfence()"]

    # statements

    def statement(self, s: Stmt) -> None:
        emit = self._STATEMENTS.get(type(s))
        if emit is None:
            raise EmitError(f"{self.kernel.name}: no LLVM IR for a {type(s).__name__}")
        emit(self, s)

    def _seq(self, s: Seq) -> None:
        for child in s.body:
            self.statement(child)

    def _sync(self, s: Sync) -> None:
        """One thread runs the whole block here."""

    def _prefetch(self, s: Prefetch) -> None:
        place = self.addresses.place(s.buffer, s.index)
        if place.varies:
            raise EmitError(f"{self.kernel.name}: a prefetch of {s.buffer.name} under a vector loop")
        write = int(s.buffer in self.env.analysis.stored)
        p = self.addresses.pointer(place, self.b.depth)
        self.b.declared["llvm.prefetch.p0"] = "declare void @llvm.prefetch.p0(ptr, i32, i32, i32)"
        self.b.do(f"call void @llvm.prefetch.p0(ptr {p.text}, i32 {write}, i32 3, i32 1)")

    def _tile_mma(self, s: TileMma) -> None:
        self.tiles.multiply(s)

    def _drain(self, s: StoreTile) -> None:
        self.tiles.drain(s)

    def _alloc(self, s: Alloc) -> None:
        buffer = s.buffer
        if self.registers.in_registers(buffer):
            self.registers.allocate(buffer)
            return
        if buffer.space == "tile":
            self.tiles.allocate(buffer)
            return
        if buffer not in self.addresses.pointers:  # unrolled copies share their memory
            name = f"%m{len(self._allocas)}"
            self._allocas.append(
                f"  {name} = alloca [{max(buffer.size, 1)} x {lt.memory_type(buffer.dtype)}], align 64"
            )
            self.addresses.pointers[buffer] = Value(name)
        self.memory.touch(buffer)

    def _store(self, s: Store) -> None:
        pred = None if s.predicate is None else self.expr(s.predicate)
        mask = masks.both(self.b, self.env.mask, pred)
        if mask is not None and mask.const is True:
            mask = None
        if mask is not None and mask.const is False:
            return
        registers, vector = self.registers.in_registers(s.buffer), self.index.vector
        moves = vector is None or any([vector.axis in i.axes for i in s.index])  # may lanes store to different places?
        place = self.addresses.place(s.buffer, s.index) if moves and not registers else None
        if not moves or (vector is not None and place is not None and not place.varies):
            if s.combine is None:
                raise EmitError(f"{self.kernel.name}: a store to {s.buffer.name} that all lanes share must combine")
            self.folds.store(s, mask)
        elif place is None:
            self.registers.store(s, mask)
        elif place.varies or mask is None:
            self.memory.store(s, place, mask)
        else:
            self.control.branch(mask, lambda: self.memory.store(s, place, None), frozenset((s.buffer,)))

    # loops

    def _for(self, s: For) -> None:
        if s is self.kernel.parallel:
            begin, end = Value("%begin"), Value("%end")
            self.control.loop(s, begin, end, 1, True, partial(self._body, s))
            return
        extent = self.expr(s.extent)
        if extent.lanes:
            raise EmitError(f"{self.kernel.name}: the extent of {s.axis.attr[0]} differs by lane")
        if extent.const is not None and extent.const <= 0:
            return
        if s.kind == "vector" and s.lanes > 1:
            self._vector(s, extent)
        elif s.kind == "unroll":
            if extent.const is None:
                raise EmitError(f"{self.kernel.name}: the unrolled loop {s.axis.attr[0]} needs a constant extent")
            for i in range(extent.const):
                self._body(s, self.b.const(i, int64))
        elif s.kind in ("grid", "warp", "lane"):
            raise EmitError(f"{self.kernel.name}: {s.kind} loops are for GPUs")
        elif extent.const == 1:
            self._body(s, self.b.const(0, int64))
        else:
            certain = interval(s.extent)[0] > 0
            self.control.loop(s, self.b.const(0, int64), extent, 1, certain, partial(self._body, s))

    def _body(self, s: For, i: Value) -> None:
        """The loop's body for one value of its axis."""
        self.env.push_frame()
        self.env.bind(s.axis, i)
        self.statement(s.body)
        self.env.pop_frame()

    # vector loops

    def _vector(self, s: For, extent: Value) -> None:
        lanes = s.lanes
        if lanes & (lanes - 1):
            raise EmitError(f"{self.kernel.name}: {lanes} lanes; a power of two is needed")
        if self.index.vector is not None:
            raise EmitError(f"{self.kernel.name}: vector loop {s.axis.attr[0]} inside another one")
        vector = self.index.enter_vector(s.axis, lanes)
        self.folds.begin(s)
        if extent.const is not None:
            self._vector_fixed(s, vector, extent.const)
        else:
            self._vector_dynamic(s, vector, extent)
        self.index.leave_vector()
        self.folds.finish(s)

    def _vector_fixed(self, s: For, vector: VectorAxis, extent: int) -> None:
        whole, rest = extent // vector.lanes * vector.lanes, extent % vector.lanes
        if whole > vector.lanes:
            end = self.b.const(whole, int64)
            body = partial(self._group, s, vector, mask=None)
            self.control.loop(s, self.b.const(0, int64), end, vector.lanes, True, body)
        elif whole:
            self._group(s, vector, self.b.const(0, int64), None)
        if rest:
            mask = self.b.constant_mask(tuple(i < rest for i in range(vector.lanes)))
            self._group(s, vector, self.b.const(whole, int64), mask)

    def _vector_dynamic(self, s: For, vector: VectorAxis, extent: Value) -> None:
        lanes = vector.lanes
        whole = self.b.ins(f"and i64 {extent.text}, {-lanes}", 0, extent)
        self.control.loop(s, self.b.const(0, int64), whole, lanes, False, partial(self._group, s, vector, mask=None))
        start = self.b.ins(f"call i64 @llvm.smax.i64(i64 {whole.text}, i64 0)", 0, whole)
        self.b.declared["llvm.smax.i64"] = "declare i64 @llvm.smax.i64(i64, i64)"
        some = self.b.ins(f"icmp slt i64 {start.text}, {extent.text}", 0, start, extent)

        def tail() -> None:
            rest = self.b.ins(f"sub i64 {extent.text}, {start.text}", 0, extent, start)
            rest = self.b.splat(self.b.ins(f"trunc i64 {rest.text} to i32", 0, rest), int32, lanes)
            t = lt.type_text(int32, lanes)
            mask = self.b.ins(f"icmp ult {t} {lt.lane_numbers(lanes, int32)}, {rest.text}", lanes, rest)
            self._group(s, vector, start, mask)

        self.control.branch(some, tail, self.env.analysis.writes(s))

    def _group(self, s: For, vector: VectorAxis, base: Value, mask: Value | None) -> None:
        """The body of a vector loop for `lanes` values of its axis from `base` on."""
        self.env.push_frame()
        self.env.bind(s.axis, Value("poison", vector.lanes))
        self.env.bind(vector.base, base)
        self.env.mask = mask
        self.statement(s.body)
        self.env.mask = None
        self.env.pop_frame()

    # branches

    def _if(self, s: If) -> None:
        cond = self.expr(s.cond)
        if cond.lanes:
            self._if_lanes(s, cond)
            return
        if cond.const is not None:
            chosen = s.then if cond.const else s.other
            if chosen is not None:
                self.statement(chosen)
            return
        other = None if s.other is None else partial(self.statement, s.other)
        self.control.branch(cond, partial(self.statement, s.then), self.env.analysis.writes(s), other)

    def _if_lanes(self, s: If, cond: Value) -> None:
        """Each side runs with its lanes masked, and is skipped where none is left."""
        outer = self.env.mask
        for side in (s.then, s.other):
            if side is None:
                continue
            self.env.mask = masks.both(self.b, outer, cond if side is s.then else masks.inverse(self.b, cond))
            if self.env.mask is None or self.env.mask.const is True:
                self.env.mask = outer
                self.statement(side)
            elif self.env.mask.const is not False:
                body = partial(self.statement, side)
                self.control.branch(self.b.any_lane(self.env.mask), body, self.env.analysis.writes(side))
            self.env.mask = outer

    _STATEMENTS: ClassVar = {Seq: _seq, For: _for, If: _if, Alloc: _alloc, Store: _store, Sync: _sync,
                             Prefetch: _prefetch, TileMma: _tile_mma, StoreTile: _drain}

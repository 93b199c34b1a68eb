"""A Loop IR kernel as one LLVM function.

    define void @NAME(ptr %args, i64 %begin, i64 %end)

`%args` points to the array of the kernel's parameter pointers, `begin..end` is a range of the parallel loop. The
function proper is `@NAME.body`, which takes the pointers as arguments, because that is where LLVM lets us say that they
do not alias. Two parameters may still be the same memory (a donated input) if each element is read, by whatever is
computed from it, before the element is overwritten and not after; or without being computed from it if the kernel says
so (`Kernel.aliased`).

Statements are here; expressions, memory accesses and registers are in the modules that the class inherits from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import ClassVar

from dlc.codegen.llvm import types as lt
from dlc.codegen.llvm.amx import Tiles
from dlc.codegen.llvm.builder import Scope, Value
from dlc.codegen.llvm.expr import EmitError
from dlc.codegen.llvm.index import VectorAxis
from dlc.codegen.llvm.memory import Place
from dlc.codegen.llvm.names import one_line, symbol
from dlc.codegen.llvm.registers import Slot
from dlc.codegen.target.cpu import CpuTarget
from dlc.ir import dtypes
from dlc.ir.dtypes import DType, bool_, int32, int64
from dlc.ir.loops.instructions import Drain, TileMma
from dlc.ir.loops.interval import interval
from dlc.ir.loops.ir import Alloc, Buffer, For, If, Kernel, Prefetch, Seq, Stmt, Store, Sync

PASSES = "none"  # the pipeline of runtime/native that generated code needs: it is in SSA form, hoisted and unrolled
OPT_LEVEL = 2  # of the instruction selector

_LOOP = "!llvm.loop !0"
_METADATA = """!0 = distinct !{!0, !1, !2}
!1 = !{!"llvm.loop.unroll.disable"}
!2 = !{!"llvm.loop.vectorize.enable", i1 false}"""


def emit_kernel(kernel: Kernel, target: CpuTarget) -> str:
    """The text of the kernel's functions, without the declarations and attributes that a module needs besides."""
    return KernelEmitter(kernel, target).function()


def emit_module(kernels: Iterable[Kernel], target: CpuTarget, entry_text: str = "") -> str:
    """A module of all kernels and, for a program, its entry function's text (`llvm_program.emit_entry`)."""
    module = Module(target)
    for kernel in kernels:
        module.add(kernel)
    return module.text(entry_text)


class Module:
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
        self._declared.update(emitter.declared)
        self.size += len(text)

    def text(self, entry_text: str = "") -> str:
        """The whole module, perhaps with another function."""
        attributes = 'attributes #0 = { nounwind nofree "no-builtins"'
        if self.target.vector_bytes >= 64:
            attributes += ' "prefer-vector-width"="512"'
        parts = [*self.kernels.values(), *((entry_text,) if entry_text else ())]
        declared = "\n".join(self._declared[name] for name in sorted(self._declared))
        return "\n\n".join([*parts, declared, attributes + " }", _METADATA]) + "\n"


class KernelEmitter(Tiles):
    """Emission of statements."""

    def __init__(self, kernel: Kernel, target: CpuTarget):
        super().__init__(kernel, target)
        self._allocas: list[str] = []
        self._folding: dict[int, int] = {}  # id of a combining store -> depth of the scope around its vector loop
        self._folds: dict[Slot, tuple[Place | Slot, str]] = {}  # fold slot -> (where the result goes, combine)
        self._parallel = kernel.parallel

    # the function

    def function(self) -> str:
        kernel = self.kernel
        name = symbol(kernel.name)
        arguments, loads, passed = [], [], []
        for n, p in enumerate(kernel.params):
            readonly = "" if p in self.analysis.stored else " readonly"
            apart = "" if p in kernel.aliased else " noalias"
            arguments.append(f"ptr{apart}{readonly} %p{n}")
            loads += [f"  %a{n} = getelementptr ptr, ptr %args, i64 {n}", f"  %p{n} = load ptr, ptr %a{n}, align 8"]
            passed.append(f"ptr %p{n}")
            self.pointers[p] = Value(f"%p{n}")
        self.statement(kernel.body)
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
        before, begin, end = self.shapes(kernel.name + ".tiles")
        inner = [
            f"define internal void @{symbol(kernel.name + '.body')}({', '.join(arguments)}) #0 {{",
            "entry:",
            *self._allocas,
            *begin,
            *self.scopes[0].lines,
            *self._drained(),
            *end,
            "  ret void",
            "}",
        ]
        return "\n".join([*(one_line(h) for h in header), *before, *outer, *inner])

    def _drained(self) -> list[str]:
        """Stores past the cache are not ordered before those that tell other threads of them, if nothing is done."""
        if not self.streamed or not self.target.is_x86:
            return []
        self.declared["llvm.x86.sse.sfence"] = "declare void @llvm.x86.sse.sfence()"
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
        place = self.place(s.buffer, s.index)
        if place.varies:
            raise EmitError(f"{self.kernel.name}: a prefetch of {s.buffer.name} under a vector loop")
        write = int(s.buffer in self.analysis.stored)
        p = self.pointer(place, self.depth)
        self.declared["llvm.prefetch.p0"] = "declare void @llvm.prefetch.p0(ptr, i32, i32, i32)"
        self.do(f"call void @llvm.prefetch.p0(ptr {p.text}, i32 {write}, i32 3, i32 1)")

    def _alloc(self, s: Alloc) -> None:
        buffer = s.buffer
        if self.in_registers(buffer):
            self.allocate_registers(buffer)
            return
        if buffer.space == "tile":
            self.allocate_tiles(buffer)
            return
        if buffer not in self.pointers:  # unrolled copies share their memory
            name = f"%m{len(self._allocas)}"
            self._allocas.append(
                f"  {name} = alloca [{max(buffer.size, 1)} x {lt.memory_type(buffer.dtype)}], align 64"
            )
            self.pointers[buffer] = Value(name)
        self.touch(buffer)

    def _store(self, s: Store) -> None:
        pred = None if s.predicate is None else self.expr(s.predicate)
        mask = self.both(self.mask, pred)
        if mask is not None and mask.const is True:
            mask = None
        if mask is not None and mask.const is False:
            return
        registers, vector = self.in_registers(s.buffer), self.index.vector
        moves = vector is None or any([vector.axis in i.axes for i in s.index])  # may lanes store to different places?
        place = self.place(s.buffer, s.index) if moves and not registers else None
        if not moves or (vector is not None and place is not None and not place.varies):
            if s.combine is None:
                raise EmitError(f"{self.kernel.name}: a store to {s.buffer.name} that all lanes share must combine")
            self._fold(s, mask)
        elif place is None:
            self.store_register(s, mask)
        else:
            self.store_memory(s, place, mask)

    # folds across lanes: a combining store to one place under a vector axis

    def _fold(self, s: Store, mask: Value | None) -> None:
        dtype, lanes = s.buffer.dtype, self.index.vector.lanes
        home = self._folding.get(id(s))
        if home is None:  # within one group of lanes
            value = self.splat(self.expr(s.value), dtype, lanes)
            if mask is not None:
                value = self.select(
                    self.splat(mask, bool_, lanes), value, self._identity(s.combine, dtype, lanes), dtype
                )
            result = self.fold_lanes(s.combine, dtype, value)
            if mask is None or mask.const is not None:
                self._deliver(self._target(s), s.combine, result)
            else:  # without active lanes even the place may be out of bounds
                writes = frozenset((s.buffer,))
                self.branch(self.any_lane(mask), lambda: self._deliver(self._target(s), s.combine, result), writes)
            return
        target = self._target(s)
        where = target.index if isinstance(target, Slot) else (target.const, *((v.text, c) for v, c in target.terms))
        slot = Slot(s.buffer, where, s.combine)
        if slot not in self._folds:
            self._folds[slot] = (target, s.combine)
            self.homes[slot] = (home, self._identity(s.combine, dtype, lanes))
        old = self.read_slot(slot, lanes)
        value = self.splat(self.combined(s.combine, dtype, old, s.value), dtype, lanes)
        if mask is not None:
            value = self.select(mask, value, old, dtype)
        self.write_slot(slot, value)

    def _identity(self, combine: str, dtype: DType, lanes: int) -> Value:
        low, high = (-math.inf, math.inf) if dtype.is_float else dtypes.limits(dtype)
        number = {"add": -0.0 if dtype.is_float else 0, "mul": 1, "max": low, "min": high, "and": -1, "or": 0}[combine]
        if dtype.is_bool:
            number = combine in ("and", "min")
        return self.splat(self.const(number, dtype), dtype, lanes)

    def _target(self, s: Store) -> Place | Slot:
        if not self.in_registers(s.buffer):
            return self.place(s.buffer, s.index)
        where, _ = self._locate(s.buffer, s.index)
        return Slot(s.buffer, where)

    def _deliver(self, target: Place | Slot, combine: str, value: Value) -> None:
        """target = combine(target, value) with a scalar value."""
        if isinstance(target, Place):
            self.add_to(target, combine, value)
        else:
            self.combine_element(target, combine, value)

    def _finish_folds(self, home: int) -> None:
        """After a vector loop: one scalar from the lanes of each fold."""
        for slot in [s for s in self._folds if self.homes[s][0] == home]:
            target, combine = self._folds.pop(slot)
            lanes = self.read_slot(slot, self.homes[slot][1].lanes)
            self.scopes[-1].slots.pop(slot, None)
            del self.homes[slot]
            self._deliver(target, combine, self.fold_lanes(combine, slot.buffer.dtype, lanes))

    # loops

    def _for(self, s: For) -> None:
        if s is self._parallel:
            begin, end = Value("%begin"), Value("%end")
            self.loop(s, begin, end, 1, True, lambda i: self._body(s, i))
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
                self._body(s, self.const(i, int64))
        elif s.kind in ("grid", "warp", "lane"):
            raise EmitError(f"{self.kernel.name}: {s.kind} loops are for GPUs")
        elif extent.const == 1:
            self._body(s, self.const(0, int64))
        else:
            certain = interval(s.extent)[0] > 0
            self.loop(s, self.const(0, int64), extent, 1, certain, lambda i: self._body(s, i))

    def _body(self, s: For, i: Value) -> None:
        """The loop's body for one value of its axis."""
        self.push_frame()
        self.bind(s.axis, i)
        self.statement(s.body)
        self.pop_frame()

    def loop(self, s: For, start: Value, end: Value, step: int, certain: bool, body: Callable[[Value], None]) -> None:
        """A counted loop from `start` while below `end`. Not `certain`: it may not run at all."""
        parent, writes = self.scopes[-1], self.analysis.writes(s)
        for buffer in writes:
            self.touch(buffer)
        for outer in self.scopes:
            outer.inmost = False
        label, leave = self.block("loop"), self.block("done")
        scope = self.push(label, loop=True, crossable=certain, writes=writes)
        counter = scope.counter = Value(self.name(), 0, self.depth)
        body(counter)
        self.pop()
        self.forget_all_transposes()
        for buffer in writes:
            self.touch(buffer)
        enter, guard = parent.label, f"  br label %{label}"
        if not certain:
            some = self.name()
            parent.lines.append(f"  {some} = icmp slt i64 {start.text}, {end.text}")
            guard = f"  br i1 {some}, label %{label}, label %{leave}"
        after, again = self.name(), self.name()
        heads, steps = self._multiples(scope, start, enter, step)
        parent.lines += [
            guard,
            f"{label}:  ; {s.axis.attr[0]}",
            f"  {counter.text} = phi i64 [ {start.text}, %{enter} ], [ {after}, %{scope.label} ]",
            *self._phi_lines(scope, enter),
            *heads,
            *scope.lines,
            *steps,
            f"  {after} = add nuw nsw i64 {counter.text}, {step}",
            f"  {again} = icmp slt i64 {after}, {end.text}",
            f"  br i1 {again}, label %{label}, label %{leave}, {_LOOP}",
            f"{leave}:",
        ]
        parent.label = leave
        self._leave_loop(scope, enter, certain)

    def _multiples(self, scope: Scope, start: Value, enter: str, step: int) -> tuple[list[str], list[str]]:
        """What a loop does first and last for the multiples of its counter: the innermost one counts in them, too."""
        heads, steps = [], []
        for factor, value in scope.multiples.items():
            if scope.inmost and start.const is not None:
                after = self.name()
                first = start.const * factor
                heads.append(f"  {value.text} = phi i64 [ {first}, %{enter} ], [ {after}, %{scope.label} ]")
                steps.append(f"  {after} = add nsw i64 {value.text}, {step * factor}")
            else:
                heads.append(f"  {value.text} = mul i64 {scope.counter.text}, {factor}")
        return heads, steps

    def _phi_lines(self, scope: Scope, enter: str) -> list[str]:
        lines = []
        for slot, (phi, before) in scope.phis.items():
            t, last = lt.type_text(slot.buffer.dtype, phi.lanes), scope.slots[slot]
            lines.append(f"  {phi.text} = phi {t} [ {before.text}, %{enter} ], [ {last.text}, %{scope.label} ]")
        return lines

    def _leave_loop(self, scope: Scope, enter: str, certain: bool) -> None:
        """Slots that the loop changed hold its last values from here on."""
        parent, depth = self.scopes[-1], self.depth
        for slot, last in scope.slots.items():
            if not self.lives_outside(slot, depth + 1):
                continue
            phi = scope.phis.get(slot)
            if phi is not None and last is phi[0]:  # only looked at
                continue
            if certain:
                parent.slots[slot] = Value(last.text, last.lanes, depth, last.const)
            else:
                before = phi[1] if phi is not None else self.read_slot(slot, last.lanes)
                parent.slots[slot] = self._merge(slot, [(before, enter), (last, scope.label)])

    def _merge(self, slot: Slot, sources: list[tuple[Value, str]]) -> Value:
        lanes = sources[0][0].lanes
        merged = Value(self.name(), lanes, self.depth)
        incoming = ", ".join(f"[ {v.text}, %{block} ]" for v, block in sources)
        self.scopes[-1].lines.append(f"  {merged.text} = phi {lt.type_text(slot.buffer.dtype, lanes)} {incoming}")
        return merged

    # vector loops

    def _vector(self, s: For, extent: Value) -> None:
        lanes = s.lanes
        if lanes & (lanes - 1):
            raise EmitError(f"{self.kernel.name}: {lanes} lanes; a power of two is needed")
        if self.index.vector is not None:
            raise EmitError(f"{self.kernel.name}: vector loop {s.axis.attr[0]} inside another one")
        vector, home = self.index.enter_vector(s.axis, lanes), self.depth
        folding = {i: home for i in self.analysis.folds(s)}
        self._folding.update(folding)
        if extent.const is not None:
            self._vector_fixed(s, vector, extent.const)
        else:
            self._vector_dynamic(s, vector, extent)
        for i in folding:
            del self._folding[i]
        self.index.leave_vector()
        self._finish_folds(home)

    def _vector_fixed(self, s: For, vector: VectorAxis, extent: int) -> None:
        whole, rest = extent // vector.lanes * vector.lanes, extent % vector.lanes
        if whole > vector.lanes:
            end = self.const(whole, int64)
            self.loop(s, self.const(0, int64), end, vector.lanes, True, lambda i: self._group(s, vector, i, None))
        elif whole:
            self._group(s, vector, self.const(0, int64), None)
        if rest:
            mask = self.constant_mask(tuple(i < rest for i in range(vector.lanes)))
            self._group(s, vector, self.const(whole, int64), mask)

    def _vector_dynamic(self, s: For, vector: VectorAxis, extent: Value) -> None:
        lanes = vector.lanes
        whole = self.ins(f"and i64 {extent.text}, {-lanes}", 0, extent)
        self.loop(s, self.const(0, int64), whole, lanes, False, lambda i: self._group(s, vector, i, None))
        start = self.ins(f"call i64 @llvm.smax.i64(i64 {whole.text}, i64 0)", 0, whole)
        self.declared["llvm.smax.i64"] = "declare i64 @llvm.smax.i64(i64, i64)"
        some = self.ins(f"icmp slt i64 {start.text}, {extent.text}", 0, start, extent)

        def tail() -> None:
            rest = self.ins(f"sub i64 {extent.text}, {start.text}", 0, extent, start)
            rest = self.splat(self.ins(f"trunc i64 {rest.text} to i32", 0, rest), int32, lanes)
            t = lt.type_text(int32, lanes)
            mask = self.ins(f"icmp ult {t} {lt.lane_numbers(lanes, int32)}, {rest.text}", lanes, rest)
            self._group(s, vector, start, mask)

        self.branch(some, tail, self.analysis.writes(s))

    def _group(self, s: For, vector: VectorAxis, base: Value, mask: Value | None) -> None:
        """The body of a vector loop for `lanes` values of its axis from `base` on."""
        self.push_frame()
        self.bind(s.axis, Value("poison", vector.lanes))
        self.bind(vector.base, base)
        self.mask = mask
        self.statement(s.body)
        self.mask = None
        self.pop_frame()

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
        self.branch(cond, partial(self.statement, s.then), self.analysis.writes(s), other)

    def _if_lanes(self, s: If, cond: Value) -> None:
        """Each side runs with its lanes masked, and is skipped where none is left."""
        outer = self.mask
        for side in (s.then, s.other):
            if side is None:
                continue
            self.mask = self.both(outer, cond if side is s.then else self._inverse(cond))
            if self.mask is None or self.mask.const is True:
                self.mask = outer
                self.statement(side)
            elif self.mask.const is not False:
                body = partial(self.statement, side)
                self.branch(self.any_lane(self.mask), body, self.analysis.writes(side))
            self.mask = outer

    def _inverse(self, mask: Value) -> Value:
        if isinstance(mask.const, tuple):
            return self.constant_mask(tuple(not x for x in mask.const))
        if isinstance(mask.const, bool):
            return self.constant_mask((not mask.const,) * mask.lanes)
        t = lt.type_text(bool_, mask.lanes)
        return self.ins(f"xor {t} {mask.text}, splat (i1 true)", mask.lanes, mask)

    def branch(
        self, cond: Value, body: Callable[[], None], writes: frozenset[Buffer], other: Callable[[], None] | None = None
    ) -> None:
        """`body` where `cond` (a scalar) holds, else `other`."""
        parent = self.scopes[-1]
        sides: list[Scope] = []
        for prefix, emit in (("then", body), ("else", other)):
            if emit is not None:
                sides.append(self.push(self.block(prefix), writes=writes))
                emit()
                self.pop()
                self.forget_all_transposes()
                for buffer in writes:
                    self.touch(buffer)
        leave = self.block("join")
        first = [side.label for side in sides]
        starts = [side.entry for side in sides]
        skip = starts[1] if len(sides) > 1 else leave
        enter = parent.label
        parent.lines.append(f"  br i1 {cond.text}, label %{starts[0]}, label %{skip}")
        for side, start in zip(sides, starts, strict=True):
            parent.lines += [f"{start}:", *side.lines, f"  br label %{leave}"]
        parent.lines.append(f"{leave}:")
        parent.label = leave
        blocks = first if len(sides) > 1 else [first[0], enter]
        changed = dict.fromkeys(slot for side in sides for slot in side.slots)
        for slot in changed:
            if self.lives_outside(slot, self.depth + 1):
                lanes = next(side.slots[slot].lanes for side in sides if slot in side.slots)
                before = self.read_slot(slot, lanes)
                values = [side.slots.get(slot, before) for side in sides]
                if len(sides) == 1:
                    values.append(before)
                parent.slots[slot] = self._merge(slot, list(zip(values, blocks, strict=True)))

    _STATEMENTS: ClassVar = {Seq: _seq, For: _for, If: _if, Alloc: _alloc, Store: _store, Sync: _sync,
                             Prefetch: _prefetch, TileMma: Tiles.tile_mma, Drain: Tiles.drain}



"""Control flow: loops and branches, and the phis of the slots that change in them."""

from __future__ import annotations

from collections.abc import Callable

from dlc.codegen.llvm import types as lt
from dlc.codegen.llvm.builder import Builder, LlvmScope, Value
from dlc.codegen.llvm.environment import Environment
from dlc.codegen.llvm.memory import Memory
from dlc.codegen.llvm.registers import Registers, RegisterSlot
from dlc.ir.loops.ir import Buffer, For

_LOOP = "!llvm.loop !0"
LOOP_METADATA = """!0 = distinct !{!0, !1, !2}
!1 = !{!"llvm.loop.unroll.disable"}
!2 = !{!"llvm.loop.vectorize.enable", i1 false}"""


class Control:
    """Emission of blocks; what is in them is written by the functions that it is given."""

    def __init__(self, b: Builder, env: Environment, registers: Registers, memory: Memory):
        self.b, self.env, self.registers, self.memory = b, env, registers, memory

    def loop(self, s: For, start: Value, end: Value, step: int, certain: bool, body: Callable[[Value], None]) -> None:
        """A counted loop from `start` while below `end`. Not `certain`: it may not run at all."""
        parent, writes = self.b.scopes[-1], self.env.analysis.writes(s)
        self._touch(writes)
        for outer in self.b.scopes:
            outer.inmost = False
        label, leave = self.b.block("loop"), self.b.block("done")
        scope = self._push(label, loop=True, crossable=certain, writes=writes)
        counter = scope.counter = Value(self.b.name(), 0, self.b.depth)
        body(counter)
        self._pop()
        enter, guard = parent.label, f"  br label %{label}"
        if not certain:
            some = self.b.name()
            parent.lines.append(f"  {some} = icmp slt i64 {start.text}, {end.text}")
            guard = f"  br i1 {some}, label %{label}, label %{leave}"
        after, again = self.b.name(), self.b.name()
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

    def _multiples(self, scope: LlvmScope, start: Value, enter: str, step: int) -> tuple[list[str], list[str]]:
        """What a loop does first and last for the multiples of its counter: the innermost one counts in them, too."""
        heads, steps = [], []
        for factor, value in scope.multiples.items():
            if scope.inmost and start.const is not None:
                after = self.b.name()
                first = start.const * factor
                heads.append(f"  {value.text} = phi i64 [ {first}, %{enter} ], [ {after}, %{scope.label} ]")
                steps.append(f"  {after} = add nsw i64 {value.text}, {step * factor}")
            else:
                heads.append(f"  {value.text} = mul i64 {scope.counter.text}, {factor}")
        return heads, steps

    def _phi_lines(self, scope: LlvmScope, enter: str) -> list[str]:
        lines = []
        for slot, (phi, before) in scope.phis.items():
            t, last = lt.type_text(slot.buffer.dtype, phi.lanes), scope.slots[slot]
            lines.append(f"  {phi.text} = phi {t} [ {before.text}, %{enter} ], [ {last.text}, %{scope.label} ]")
        return lines

    def _leave_loop(self, scope: LlvmScope, enter: str, certain: bool) -> None:
        """Slots that the loop changed hold its last values from here on."""
        parent, depth = self.b.scopes[-1], self.b.depth
        for slot, last in scope.slots.items():
            if not self.registers.lives_outside(slot, depth + 1):
                continue
            phi = scope.phis.get(slot)
            if phi is not None and last is phi[0]:  # only looked at
                continue
            if certain:
                parent.slots[slot] = Value(last.text, last.lanes, depth, last.const)
            else:
                before = phi[1] if phi is not None else self.registers.read_slot(slot, last.lanes)
                parent.slots[slot] = self._merge(slot, [(before, enter), (last, scope.label)])

    def _merge(self, slot: RegisterSlot, sources: list[tuple[Value, str]]) -> Value:
        lanes = sources[0][0].lanes
        merged = Value(self.b.name(), lanes, self.b.depth)
        incoming = ", ".join(f"[ {v.text}, %{block} ]" for v, block in sources)
        self.b.scopes[-1].lines.append(f"  {merged.text} = phi {lt.type_text(slot.buffer.dtype, lanes)} {incoming}")
        return merged

    def branch(
        self, cond: Value, body: Callable[[], None], writes: frozenset[Buffer], other: Callable[[], None] | None = None
    ) -> None:
        """`body` where `cond` (a scalar) holds, else `other`."""
        parent = self.b.scopes[-1]
        sides: list[LlvmScope] = []
        for prefix, emit in (("then", body), ("else", other)):
            if emit is not None:
                sides.append(self._push(self.b.block(prefix), writes=writes))
                emit()
                self._pop()
        leave = self.b.block("join")
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
            if self.registers.lives_outside(slot, self.b.depth + 1):
                lanes = next(side.slots[slot].lanes for side in sides if slot in side.slots)
                before = self.registers.read_slot(slot, lanes)
                values = [side.slots.get(slot, before) for side in sides]
                if len(sides) == 1:
                    values.append(before)
                parent.slots[slot] = self._merge(slot, list(zip(values, blocks, strict=True)))

    def _push(self, label: str, *, writes: frozenset[Buffer], loop: bool = False, crossable: bool = False) -> LlvmScope:
        self.env.push_scope()
        return self.b.push(label, loop=loop, crossable=crossable, writes=writes)

    def _pop(self) -> None:
        """The innermost scope ends: what it wrote has changed, and what was transposed in it is out of reach."""
        self.env.pop_scope()
        scope = self.b.pop()
        self.registers.forget_all_transposes()
        self._touch(scope.writes)

    def _touch(self, writes: frozenset[Buffer]) -> None:
        for buffer in writes:
            self.memory.touch(buffer)

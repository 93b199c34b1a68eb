"""What the parts of the emitter share besides the text: facts about the kernel, and what is known at this point of it.

The value of an expression holds as long as the axes in it are bound and the scope that it was written in is open, and
until a buffer that it loads changes. Frames say what ends together: each binding has one, and so has each scope.
"""

from __future__ import annotations

from dlc.codegen.llvm.analysis import Analysis
from dlc.codegen.llvm.builder import Value
from dlc.codegen.llvm.index import IndexMath
from dlc.ir.loops.ir import Buffer, Expr, Kernel


class Environment:
    """The values of axes (`axes`) and of expressions (`memo`), and the active lanes."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.analysis = Analysis(kernel)
        self.index = IndexMath()
        self.mask: Value | None = None  # the active lanes, under a vector axis with a tail or a condition
        self.axes: dict[Expr, Value] = {}
        self.memo: dict = {}  # expression, or (expression, 32) for its low 32 bits -> value
        self._frames: list[list] = [[]]  # what to forget when a binding ends
        self._scope_frame = [0]
        self._axis_frame: dict[Expr, int] = {}
        self._dependent: dict[Buffer, list] = {}  # remembered expressions that load a buffer

    def bind(self, axis: Expr, value: Value) -> None:
        """From here to the end of the current frame `axis` is `value`; `Expressions` makes that of a vector loop."""
        self.axes[axis] = value
        self._axis_frame[axis] = len(self._frames) - 1
        if not value.lanes:
            self.memo[axis] = value
            self._frames[-1].append(axis)

    def push_frame(self) -> None:
        self._frames.append([])

    def pop_frame(self) -> None:
        memo = self.memo
        for key in self._frames.pop():
            memo.pop(key, None)

    def push_scope(self) -> None:
        """The frame of a scope that the builder opens."""
        self.push_frame()
        self._scope_frame.append(len(self._frames) - 1)

    def pop_scope(self) -> None:
        self._scope_frame.pop()
        self.pop_frame()

    def remember(self, e: Expr, value: Value, key: object = None) -> None:
        key = e if key is None else key
        frame = self._scope_frame[value.depth]
        for a in e.axes:
            at = self._axis_frame[a]
            if at > frame:
                frame = at
        self.memo[key] = value
        self._frames[frame].append(key)
        for buffer in self.analysis.changing(e):
            self._dependent.setdefault(buffer, []).append(key)

    def forget(self, buffer: Buffer) -> None:
        """The contents of `buffer` change here."""
        for key in self._dependent.pop(buffer, ()):
            self.memo.pop(key, None)

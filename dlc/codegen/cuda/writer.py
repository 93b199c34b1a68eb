"""The text of one CUDA function under construction: lines in nested blocks, and identifiers."""

from __future__ import annotations

from dlc.codegen.cuda.types import identifier
from dlc.ir.loops.ir import Buffer, Expr

Value = tuple[str, str]  # C text, C type


class Scope:
    """Lines of one C block and the values that it has named."""

    def __init__(self, indent: int):
        self.lines: list[str] = []
        self.values: dict[Expr, Value] = {}
        self.indent = indent


class Writer:
    """Appends lines to the innermost block. `names` has the identifiers of buffers and axes."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = [Scope(1)]
        self.names: dict[Buffer | Expr, str] = {}
        self._taken: set[str] = set()

    def line(self, text: str) -> None:
        scope = self.scopes[-1]
        scope.lines.append("    " * scope.indent + text if text else "")

    def name(self, thing: Buffer | Expr | None, wanted: str) -> str:
        """A fresh identifier like `wanted`; `thing` goes by it from here on."""
        base = name = identifier(wanted)
        count = 0
        while name in self._taken:
            count += 1
            name = f"{base}_{count}"
        self._taken.add(name)
        if thing is not None:
            self.names[thing] = name
        return name

    def open(self, head: str) -> None:
        """Begin a C block `head {`."""
        self._begin(f"{head} {{")

    def block(self) -> None:
        """Begin a C block without a head."""
        self._begin("{")

    def close(self) -> None:
        self._end()
        self.line("}")

    def otherwise(self) -> None:
        """End a block and begin the one of its `else`."""
        self._end()
        self._begin("} else {")

    def _begin(self, line: str) -> None:
        self.line(line)
        self.scopes.append(Scope(self.scopes[-1].indent + 1))

    def _end(self) -> None:
        inner = self.scopes.pop()
        self.scopes[-1].lines += inner.lines

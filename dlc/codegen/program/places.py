"""Where the tensors of a program lie: slots, made as launches ask for them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dlc.codegen.program.donation import Pair
from dlc.ir import dtypes
from dlc.ir.graph.graph import Node
from dlc.ir.program.program import Ref, Slot
from dlc.passes.fuse.fuse import Fused


class Places:
    """The slots of one program. `donated`: outputs that will be written over inputs; `pairs`: outputs and new carries,
    by their slots, with what they may be written over."""

    def __init__(self) -> None:
        self.arena: list[Slot] = []
        self.sizes: dict[int, Ref] = {}
        self.donated: set[Slot] = set()
        self.pairs: dict[Slot, Pair] = {}

    def slot(self, name: str, dtype: Any, size: int) -> Slot:
        """A new slot of the arena."""
        self.arena.append(Slot(name, dtype, size, "arena"))
        return self.arena[-1]

    def size(self, n: int) -> Ref:
        """A run-time size as an argument."""
        if n not in self.sizes:
            self.sizes[n] = Ref(Slot(f"n{n}", dtypes.int64, 1, "const", value=n))
        return self.sizes[n]

    def ref(self, node: Node, refs: dict[Node, Ref]) -> Ref:
        """The place of a tensor; a slot of its own where it has none yet."""
        if node not in refs:
            refs[node] = Ref(self.slot(f"{node.op}{len(self.arena)}", node.dtype, node.type.size))
        return refs[node]

    def args(self, nodes: Iterable[Node | int], refs: dict[Node, Ref]) -> tuple[Ref, ...]:
        """The places of a kernel's tensors and run-time sizes."""
        return tuple(self.size(n) if isinstance(n, int) else self.ref(n, refs) for n in nodes)

    def results(self, node: Node, refs: dict[Node, Ref], fused: Fused) -> list[Ref]:
        """Places for all results of a node, read or not."""
        items = fused.table.items(node)
        return [self.ref(items[k], refs) if k in items else Ref(self.slot("unused", t.dtype, t.size))
                for k, t in enumerate(node.type)]

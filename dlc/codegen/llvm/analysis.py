"""What a kernel reads and writes where, found before emission."""

from __future__ import annotations

from dlc.ir.loops.instructions import StoreTile
from dlc.ir.loops.ir import Buffer, Expr, For, If, Kernel, Stmt, Store, load_parts
from dlc.ir.loops.traverse import children, exprs, inside_out, walk

EMPTY: frozenset[Buffer] = frozenset()
IN_MEMORY = "memory"  # layout of a reg buffer that cannot live in registers


class Analysis:
    """Facts about one kernel's statements.

    `writes(stmt)`, `reads(stmt)`: the buffers stored to and loaded from inside.
    `changing(expr)`: the buffers that an expression loads and that the kernel somewhere stores to.
    `layout[buffer]` of a reg buffer: the dimension that lies along the lanes, None for scalars, or IN_MEMORY.
    """

    def __init__(self, kernel: Kernel):
        self._writes: dict[int, frozenset[Buffer]] = {}
        self._reads: dict[int, frozenset[Buffer]] = {}
        self._loads: dict[Expr, frozenset[Buffer]] = {}
        self._changing: dict[Expr, frozenset[Buffer]] = {}
        self._folds: dict[int, frozenset[int]] = {}
        self.stored = self.writes(kernel.body)
        self.layout = _register_layouts(kernel)

    def writes(self, stmt: Stmt) -> frozenset[Buffer]:
        found = self._writes.get(id(stmt))
        if found is None:
            own = frozenset((stmt.buffer,)) if isinstance(stmt, (Store, StoreTile)) else EMPTY
            found = self._writes[id(stmt)] = own.union(*(self.writes(c) for c in children(stmt)))
        return found

    def reads(self, stmt: Stmt) -> frozenset[Buffer]:
        """Combining stores do not count as reads here."""
        found = self._reads.get(id(stmt))
        if found is None:
            own = EMPTY.union(*(self.loads(e) for e in exprs(stmt)))
            found = self._reads[id(stmt)] = own.union(*(self.reads(c) for c in children(stmt)))
        return found

    def loads(self, expr: Expr) -> frozenset[Buffer]:
        return _buffers_read(expr, self._loads)

    def changing(self, expr: Expr) -> frozenset[Buffer]:
        found = self._changing.get(expr)
        if found is None:
            found = self._changing[expr] = self.loads(expr) & self.stored
        return found

    def folds(self, loop: For) -> frozenset[int]:
        """ids of the combining stores in a vector loop that may collect in a vector until the loop is over.

        Their place must be the same in every group of lanes, nobody may look at it meanwhile, and it must exist even
        where a condition keeps all lanes from storing.
        """
        found = self._folds.get(id(loop))
        if found is None:
            found = self._folds[id(loop)] = self._find_folds(loop)
        return found

    def _find_folds(self, loop: For) -> frozenset[int]:
        inner = {s.axis for s in walk(loop) if isinstance(s, For) and s.kind != "unroll"}
        stores: dict[Buffer, list[Store]] = {}
        for s in walk(loop.body):
            if isinstance(s, Store):
                stores.setdefault(s.buffer, []).append(s)
        read, found = self.reads(loop.body), set()
        conditional = {id(s) for branch in walk(loop.body) if isinstance(branch, If) for s in walk(branch)}
        for buffer, group in stores.items():
            first = group[0].combine
            fixed = all(s.combine is not None and s.combine == first for s in group) and buffer not in read
            if buffer.space == "global":
                fixed = fixed and all(s.predicate is None and id(s) not in conditional for s in group)
            if fixed and all(not (i.axes & inner) and not self.loads(i) for s in group for i in s.index):
                found.update(map(id, group))
        return frozenset(found)


def _buffers_read(expr: Expr, memo: dict[Expr, frozenset[Buffer]]) -> frozenset[Buffer]:
    found = memo.get(expr)
    if found is not None:
        return found
    for e in inside_out(expr, memo):
        own = frozenset((e.attr,)) if e.op == "load" else EMPTY
        parts = [memo[a] for a in e.args if memo[a]]
        memo[e] = own.union(*parts) if parts else own
    return memo[expr]


def _register_layouts(kernel: Kernel) -> dict[Buffer, int | str | None]:
    loops = {s.axis: s for s in walk(kernel.body) if isinstance(s, For)}
    accesses: list[tuple[Buffer, tuple[Expr, ...]]] = []
    loads: list[tuple[Buffer, tuple[Expr, ...]]] = []
    seen: set[Expr] = set()
    for stmt in walk(kernel.body):
        if isinstance(stmt, Store) and stmt.buffer.space == "reg":
            accesses.append((stmt.buffer, stmt.index))
        stack = list(exprs(stmt))
        while stack:
            e = stack.pop()
            if e in seen:
                continue
            seen.add(e)
            stack.extend(e.args)
            if e.op == "load" and e.attr.space == "reg":
                loads.append((e.attr, load_parts(e)[1]))
    layout: dict[Buffer, int | str | None] = {}
    for buffer, index in accesses + loads:  # stores come first: they decide
        along = _lane_dimension(buffer, index, loops)
        if layout.get(buffer) is None or along is IN_MEMORY:
            layout[buffer] = along
    return layout


def _lane_dimension(buffer: Buffer, index: tuple[Expr, ...], loops: dict[Expr, For]) -> int | str | None:
    along: int | str | None = None
    for d, i in enumerate(index):
        kinds = {_binding(loops.get(a)) for a in i.axes}
        if kinds <= {"constant"} and not _loads_anything(i):
            continue
        loop = loops.get(i)
        if loop is None or loop.kind != "vector" or loop.lanes != buffer.shape[d] or along is not None:
            return IN_MEMORY
        if loop.extent.op != "const" or loop.extent.attr > loop.lanes:
            return IN_MEMORY
        along = d
    return along


def _binding(loop: For | None) -> str:
    if loop is None:
        return "unknown"
    one = loop.extent.op == "const" and loop.extent.attr <= 1 and loop.kind not in ("parallel", "vector")
    return "constant" if loop.kind == "unroll" or one else loop.kind


def _loads_anything(expr: Expr) -> bool:
    return expr.op == "load" or any(_loads_anything(a) for a in expr.args)

"""Runs of stores, and vector loops of nothing but stores: one thread's wide accesses and asynchronous copies."""

from __future__ import annotations

from collections.abc import Sequence

from dlc.codegen.cuda.analysis import copied_by, memory_last
from dlc.codegen.cuda.expr import Expressions
from dlc.codegen.cuda.types import ctype
from dlc.codegen.cuda.vector import first, loads, uniform, wide_loads, wide_stores
from dlc.codegen.cuda.writer import Writer
from dlc.ir.loops.ir import Buffer, Expr, For, Seq, Store
from dlc.ir.loops.traverse import exprs


class Stores:
    """Writes stores. `unaligned` are parameters whose addresses are multiples of no more than an element."""

    def __init__(self, writer: Writer, expressions: Expressions, unaligned: frozenset[Buffer]) -> None:
        self.w, self.x = writer, expressions
        self.bare = expressions.bare
        self.unaligned = unaligned
        self.copying = False  # inside an Async

    def run(self, stmts: Sequence[Store]) -> None:
        """Stores one after another, which share what they compute; those under one predicate share a branch."""
        stmts = memory_last(stmts)
        self.x.count(e for s in stmts for e in exprs(s))
        for group in _by_predicate(stmts):
            predicate = group[0].predicate
            if predicate is not None:
                self.w.open(f"if ({self.bare(predicate)})")
            self._read_first(group)
            for s in group:
                self._store(s)
            if predicate is not None:
                self.w.close()

    def _read_first(self, stmts: Sequence[Store]) -> None:
        """Name what several stores load from memory that they do not write, before the first of them: an output may be
        the memory of an input that a later store still reads."""
        if len(stmts) < 2 or not any(s.buffer.space == "global" for s in stmts):
            return
        written = {s.buffer for s in stmts}
        for e in loads(stmts):
            if e.attr.space == "global" and not written & self.x.buffers_read(e):
                self.x.value(e)

    def _store(self, s: Store) -> None:
        type_ = ctype(s.buffer.dtype)
        value = self.bare(s.value, type_)
        place = self.x.place(s.buffer, s.index)
        if s.combine is None:
            self.w.line(f"{place} = {value};")
        elif s.combine == "add" and s.buffer.dtype.is_float and not s.buffer.dtype.is_half:
            self.w.line(f"{place} += {value};")
        else:
            self.w.line(f"{place} = op_{s.combine}::of<{type_}>({place}, {value});")
        self.x.forget((s.buffer,))

    # vector loops

    def splits(self, s: For) -> bool:
        """Is this vector loop `lanes` iterations of nothing but stores?"""
        whole = s.extent.op == "const" and s.extent.attr == s.axis.attr[1] == s.lanes
        return whole and s.lanes > 1 and all(isinstance(x, Store) for x in _body(s))

    def vector(self, s: For, bound: frozenset[Expr]) -> None:
        """`lanes` iterations in one thread, with wide accesses before and after them. `bound` are the axes outside."""
        for group in _by_predicate(memory_last(_body(s))):  # type: ignore[arg-type]
            predicate = group[0].predicate
            guard = None if predicate is None else uniform(predicate, s.axis, s.lanes)
            if guard is not None:
                self.x.count((guard,))
                self.w.open(f"if ({self.bare(guard)})")
            if predicate is None or guard is not None:
                self._wide(s, group, bound)
            else:
                self._lanes(s, group, {}, {}, masked=True)
            if guard is not None:
                self.w.close()

    def _wide(self, s: For, body: Sequence[Store], bound: frozenset[Expr]) -> None:
        """The lanes of stores that all happen."""
        wide = wide_loads(body, s.axis, s.lanes, bound, self.unaligned)
        out = wide_stores(body, s.axis, s.lanes, self.unaligned)
        if self.copying:
            copied = [x for x in out if x.value in wide and copied_by(x, s.lanes)]
            self._copies(s, copied, wide)
            body = [x for x in body if x not in copied]
            if not body:
                return
            wide = {e: w for e, w in wide.items() if any(e is x for x in loads(body))}
            out = [x for x in out if x in body]
        whole = {x: self.w.name(None, f"{self.w.names[x.buffer]}_") for x in out}
        self.x.count([*(i for i, _ in wide.values()), *(g for _, g in wide.values() if g is not None),
                      *(first(x.index[-1], s.axis) for x in out)])
        vectors = {e: self._load(e, index, guard, s.lanes) for e, (index, guard) in wide.items()}
        for x, name in whole.items():
            self.w.line(f"vec<{ctype(x.buffer.dtype)}, {s.lanes}> {name};")
        self._lanes(s, body, vectors, whole, masked=False)
        for x, name in whole.items():
            index = [i if k < len(x.index) - 1 else first(i, s.axis) for k, i in enumerate(x.index)]
            self.w.line(f"store<{s.lanes}>({self.x.address(x.buffer, index)}, {name});")

    def _load(self, e: Expr, index: Expr, guard: Expr | None, lanes: int) -> str:
        """The name of a vector of neighbours from the element at `index` on; where `guard` is off, it is 0."""
        b = e.attr
        name = self.w.name(None, f"{self.w.names[b]}_")
        outer = self.x.subscripts(e.args[: len(b.shape) - 1])
        type_ = f"vec<{ctype(b.dtype)}, {lanes}>"
        if guard is None:
            self.w.line(f"const {type_} {name} = load<{lanes}>({self.w.names[b]}{outer} + {self.bare(index)});")
            return name
        self.w.line(f"{type_} {name} = {{}};")
        condition = self.bare(guard)
        self.w.open(f"if ({condition})")
        self.w.line(f"{name} = load<{lanes}>({self.w.names[b]}{outer} + {self.bare(index)});")
        self.w.close()
        return name

    def _lanes(self, s: For, body: Sequence[Store], vectors: dict[Expr, str], whole: dict[Store, str],
               masked: bool) -> None:
        """The lanes one by one, with what was loaded (`vectors`) and is stored (`whole`) for all of them at once."""
        lane = self.w.names.get(s.axis) or self.w.name(s.axis, s.axis.attr[0])
        self.x.axis_type[s.axis] = "int"
        self.w.line("#pragma unroll")
        self.w.open(f"for (int {lane} = 0; {lane} < {s.lanes}; ++{lane})")
        for e, name in vectors.items():
            self.w.scopes[-1].values[e] = (f"{name}.at[{lane}]", ctype(e.dtype))
        if not masked:
            self.x.count(e for x in body for e in ((*x.index, x.value) if x not in whole else (x.value,)))
        else:
            self.x.count(e for x in body for e in exprs(x))
            self.w.open(f"if ({self.bare(body[0].predicate)})")  # type: ignore[arg-type]
        self._read_first(body)
        for x in body:
            if x in whole:
                self.w.line(f"{whole[x]}.at[{lane}] = {self.bare(x.value, ctype(x.buffer.dtype))};")
            else:
                self._store(x)
        if masked:
            self.w.close()
        self.w.close()

    def _copies(self, s: For, stores: Sequence[Store], wide: dict[Expr, tuple[Expr, Expr | None]]) -> None:
        """Asynchronous copies of 16 bytes."""
        for x in stores:
            index, guard = wide[x.value]
            to = [first(i, s.axis) for i in x.index]
            self.x.count((index, *to, *(() if guard is None else (guard,))))
            source = f"{self.w.names[x.value.attr]} + {self.bare(index)}"
            if guard is None:
                self.w.line(f"copy_async({self.x.address(x.buffer, to)}, {source});")
                continue
            valid = self.w.name(None, "valid")
            self.w.line(f"const bool {valid} = {self.bare(guard)};")
            source = f"{valid} ? {source} : {self.w.names[x.value.attr]}"
            self.w.line(f"copy_async({self.x.address(x.buffer, to)}, {source}, {valid});")


def _body(s: For) -> Sequence[Store]:
    return s.body.body if isinstance(s.body, Seq) else (s.body,)  # type: ignore[return-value]


def _by_predicate(stmts: Sequence[Store]) -> list[list[Store]]:
    """Neighbours that have the same predicate."""
    groups: list[list[Store]] = []
    for s in stmts:
        if groups and groups[-1][0].predicate is s.predicate:
            groups[-1].append(s)
        else:
            groups.append([s])
    return groups

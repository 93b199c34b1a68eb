"""What the CUDA emitter knows of a kernel before it prints: stores that are copies, long tiles, last writes."""

from __future__ import annotations

from collections.abc import Sequence

from dlc.codegen.cuda.launch import LONG
from dlc.codegen.cuda.vector import loads
from dlc.ir.loops.instructions import Mma, Wait
from dlc.ir.loops.ir import Buffer, For, Stmt, Store
from dlc.ir.loops.traverse import children, walk


def long_tiles(stmt: Stmt) -> bool:
    """Is this a long body around matrix instructions whose operands are made in it or come from shared memory?

    Bodies with operands that stay in registers (attention's queries, if they are not `shared`) are left to the
    compiler: kept as loops, they gave wrong results on an H100 with NVRTC 13.0, where the same text without the pragma
    was right.
    """
    statements = list(walk(stmt))
    products = [x for x in statements if isinstance(x, Mma)]
    made = {x.buffer for x in statements if isinstance(x, Store)}
    if not products or any(x.a_order == "sums" and x.a.attr not in made for x in products):
        return False
    return copies_of_stores(stmt) >= LONG


def writes_only(stmt: Stmt) -> bool:
    """Is this the body of a loop over results of matrix instructions? Written out, it reads too much ahead."""
    inner = list(walk(stmt))
    return any(isinstance(x, Store) for x in inner) and not any(isinstance(x, Mma) for x in inner)


def copies_of_stores(stmt: Stmt) -> int:
    """How many stores to registers are written out in a statement."""
    if isinstance(stmt, Store):
        return int(stmt.buffer.space == "reg")
    inner = sum(map(copies_of_stores, children(stmt)))
    written_out = isinstance(stmt, For) and stmt.kind in ("unroll", "vector") and stmt.extent.op == "const"
    return inner * int(stmt.extent.attr) if written_out else inner


def unfinished(stmt: Stmt) -> dict[Buffer, None]:
    """The sums of Mmas that no Wait follows."""
    out: dict[Buffer, None] = {}
    for s in walk(stmt):
        if isinstance(s, Wait) and s.what == "mma" and not s.pending:
            out = {}
        elif isinstance(s, Mma):
            out[s.buffer] = None
    return out


def memory_last(stmts: Sequence[Store]) -> Sequence[Store]:
    """The same stores with those to global memory at the end, where the order does not matter.

    Stores under different predicates are written out one group after another, each with its loads: what is computed
    in registers then reads a donated input before it is overwritten.
    """
    out = [s for s in stmts if s.buffer.space == "global"]
    rest = [s for s in stmts if s.buffer.space != "global"]
    if not out or not rest:
        return stmts
    written = {s.buffer for s in out}
    if any(e.attr in written for e in loads(rest)):
        return stmts
    for s in out:
        later = {x.buffer for x in stmts[stmts.index(s) :] if x.buffer.space != "global"}
        if any(e.attr in later for e in loads([s])):
            return stmts
    return [*rest, *out]


def copied_by(x: Store, lanes: int) -> bool:
    """Is this store of `lanes` elements 16 bytes from global to shared memory?"""
    b = x.buffer
    return b.space == "shared" and x.value.attr.space == "global" and b.dtype.itemsize * lanes == 16

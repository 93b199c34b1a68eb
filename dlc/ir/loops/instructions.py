"""Statements of the Loop IR that stand for instructions: matrix units, asynchronous copies, barriers."""

from __future__ import annotations

from dataclasses import dataclass

from dlc.ir.loops.ir import Buffer, Expr, Stmt


@dataclass(frozen=True, eq=False)
class Mma(Stmt):
    buffer: Buffer
    index: tuple[Expr, ...]
    a: Expr
    b: Expr
    m: int
    n: int
    k: int
    a_order: str
    b_order: str
    lanes: int
    fresh: bool = False


@dataclass(frozen=True, eq=False)
class TileMma(Stmt):
    buffer: Buffer
    index: tuple[Expr, ...]
    a: Expr
    b: Expr
    k: int
    a_stride: int
    b_stride: int


@dataclass(frozen=True, eq=False)
class StoreTile(Stmt):
    buffer: Buffer
    index: tuple[Expr, ...]
    source: Buffer
    at: tuple[Expr, ...]


@dataclass(frozen=True, eq=False)
class Async(Stmt):
    body: Stmt


@dataclass(frozen=True, eq=False)
class SetMaxNReg(Stmt):
    count: int


@dataclass(frozen=True, eq=False)
class Wait(Stmt):
    what: str
    pending: int


@dataclass(frozen=True, eq=False)
class Arrive(Stmt):
    gate: Buffer
    slot: Expr
    of: int


@dataclass(frozen=True, eq=False)
class Await(Stmt):
    gate: Buffer
    slot: Expr
    phases: Expr


@dataclass(frozen=True)
class View:
    """A tensor in global memory, from element `start` on, with strides in elements, and a box that is copied of it."""

    start: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class TmaCopy(Stmt):
    buffer: Buffer
    index: tuple[Expr, ...]
    source: Buffer
    view: View
    at: tuple[Expr, ...]
    gate: Buffer
    slot: Expr

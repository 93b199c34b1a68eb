"""Masks: vectors of i1 that say which lanes are active. None stands for all lanes.

A mask that is known now has the lanes as its constant: a tuple of bools, or one bool where all lanes agree, so that
selects and branches fold (`Builder.constant_mask`).
"""

from __future__ import annotations

from dlc.codegen.llvm import types as lt
from dlc.codegen.llvm.builder import Builder, Value
from dlc.ir.dtypes import bool_


def both(b: Builder, x: Value | None, y: Value | None) -> Value | None:
    """The lanes where both masks (or conditions) hold."""
    if x is None or x.const is True:
        return y
    if y is None or y.const is True:
        return x
    if x.const is False or y.const is False:
        return x if x.const is False else y
    lanes = max(x.lanes, y.lanes)
    if isinstance(x.const, tuple) and isinstance(y.const, tuple):
        return b.constant_mask(tuple(p and q for p, q in zip(x.const, y.const, strict=True)))
    x, y = b.splat(x, bool_, lanes), b.splat(y, bool_, lanes)
    return b.ins(f"and {lt.type_text(bool_, lanes)} {x.text}, {y.text}", lanes, x, y)


def inverse(b: Builder, mask: Value) -> Value:
    """The lanes where the mask does not hold."""
    if isinstance(mask.const, tuple):
        return b.constant_mask(tuple(not x for x in mask.const))
    if isinstance(mask.const, bool):
        return b.constant_mask((not mask.const,) * mask.lanes)
    t = lt.type_text(bool_, mask.lanes)
    return b.ins(f"xor {t} {mask.text}, splat (i1 true)", mask.lanes, mask)


def turned(b: Builder, mask: Value, order: tuple[int, ...]) -> Value:
    """The lanes of a mask in another order, which may repeat some."""
    if isinstance(mask.const, tuple):
        return b.constant_mask(tuple(mask.const[i] for i in order))
    return b.shuffle(mask, None, order, bool_)

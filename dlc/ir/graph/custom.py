"""The operation `call`: a kernel of the user's, given by its Loop IR text.

    call(inputs...)  kernel="kernel name(x: f32[12], out: f32[12] writes) ..."  dtypes=[f32]  shapes=[[3,4]]

The kernel's parameters are the inputs and then the results, which it writes; all are flat. What it does not write of a
result is undefined. Derivatives are graphs, closed and traced once for each signature:

    vjp     (inputs, results, cotangents of the float results) -> gradients of the float inputs
    jvp     (inputs, results, tangents of the float inputs) -> tangents of the float results

`batching`, not part of the text, is an object whose `batch(inputs, batched, size)` gives the results for a batch.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dlc.base.errors import DTypeError, ShapeError
from dlc.ir.graph.graph import Graph, Node, TensorType
from dlc.ir.loops.guard import guard
from dlc.ir.loops.ir import Alloc, Expr, For, Kernel, Stmt
from dlc.ir.loops.parse import parse_kernel
from dlc.ir.loops.text import print_kernel
from dlc.ir.loops.traverse import children, exprs, replace_buffers, subexpressions, walk
from dlc.ir.scalar import SCALAR_OPS


def canonical(kernel: Kernel) -> str:
    """The text that stands for a kernel in a graph: made safe, without what is only for people."""
    kernel = guard(kernel)
    plain = {b: replace(b, note="") for b in kernel.params}
    plain |= {s.buffer: replace(s.buffer, note="") for s in walk(kernel.body) if isinstance(s, Alloc)}
    return print_kernel(replace_buffers(kernel, plain, schedule=None, locs=(), flops=0, bytes=0))


@functools.lru_cache(maxsize=256)
def kernel_of(text: str) -> Kernel:
    """The kernel that a graph's text stands for. Raises ParseError or VerifyError."""
    kernel = guard(parse_kernel(text))
    return replace(kernel, flops=flops(kernel.body), bytes=sum(b.nbytes for b in kernel.params),
                   custom=True)


def flops(stmt: Stmt) -> int:
    """An estimate of the scalar operations that a statement executes; conditions count as true."""
    seen: set[Expr] = set()
    own = 0
    for e in exprs(stmt):
        for x in subexpressions(e):
            if x not in seen and x.op in SCALAR_OPS and x.dtype.is_float:
                own += SCALAR_OPS[x.op].cost
            seen.add(x)
    inner = sum(map(flops, children(stmt)))
    if not isinstance(stmt, For):
        return own + inner
    times = stmt.extent.attr if stmt.extent.op == "const" else stmt.axis.attr[1]
    return own + times * max(inner, 1)


def infer(ins: tuple[TensorType, ...], attrs: dict[str, Any]) -> tuple[TensorType, ...]:
    """The types of the results, which have to be what the kernel takes and writes."""
    outs = tuple(TensorType(d, s) for d, s in zip(attrs["dtypes"], attrs["shapes"], strict=True))
    check_types(kernel_of(attrs["kernel"]), ins, outs)
    return outs


def check_types(kernel: Kernel, ins: Sequence[TensorType], outs: Sequence[TensorType]) -> None:
    """Raises ShapeError or DTypeError unless the kernel's parameters are these inputs and results."""
    if len(kernel.params) != len(ins) + len(outs):
        names = ", ".join(b.name for b in kernel.params)
        raise ShapeError(f"custom kernel {kernel.name} has {len(kernel.params)} parameters ({names}) for {len(ins)} "
                         f"inputs and {len(outs)} results")
    for k, (b, t) in enumerate(zip(kernel.params, (*ins, *outs), strict=True)):
        what = f"input {k}" if k < len(ins) else f"result {k - len(ins)}"
        if (b in kernel.writes) != (k >= len(ins)):
            how = "inputs are only read" if k < len(ins) else "not marked `writes`"
            raise ShapeError(f"custom kernel {kernel.name}: parameter {b.name} is {what}, and {how}")
        if b.dtype is not t.dtype:
            raise DTypeError(f"custom kernel {kernel.name}: {what} is {t}, its parameter {b.name} {b.dtype.short}")
        if b.size != t.size:
            raise ShapeError(f"custom kernel {kernel.name}: {what} is {t} of {t.size} elements, its parameter "
                             f"{b.name} has {b.size}")


def evaluate(node: Node, ins: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """The results, from the Loop IR interpreter; what the kernel does not write is NaN, or all bits set."""
    from dlc.ir.loops.interp import interp as loops_interp

    flat = [np.ascontiguousarray(x, t.dtype.np).reshape(-1) for x, t in zip(ins, (i.type for i in node.inputs),
                                                                            strict=True)]
    outs = [np.full(t.nbytes, 0xFF, np.uint8).view(t.dtype.np) for t in node.type]
    loops_interp.run(kernel_of(node.attrs["kernel"]), [*flat, *outs])
    return tuple(o.reshape(t.shape) for o, t in zip(outs, node.type, strict=True))


def rule_type(node: Node, name: str) -> tuple[list[TensorType], list[TensorType]]:
    """The parameters and outputs that the graph of a derivative must have."""
    ins, outs = [i.type for i in node.inputs], list(node.type)
    float_ins, float_outs = ([t for t in ts if t.dtype.is_float] for ts in (ins, outs))
    if name == "vjp":
        return [*ins, *outs, *float_outs], float_ins
    return [*ins, *outs, *float_ins], float_outs


def check_rule(node: Node, name: str, rule: Graph) -> str:
    """What is wrong with the graph of a derivative, or ''."""
    params, outputs = rule_type(node, name)
    got = [p.type for p in rule.params], [o.type for o in rule.outputs]
    if got == (params, outputs):
        return ""
    want = f"({', '.join(map(str, params))}) -> ({', '.join(map(str, outputs))})"
    return f"the {name} of a call is {want}, got ({', '.join(map(str, got[0]))}) -> ({', '.join(map(str, got[1]))})"


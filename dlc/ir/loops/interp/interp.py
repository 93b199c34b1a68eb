"""The Loop IR's meaning, executed: `run(kernel, arrays)`. Operations are in `ir/loops/interp/values.py`, threads in
`ir/loops/interp/threads.py`, matrix instructions in `ir/loops/interp/matrix.py`, programs in `ir/program/interp.py`.

`run` is the oracle for schedules and emitters. It turns a kernel once into a Python function, one line an operation,
and runs that: integers are Python ints wrapped to their type, floats NumPy scalars of their type (so halves round
after every operation; `fma` rounds once). Loops run iteration by iteration; parallel and grid loops in an order
shuffled by `seed`, so that a kernel which depends on the order is found by two seeds. An index outside its dimension,
a read of reg or shared memory that nothing was written to, and a statement that is not known raise InterpError.

What a loop's body has loaded from a global buffer is kept until it stores to that buffer, as emitters do: where two
parameters are the same memory, an element may be used again after it was written over.

Conditions are what they say: where an If or a predicate is false, nothing inside it is evaluated.
"""

from __future__ import annotations

import math
import random
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dlc.base.errors import InterpError
from dlc.ir import dtypes
from dlc.ir.dtypes import DType
from dlc.ir.loops.instructions import Arrive, Async, Await, Mma, SetMaxNReg, StoreTile, TileMma, TmaCopy, Wait
from dlc.ir.loops.interp.matrix import drain, multiply_tiles
from dlc.ir.loops.interp.threads import Gate, apart, in_step
from dlc.ir.loops.interp.values import bits, dot2, exp2, fused, paired, to_int
from dlc.ir.loops.interval import interval, wraps
from dlc.ir.loops.ir import (
    PAIRS,
    RUNTIME,
    Alloc,
    AllReduce,
    Buffer,
    Expr,
    For,
    If,
    Kernel,
    Prefetch,
    Seq,
    Stmt,
    Store,
    Sync,
    load_parts,
)
from dlc.ir.loops.text import print_stmt
from dlc.ir.loops.traverse import loads_of, walk
from dlc.ir.quadrants import PARTS, pio2
from dlc.ir.scalar import SCALAR_OPS


def run(kernel: Kernel, arrays: Sequence[np.ndarray], seed: int = 0) -> None:
    """Run a kernel on flat arrays, one a parameter, of the parameter's dtype and size; results are written in place.

    Arrays may share memory, as the buffers of an in-place kernel do. Raises InterpError.
    """
    if len(arrays) != len(kernel.params):
        raise InterpError(f"kernel {kernel.name} has {len(kernel.params)} parameters, got {len(arrays)} arrays")
    for b, a in zip(kernel.params, arrays, strict=True):
        if a.dtype != b.dtype.np or (b.size != RUNTIME and a.shape != (b.size,)):
            got = f"{a.dtype}{list(a.shape)}"
            raise InterpError(f"kernel {kernel.name}: {b.name} is {b.dtype.name}[{b.size}], got {got}")
    with np.errstate(all="ignore"):
        compile_kernel(kernel)(list(arrays), random.Random(seed))


def compile_kernel(kernel: Kernel) -> Callable:
    """A Python function (arrays, random) -> None that runs the kernel; kept as long as the kernel lives."""
    if kernel not in _compiled:
        _compiled[kernel] = _Compiler(kernel).function()
    return _compiled[kernel]


_compiled: weakref.WeakKeyDictionary[Kernel, Callable] = weakref.WeakKeyDictionary()

_TOGETHER = (Sync, AllReduce, Mma, Await)
_NO_MEANING = (Prefetch, Wait, SetMaxNReg)  # copies and products take place where they stand
_LOOPS = ("serial", "unroll", "vector", "parallel", "grid", "lane")
_INFIX = {"add": "+", "sub": "-", "mul": "*"}
_COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "and": "&", "or": "|", "xor": "^"}
_BOOL = {"not": "not {0}", "max": "{0} or {1}", "min": "{0} and {1}"}
_INT = {
    "add": "{0} + {1}", "sub": "{0} - {1}", "mul": "{0} * {1}", "neg": "-{0}", "abs": "abs({0})",
    "sign": "({0} > 0) - ({0} < 0)", "not": "~{0}", "max": "max({0}, {1})", "min": "min({0}, {1})",
    "floordiv": "{0} // {1} if {1} else 0", "mod": "{0} % {1} if {1} else 0",
    "shl": "{0} << {1} if 0 <= {1} < {bits} else 0", "shr": "{0} >> ({1} if 0 <= {1} < {bits} else {bits})",
}
_MAY_WRAP = {"add", "sub", "mul", "neg", "abs", "not", "floordiv", "shl"}


class _Compiler:
    """Writes the Python function of one kernel. `self.globals` is what the text refers to."""

    def __init__(self, kernel: Kernel):
        self.kernel = kernel
        self.lines: list[str] = []
        self.globals: dict[str, Any] = {"fail": _fail, "bits": bits, "to_int": to_int}
        self.names: dict[Any, str] = {}
        self.depth = 1
        self.inside_threads = False
        self.kept: dict[Expr, str] = {}  # names of what the enclosing loop's body has loaded from global buffers

    def function(self):
        self.line("(" + "".join(f"{self.name(b, 'g')}, " for b in self.kernel.params) + ") = arrays")
        self.statement(self.kernel.body)
        text = "def kernel(arrays, order):\n" + "\n".join(self.lines) + "\n"
        exec(compile(text, f"<interp {self.kernel.name}>", "exec"), self.globals)  # noqa: S102  our own text, from typed IR
        return self.globals["kernel"]

    def line(self, text: str) -> None:
        self.lines.append("  " * self.depth + text)

    def name(self, thing: Any, letter: str) -> str:
        return self.names.setdefault(thing, f"{letter}{len(self.names)}")

    def given(self, value: Any) -> str:
        """A name for a Python object that the text uses."""
        name = f"k{len(self.globals)}"
        self.globals[name] = value
        return name

    def indented(self, stmt: Stmt, same_nest: bool = False) -> None:
        """A statement as a block of lines: a branch knows what its nest has loaded, a loop does not."""
        kept, self.kept = self.kept, dict(self.kept) if same_nest else {}
        self.depth += 1
        self.statement(stmt)
        self.line("pass")
        self.depth -= 1
        written = {s.buffer for s in walk(stmt) if isinstance(s, Store)}
        self.kept = {e: name for e, name in kept.items() if e.attr not in written}

    def statement(self, stmt: Stmt) -> None:
        if isinstance(stmt, _TOGETHER):
            self.kept = {}  # other threads may have written since
        if isinstance(stmt, Seq):
            for s in stmt.body:
                self.statement(s)
        elif isinstance(stmt, Alloc):
            b = stmt.buffer
            value = f"[{self.given(Gate)}() for _ in range({b.size})]" if b.space == "gate" else f"[None] * {b.size}"
            if b.space == "tile":
                value = f"[{self.literal(0, b.dtype)}] * {b.size}"
            self.line(f"{self.name(b, 'm')} = {value}")
        elif isinstance(stmt, For):
            if stmt.kind not in _LOOPS:
                raise InterpError(f"kernel {self.kernel.name}: a loop of kind {stmt.kind!r} has no meaning here")
            extent = self.value(stmt.extent, {}, stmt)
            if stmt.extent.op != "const":
                self.line(f"if {extent} > {stmt.axis.attr[1]}: fail({self.given(stmt)}, 'extent', {extent})")
            if stmt.kind == "lane" and any(isinstance(s, _TOGETHER) for s in walk(stmt.body)):
                self.threads(stmt, extent)
                return
            loop = f"range({extent})"
            if stmt.kind in ("parallel", "grid", "lane"):
                loop = f"order.sample({loop}, len({loop}))"
            self.line(f"for {self.name(stmt.axis, 'a')} in {loop}:")
            self.indented(stmt.body)
        elif isinstance(stmt, If):
            self.line(f"if {self.value(stmt.cond, {}, stmt)}:")
            self.indented(stmt.then, True)
            if stmt.other is not None:
                self.line("else:")
                self.indented(stmt.other, True)
        elif isinstance(stmt, Store):
            self.store(stmt)
        elif isinstance(stmt, Sync):
            if self.inside_threads:  # lane loops that follow each other are in step anyway
                self.line(f"yield {self.given(stmt)}, None")
        elif isinstance(stmt, AllReduce):
            memo: dict[Expr, str] = {}
            place = self.place(stmt.buffer, stmt.index, memo, stmt)
            self.line(f"{place} = yield {self.given(stmt)}, {self.value(stmt.value, memo, stmt)}")
        elif isinstance(stmt, Async):
            self.statement(stmt.body)
        elif isinstance(stmt, (Arrive, Await, TmaCopy)):
            memo = {}
            gate = self.place(stmt.gate, (stmt.slot,), memo, stmt)
            if isinstance(stmt, Arrive):
                self.line(f"{gate}.arrive({stmt.of})")
            elif isinstance(stmt, Await):
                self.line(f"yield {self.given(stmt)}, ({gate}, {self.value(stmt.phases, memo, stmt)})")
            else:
                to = self.address(stmt.buffer, stmt.index, memo, stmt)
                at = "".join(f"{self.value(e, memo, stmt)}, " for e in stmt.at)
                self.line(f"{gate}.bulk({self.given(stmt)}, {to}, {self.names[stmt.source]}, ({at}))")
        elif isinstance(stmt, (Mma, TileMma, StoreTile)):
            memo = {}
            draining = isinstance(stmt, StoreTile)
            read = [(stmt.source, stmt.at)] if draining else [load_parts(e)[:2] for e in (stmt.a, stmt.b)]
            places = [self.address(b, i, memo, stmt) for b, i in ((stmt.buffer, stmt.index), *read)]
            if isinstance(stmt, Mma):
                self.line(f"yield {self.given(stmt)}, ({', '.join(places)})")
            else:
                function = self.given(drain if draining else multiply_tiles)
                self.line(f"{function}({self.given(stmt)}, {', '.join(places)})")
        elif not isinstance(stmt, _NO_MEANING):
            raise InterpError(f"kernel {self.kernel.name}: a {type(stmt).__name__} has no meaning here")

    def threads(self, stmt: For, extent: str) -> None:
        """A lane loop whose threads wait for each other."""
        body = self.name(object(), "threads")
        self.line(f"def {body}({self.name(stmt.axis, 'a')}):")
        self.inside_threads = True
        self.indented(stmt.body)
        self.inside_threads = False
        self.line(f"  yield {self.given(None)}, None")
        combine = {s: self.combiner(s) for s in walk(stmt.body) if isinstance(s, AllReduce)}
        gates = any(isinstance(s, Await) or (isinstance(s, Sync) and s.threads) for s in walk(stmt.body))
        together = self.given(apart if gates else in_step)
        self.line(f"{together}([{body}(i) for i in range({extent})], order, {self.given(combine)})")

    def combiner(self, fold: AllReduce) -> Callable[[Any, Any], Any]:
        """An AllReduce's combination as a function of two values."""
        part = _Compiler(self.kernel)
        result = part.apply(fold.combine, fold.buffer.dtype, ["a", "b"])
        lines = ["def combine(a, b):", *part.lines, f"  return {result}"]
        exec("\n".join(lines), part.globals)  # noqa: S102  our own text
        return part.globals["combine"]

    def store(self, stmt: Store) -> None:
        memo: dict[Expr, str] = dict(self.kept)
        if stmt.predicate is not None:
            self.line(f"if {self.value(stmt.predicate, memo, stmt)}:")
            self.depth += 1
        place = self.place(stmt.buffer, stmt.index, memo, stmt)
        value = self.value(stmt.value, memo, stmt)
        if stmt.combine is not None:
            old = self.read(stmt.buffer, place, stmt)
            value = self.apply(stmt.combine, stmt.buffer.dtype, [old, value])
        self.line(f"{place} = {value}")
        if stmt.predicate is not None:
            self.depth -= 1
        else:
            self.kept |= {e: t for e, t in memo.items() if e.op == "load" and e.attr.space == "global"}
        self.kept = {e: t for e, t in self.kept.items() if e.attr is not stmt.buffer}

    def place(self, b: Buffer, index: Sequence[Expr], memo: dict[Expr, str], stmt: Stmt) -> str:
        """Text of the element, after lines that check the indices."""
        terms = []
        for d, (e, n) in enumerate(zip(index, b.shape, strict=True)):
            i = self.value(e, memo, stmt)
            low, high = interval(e)
            if loads_of(e) or not 0 <= low <= high < n:  # no analysis is trusted with what depends on data
                self.line(f"if not 0 <= {i} < {n}: fail({self.given(stmt)}, {self.given(b)}, {i})")
            stride = math.prod(b.shape[d + 1 :])
            terms.append(i if stride == 1 else f"{i} * {stride}")
        return f"{self.name(b, 'g')}[{' + '.join(terms) or '0'}]"

    def address(self, b: Buffer, index: Sequence[Expr], memo: dict[Expr, str], stmt: Stmt) -> str:
        """Text of two arguments: the memory and the place in it."""
        name, _, offset = self.place(b, index, memo, stmt).partition("[")
        return f"{name}, {offset[:-1]}"

    def read(self, b: Buffer, place: str, stmt: Stmt) -> str:
        t = self.temporary()
        if b.space == "global":
            self.line(f"{t} = {place}" if b.dtype.is_float else f"{t} = {place}.item()")
        else:
            self.line(f"{t} = {place}")
            self.line(f"if {t} is None: fail({self.given(stmt)}, {self.given(b)}, None)")
        return t

    def temporary(self) -> str:
        return self.name(object(), "t")

    def value(self, root: Expr, memo: dict[Expr, str], stmt: Stmt) -> str:
        """A name or literal for an expression, after the lines that compute it."""
        stack = [root]
        while stack:
            e = stack[-1]
            if e in memo:
                stack.pop()
                continue
            if e.op == "load":
                stack.pop()
                memo[e] = self.load(e, memo, stmt)
                continue
            missing = [a for a in e.args if a not in memo]
            if missing:
                stack.extend(missing)
                continue
            stack.pop()
            memo[e] = self.single(e, [memo[a] for a in e.args])
        return memo[root]

    def load(self, e: Expr, memo: dict[Expr, str], stmt: Stmt) -> str:
        buffer, index, predicate = load_parts(e)
        if predicate is None:
            return self.read(buffer, self.place(buffer, index, memo, stmt), stmt)
        t = self.temporary()
        self.line(f"{t} = {self.literal(0, buffer.dtype)}")
        self.line(f"if {self.value(predicate, memo, stmt)}:")
        self.depth += 1
        self.line(f"{t} = {self.read(buffer, self.place(buffer, index, dict(memo), stmt), stmt)}")
        self.depth -= 1
        return t

    def literal(self, value: Any, dtype: DType) -> str:
        if dtype.is_float:
            return self.given(dtype.np.type(value))
        return repr(bool(value) if dtype.is_bool else int(value))

    def single(self, e: Expr, args: list[str]) -> str:
        if e.op == "const":
            return self.literal(e.attr, e.dtype)
        if e.op == "axis":
            return self.names[e]
        if e.op == "select":
            return self.assign(f"{args[1]} if {args[0]} else {args[2]}")
        if e.op == "cast":
            return self.cast(args[0], e.args[0].dtype, e.dtype)
        if e.op == "bitcast":
            of, to = self.given(e.args[0].dtype.np), self.given(e.dtype)
            return self.assign(f"bits({args[0]}, {of}, {to})")
        if e.op == "exp2":
            return self.assign(f"{self.given(exp2)}({args[0]})")
        if e.op == "fma":
            return self.assign(f"{self.given(fused)}({', '.join(args)})[()]")
        if e.op in PARTS:
            return self.assign(f"{self.given(pio2)}({e.op!r}, {', '.join(args)})")
        if e.op in PAIRS:
            return self.assign(f"int({self.given(paired)}({', '.join(args)}))" if e.op == "pair"
                               else f"{self.given(dot2)}({', '.join(args)})[()]")
        return self.apply(e.op, e.args[0].dtype, args, wraps=not e.dtype.is_float and wraps(e))

    def assign(self, text: str) -> str:
        t = self.temporary()
        self.line(f"{t} = {text}")
        return t

    def apply(self, name: str, dtype: DType, args: list[str], wraps: bool = True) -> str:
        if name in _COMPARE:
            text = f"{args[0]} {_COMPARE[name]} {args[1]}"
        elif dtype.is_bool:
            text = _BOOL[name].format(*args)
        elif dtype.is_float:
            if name in _INFIX:
                text = f"{args[0]} {_INFIX[name]} {args[1]}"
            else:  # may give a zero-dimensional array, or a wider type than the halves that it is given
                text = f"{self.given(dtype.np.type)}({self.given(SCALAR_OPS[name].numpy)}({', '.join(args)}))"
        elif name == "threefry":
            text = f"int({self.given(SCALAR_OPS[name].numpy)}({', '.join(args)}))"
        else:
            text = _INT[name].format(*args, bits=dtype.bits)
            if wraps and name in _MAY_WRAP:
                return self.wrap(self.assign(text), dtype)
        return self.assign(text)

    def wrap(self, name: str, dtype: DType) -> str:
        low, high = dtypes.limits(dtype)
        self.line(f"if not {low} <= {name} <= {high}: {name} = ({name} - {low}) % {1 << dtype.bits} + {low}")
        return name

    def cast(self, x: str, source: DType, target: DType) -> str:
        if target.is_bool:
            return self.assign(f"bool({x} != 0)")
        if target.is_float:
            # astype, because a constructor rounds a large Python int twice, and bfloat16's takes none
            exact = x if source.is_float or source.is_bool else f"{self.given(source.np.type)}({x})"
            return self.assign(f"{self.given(target.np.type)}({x})" if exact is x
                               else f"{exact}.astype({self.given(target.np)})")
        if source.is_float:
            return self.assign(f"to_int({x}, {self.given(target)})")
        whole = self.assign(f"int({x})")
        low, high = dtypes.limits(target)
        inside = not source.is_bool and (low <= dtypes.limits(source)[0] and dtypes.limits(source)[1] <= high)
        return whole if inside or source.is_bool else self.wrap(whole, target)


def _fail(stmt: Stmt, what: Buffer | str, index: int | None) -> None:
    text = print_stmt(stmt).split("\n", 1)[0].strip()
    if what == "extent":
        raise InterpError(f"an extent of {index} exceeds the axis' own\n    {text}")
    if index is None:
        raise InterpError(f"read of {what.space} buffer {what.name} where nothing was written\n    {text}")
    raise InterpError(f"index {index} outside {what.name} of shape {list(what.shape)}\n    {text}")

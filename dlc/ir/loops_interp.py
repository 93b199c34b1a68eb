"""The Loop IR's meaning, executed: `run(kernel, arrays)`, `run_program(program, arrays)`, `evaluate_expr(expr, env)`.

`run` is the oracle for schedules and emitters. It turns a kernel once into a Python function, one line an operation,
and runs that: integers are Python ints wrapped to their type, floats NumPy scalars of their type (so halves round
after every operation; `fma` rounds once). Loops run iteration by iteration; parallel and grid loops in an order
shuffled by `seed`, so that a kernel which depends on the order is found by two seeds. An index outside its dimension,
and a read of reg or shared memory that nothing was written to raise InterpError.

The threads of a block (a lane loop) are Python generators that run, in a shuffled order, from one Sync or Fold to the
next; that they do not all meet at the same one raises InterpError. Where some wait at gates, each goes as far as
it can.

Conditions are what they say: where an If or a predicate is false, nothing inside it is evaluated.
"""

from __future__ import annotations

import functools
import itertools
import math
import random
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_dtypes  # noqa: F401  registers bfloat16 with NumPy
import numpy as np

from dlc.ir import dtypes
from dlc.ir.dtypes import DType, convert
from dlc.ir.errors import DlcError
from dlc.ir.loops import (
    PAIRS,
    RUNTIME,
    Alloc,
    Arrive,
    Async,
    Await,
    Buffer,
    Bulk,
    Drain,
    Expr,
    Fold,
    For,
    If,
    Kernel,
    Mma,
    Seq,
    Stmt,
    Store,
    Sync,
    TileMma,
    inside_out,
    load_parts,
    walk,
)
from dlc.ir.loops_text import print_expr, print_stmt
from dlc.ir.loops_verify import interval
from dlc.ir.program import Launch, Program, Ref, Repeat, Slot
from dlc.ir.scalar import SCALAR_OPS


class InterpError(DlcError):
    """A kernel that did what no kernel may: an access outside a buffer, or a read of what was never written."""


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


def run_program(program: Program, arrays: Sequence[np.ndarray], seed: int = 0) -> list[np.ndarray]:
    """Run every step on copies of the inputs and return the outputs. The arena starts as NaN (integers: -1).

    Raises InterpError, also for a Ref that reaches outside its slot.
    """
    arena = np.full(program.arena_bytes, 0xFF, np.uint8)
    memory: dict[Slot, np.ndarray] = {}

    def place(slot: Slot) -> np.ndarray:
        if slot not in memory:
            if slot.alias is not None:
                memory[slot] = place(slot.alias)
            elif slot.private is not None:
                room = slot.private.nbytes
                if slot.offset < 0 or slot.offset + slot.nbytes > room:
                    raise InterpError(f"slot {slot.name} lies outside the workspace of {room} bytes")
                memory[slot] = place(slot.private).view(np.uint8)[slot.offset :][: slot.nbytes].view(slot.dtype.np)
            elif slot.kind == "arena":
                if slot.offset < 0 or slot.offset + slot.nbytes > program.arena_bytes:
                    raise InterpError(f"slot {slot.name} lies outside the arena of {program.arena_bytes} bytes")
                memory[slot] = arena[slot.offset : slot.offset + slot.nbytes].view(slot.dtype.np)
            elif slot.kind == "const":
                memory[slot] = np.array([slot.value], slot.dtype.np)
            elif slot.kind == "input":
                memory[slot] = np.array(arrays[program.inputs.index(slot)], slot.dtype.np).reshape(-1)
            else:
                memory[slot] = np.full(slot.nbytes, 0xFF, np.uint8).view(slot.dtype.np)
        return memory[slot]

    def window(ref: Ref, param: Buffer, iterations: tuple[int, ...]) -> np.ndarray:
        start = ref.start + sum(s * i for s, i in zip(ref.steps, iterations, strict=False))
        whole = place(ref.slot)
        if param.size == RUNTIME:
            return whole[start:]
        if not 0 <= start <= start + param.size <= whole.size:
            raise InterpError(f"{param.name} takes elements {start} to {start + param.size} of slot {ref.slot.name}, "
                              f"which has {whole.size}")
        return whole[start : start + param.size]

    def visit(steps: Sequence[Launch | Repeat], iterations: tuple[int, ...]) -> None:
        for step in steps:
            if isinstance(step, Repeat):
                for at in np.ndindex(step.ranges):
                    visit(step.body, (*iterations, *at))
            else:
                for part in step.segments:
                    windows = [window(r, p, iterations) for r, p in zip(part.args, step.kernel.params, strict=True)]
                    run(step.kernel, windows, seed)

    for slot in program.inputs:
        place(slot)
    visit(program.steps, ())
    types = program.output_types
    return [place(s).reshape(types[i].shape) if types else place(s) for i, s in enumerate(program.outputs)]


# ---------------------------------------------------------------- operations on arrays


def fused(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a * b + c rounded once: through float64 for smaller types; for float64 from error-free products and sums.

    The float64 form is exact to the last rounding except in the range of denormals.
    """
    if a.dtype != np.float64:
        return (a.astype(np.float64) * b.astype(np.float64) + c.astype(np.float64)).astype(a.dtype)
    product = a * b
    ah, al = _split(a)
    bh, bl = _split(b)
    error = ((ah * bh - product) + ah * bl + al * bh) + al * bl
    total = product + c
    back = total - product
    rest = (product - (total - back)) + (c - back)
    lost = rest + error
    return np.where((lost == 0) | ~np.isfinite(lost), total, total + lost)  # the sum of -0 and 0 is no -0


def paired(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Two bfloat16 as one uint32."""
    low, high = (np.asarray(x).view(np.uint16).astype(np.uint32) for x in (low, high))
    return low | high << np.uint32(16)


def dot2(a: np.ndarray, b: np.ndarray, c: np.ndarray, fuse: bool = True) -> np.ndarray:
    """c plus the products of the high and of the low halves of two pairs, in float32."""
    a, b = np.asarray(a, np.uint32), np.asarray(b, np.uint32)
    for x, y in ((a & np.uint32(0xFFFF0000), b & np.uint32(0xFFFF0000)), (a << np.uint32(16), b << np.uint32(16))):
        x, y = x.view(np.float32), y.view(np.float32)
        c = fused(x, y, np.asarray(c)) if fuse else x * y + c
    return c


def _split(x):
    """Upper and lower half of a float64's digits (Veltkamp)."""
    t = 134217729.0 * x
    high = t - (t - x)
    return high, x - high


def operation(e: Expr, args: Sequence[np.ndarray], fuse: bool = True) -> np.ndarray:
    """One operation (not const, axis or load) on arrays, or NumPy scalars, of the operands' dtypes."""
    if e.op == "cast":
        return convert(np.asarray(args[0]), e.dtype)
    if e.op == "bitcast":
        x = np.ascontiguousarray(args[0]).view(np.uint8 if e.dtype.is_bool else e.dtype.np)
        return (x != 0 if e.dtype.is_bool else x).reshape(np.shape(args[0]))
    if e.op == "select":
        return np.where(*args)
    if e.op == "exp2":
        return _exp2(args[0])
    if e.op == "fma":
        return fused(*args) if fuse else args[0] * args[1] + args[2]
    if e.op in PAIRS:
        return paired(*args) if e.op == "pair" else dot2(*args, fuse)
    return SCALAR_OPS[e.op].numpy(*args)


def evaluate_expr(expr: Expr, env: Mapping[Any, Any], fuse: bool = True) -> np.ndarray:
    """An expression on arrays. `env` gives a value for axes and for any other subexpressions, and an array for each
    Buffer loaded from. With `fuse` False, fma rounds twice, as on a machine that has none.
    """
    memo: dict[Expr, np.ndarray] = {k: np.asarray(v, k.dtype.np) for k, v in env.items() if isinstance(k, Expr)}
    with np.errstate(all="ignore"):
        for e in inside_out(expr, memo):
            args = [memo[a] for a in e.args]
            if e.op == "const":
                memo[e] = np.array(e.attr, e.dtype.np)
            elif e.op == "load":
                memo[e] = _gather(e, args, env)
            elif e.op == "axis":
                raise InterpError(f"axis {e.attr[0]} has no value")
            else:
                memo[e] = np.asarray(operation(e, args, fuse))
    return memo[expr]


def _gather(e: Expr, args: list[np.ndarray], env: Mapping[Any, Any]) -> np.ndarray:
    buffer, index, predicate = load_parts(e)
    source = np.asarray(env[buffer]).reshape(buffer.shape)
    places = np.broadcast_arrays(*args[: len(index)]) if index else []
    inside = np.broadcast_to(args[-1] if predicate is not None else True, np.shape(places[0]) if places else ())
    for i, n in zip(places, buffer.shape, strict=True):
        if np.any(inside & ((i < 0) | (i >= n))):
            raise InterpError(f"index outside {buffer.name}{list(buffer.shape)} in {print_expr(e)}")
    safe = tuple(np.where(inside, i, 0) for i in places)
    return np.where(inside, source[safe], np.array(0, buffer.dtype.np))


# ---------------------------------------------------------------- kernels


def compile_kernel(kernel: Kernel) -> Callable:
    """A Python function (arrays, random) -> None that runs the kernel; kept as long as the kernel lives."""
    if kernel not in _compiled:
        _compiled[kernel] = _Compiler(kernel).function()
    return _compiled[kernel]


_compiled: weakref.WeakKeyDictionary[Kernel, Callable] = weakref.WeakKeyDictionary()


_TOGETHER = (Sync, Fold, Mma, Await)
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
        self.globals: dict[str, Any] = {"fail": _fail, "bits": _bits, "to_int": _to_int}
        self.names: dict[Any, str] = {}
        self.intervals: dict[Expr, tuple[int, int]] = {}
        self.depth = 1
        self.inside_threads = False

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

    def given(self, value: Any, letter: str = "k") -> str:
        """A name for a Python object that the text uses."""
        name = f"{letter}{len(self.globals)}"
        self.globals[name] = value
        return name

    def indented(self, stmt: Stmt) -> None:
        self.depth += 1
        self.statement(stmt)
        self.line("pass")
        self.depth -= 1

    def statement(self, stmt: Stmt) -> None:
        if isinstance(stmt, Seq):
            for s in stmt.body:
                self.statement(s)
        elif isinstance(stmt, Alloc):
            b = stmt.buffer
            value = f"[{self.given(_Gate)}() for _ in range({b.size})]" if b.space == "gate" else f"[None] * {b.size}"
            if b.space == "tile":
                value = f"[{self.literal(0, b.dtype)}] * {b.size}"
            self.line(f"{self.name(b, 'm')} = {value}")
        elif isinstance(stmt, For):
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
            self.indented(stmt.then)
            if stmt.other is not None:
                self.line("else:")
                self.indented(stmt.other)
        elif isinstance(stmt, Store):
            self.store(stmt)
        elif isinstance(stmt, Sync):
            if self.inside_threads:  # lane loops that follow each other are in step anyway
                self.line(f"yield {self.given(stmt)}, None")
        elif isinstance(stmt, Fold):
            memo: dict[Expr, str] = {}
            place = self.place(stmt.buffer, stmt.index, memo, stmt)
            self.line(f"{place} = yield {self.given(stmt)}, {self.value(stmt.value, memo, stmt)}")
        elif isinstance(stmt, Async):
            self.statement(stmt.body)
        elif isinstance(stmt, (Arrive, Await, Bulk)):
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
        elif isinstance(stmt, (Mma, TileMma, Drain)):
            memo = {}
            drain = isinstance(stmt, Drain)
            read = [(stmt.source, stmt.at)] if drain else [load_parts(e)[:2] for e in (stmt.a, stmt.b)]
            places = [self.address(b, i, memo, stmt) for b, i in ((stmt.buffer, stmt.index), *read)]
            if isinstance(stmt, Mma):
                self.line(f"yield {self.given(stmt)}, ({', '.join(places)})")
            else:
                function = self.given(_drain if drain else _multiply_tiles)
                self.line(f"{function}({self.given(stmt)}, {', '.join(places)})")

    def threads(self, stmt: For, extent: str) -> None:
        """A lane loop whose threads wait for each other."""
        body = self.name(object(), "threads")
        self.line(f"def {body}({self.name(stmt.axis, 'a')}):")
        self.inside_threads = True
        self.indented(stmt.body)
        self.inside_threads = False
        self.line(f"  yield {self.given(None)}, None")
        combine = {s: self.combiner(s) for s in walk(stmt.body) if isinstance(s, Fold)}
        apart = any(isinstance(s, Await) or (isinstance(s, Sync) and s.threads) for s in walk(stmt.body))
        together = self.given(_apart if apart else _in_step)
        self.line(f"{together}([{body}(i) for i in range({extent})], order, {self.given(combine)})")

    def combiner(self, fold: Fold) -> Callable[[Any, Any], Any]:
        """A Fold's combination as a function of two values."""
        part = _Compiler(self.kernel)
        result = part.apply(fold.combine, fold.buffer.dtype, ["a", "b"])
        lines = ["def combine(a, b):", *part.lines, f"  return {result}"]
        exec("\n".join(lines), part.globals)  # noqa: S102  our own text
        return part.globals["combine"]

    def store(self, stmt: Store) -> None:
        memo: dict[Expr, str] = {}
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

    def place(self, b: Buffer, index: Sequence[Expr], memo: dict[Expr, str], stmt: Stmt) -> str:
        """Text of the element, after lines that check the indices."""
        terms = []
        for d, (e, n) in enumerate(zip(index, b.shape, strict=True)):
            i = self.value(e, memo, stmt)
            low, high = interval(e, self.intervals)
            if not 0 <= low <= high < n:
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
            return self.assign(f"{self.given(_exp2)}({args[0]})")
        if e.op == "fma":
            return self.assign(f"{self.given(fused)}({', '.join(args)})[()]")
        if e.op in PAIRS:
            return self.assign(f"int({self.given(paired)}({', '.join(args)}))" if e.op == "pair"
                               else f"{self.given(dot2)}({', '.join(args)})[()]")
        low, high = (0, 0) if e.dtype.is_float else interval(e, self.intervals)
        limits = (0, 0) if e.dtype.is_float else dtypes.limits(e.dtype)
        return self.apply(e.op, e.args[0].dtype, args, wraps=(low, high) == limits)

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


def _in_step(threads: list, order: random.Random, combine: dict[Fold, Callable[[Any, Any], Any]]) -> None:
    """Run generators that yield (statement, value) in step until they yield None."""
    numbers = list(range(len(threads)))
    answers: list[Any] = [None] * len(threads)
    while threads:
        met: list[tuple[Stmt | None, Any]] = [(None, None)] * len(threads)
        for i in order.sample(numbers, len(numbers)):
            met[i] = threads[i].send(answers[i])
        stmt = met[0][0]
        for i, (other, _) in enumerate(met):
            if other is not stmt:
                raise InterpError(f"thread {i} of a block waits at another statement than thread 0, or has finished")
        if stmt is None:
            return
        answers = [None] * len(threads)
        if isinstance(stmt, Fold):
            for start in range(0, len(met), stmt.lanes):
                total = met[start][1]
                for _, value in met[start + 1 : start + stmt.lanes]:
                    total = combine[stmt](total, value)
                answers[start : start + stmt.lanes] = [total] * stmt.lanes
        elif isinstance(stmt, Mma):
            for start in range(0, len(met), stmt.lanes):
                _multiply(stmt, [value for _, value in met[start : start + stmt.lanes]])


class _Gate:
    """A slot of a gate: its completed phases, and what has happened in the one that is open."""

    def __init__(self) -> None:
        self.phases = self.arrived = 0
        self.copies: list[tuple] = []

    def arrive(self, of: int) -> None:
        self.arrived += 1
        if self.arrived == of:
            for stmt, memory, start, source, at in self.copies:
                for k, place in enumerate(itertools.product(*map(range, stmt.view.box))):
                    inside = [0 <= a + p < n for a, p, n in zip(at, place, stmt.view.sizes, strict=True)]
                    offset = sum((a + p) * s for a, p, s in zip(at, place, stmt.view.strides, strict=True))
                    zero = stmt.buffer.dtype.np.type(0)
                    memory[start + k] = source[stmt.view.start + offset] if all(inside) else zero
            self.phases, self.arrived, self.copies = self.phases + 1, 0, []

    def bulk(self, stmt: Bulk, memory: list, start: int, source: Any, at: tuple[int, ...]) -> None:
        """Until the phase completes nothing stands where the copy goes."""
        count = math.prod(stmt.view.box)
        if start + count > len(memory):
            raise InterpError(f"a Bulk of {count} elements runs over the end of {stmt.buffer.name}")
        memory[start : start + count] = [None] * count
        self.copies.append((stmt, memory, start, source, at))


def _apart(threads: list, order: random.Random, combine: dict[Fold, Callable[[Any, Any], Any]]) -> None:
    """Run generators that yield (statement, value) and may wait at different ones, until all yield None."""
    count = len(threads)
    met: list[Any] = [(None, None)] * count
    ready: dict[int, Any] = dict.fromkeys(range(count))  # thread -> what it is answered
    while ready:
        for i in order.sample(list(ready), len(ready)):
            met[i] = threads[i].send(ready[i])
        ready = {}
        for i, (stmt, value) in enumerate(met):
            if isinstance(stmt, Await):
                gate, phases = value
                if gate.phases > phases:
                    raise InterpError(f"thread {i} awaits phase {phases} of {stmt.gate.name}, now at {gate.phases}")
                if gate.phases == phases:
                    ready[i] = None
            elif stmt is not None:
                size = (stmt.threads or count) if isinstance(stmt, Sync) else stmt.lanes  # type: ignore[attr-defined]
                if i % size or (isinstance(stmt, Sync) and i):
                    continue
                group = range(i, i + size)
                if any(met[j][0] is not stmt for j in group):
                    continue
                values = [met[j][1] for j in group]
                answer = None
                if isinstance(stmt, Mma):
                    _multiply(stmt, values)
                elif isinstance(stmt, Fold):
                    answer = functools.reduce(combine[stmt], values)
                ready.update(dict.fromkeys(group, answer))
    waiting = [i for i, (stmt, _) in enumerate(met) if stmt is not None]
    if waiting:
        raise InterpError(f"threads {waiting[:4]} of a block wait for ever")


def _multiply(stmt: Mma, parts: list[tuple]) -> None:
    """An Mma by one group: each thread gave (sums, their place, a, its place, b, its place)."""
    _, _, a, a_at, b, b_at = parts[0]
    if any(part[3] != a_at or part[5] != b_at for part in parts):
        raise InterpError("the threads of a group multiply different tiles")
    if stmt.a_order == "sums":
        rows = _held(stmt.a, parts, stmt.m, stmt.k)
    else:
        rows = _tile(stmt.a, a, a_at, stmt.m, stmt.k, stmt.a_order)
    columns = _tile(stmt.b, b, b_at, stmt.n, stmt.k, stmt.b_order)
    product = rows @ columns.T
    for thread, (sums, at, *_) in enumerate(parts):
        i = thread % 32
        for p, j, r in itertools.product(range(stmt.m * 2 // stmt.lanes), range(stmt.n // 8), range(4)):
            row, column = 16 * (p + thread // 32) + i // 4 + 8 * (r // 2), 8 * j + 2 * (i % 4) + r % 2
            place = at + (p * (stmt.n // 8) + j) * 4 + r
            before = 0 if stmt.fresh else sums[place]
            sums[place] = product.dtype.type(before + product[row, column])


def _multiply_tiles(stmt: TileMma, sums: list, at: int, a: Sequence, a_at: int, b: Sequence, b_at: int) -> None:
    m, n = stmt.buffer.shape[-2:]
    rows, columns = _words(stmt.a, a, a_at, m, stmt.k, stmt.a_stride), _words(stmt.b, b, b_at, stmt.k, n, stmt.b_stride)
    for i in range(m):
        row = np.array(sums[at + i * n : at + (i + 1) * n], np.float32)
        for p in range(stmt.k):
            row = dot2(rows[i, p], columns[p], row)
        sums[at + i * n : at + (i + 1) * n] = list(row)


def _words(e: Expr, memory: Sequence, start: int, rows: int, columns: int, stride: int) -> np.ndarray:
    """A tile of pairs."""
    halves = 1 if e.dtype is dtypes.uint32 else 2
    out = np.empty((rows, columns), np.uint32)
    for i in range(rows):
        row = memory[start + i * stride : start + i * stride + columns * halves]
        if len(row) < columns * halves or any(x is None for x in row):
            raise InterpError(f"a TileMma reads outside {e.attr.name}, or where nothing was written")
        out[i] = np.array(row, e.dtype.np).view(np.uint32)
    return out


def _drain(stmt: Drain, memory: list, start: int, sums: list, at: int) -> None:
    (m, n), stride = stmt.source.shape[-2:], stmt.buffer.shape[-1]
    for i in range(m):
        memory[start + i * stride : start + i * stride + n] = sums[at + i * n : at + (i + 1) * n]


def _held(e: Expr, parts: list[tuple], m: int, k: int) -> np.ndarray:
    """A tile that the registers of a group hold as they hold sums, as [row, inner position]."""
    out = np.empty((m, k), np.float32)
    for thread, (_, _, memory, start, *_) in enumerate(parts):
        i = thread % 32
        for j in range(k // 8):
            for r in range(4):
                value = memory[start + 4 * j + r]
                if value is None:
                    raise InterpError(f"an Mma reads {e.attr.name}[{j}, {r}] of a thread where nothing was written")
                out[16 * (thread // 32) + i // 4 + 8 * (r // 2), 8 * j + 2 * (i % 4) + r % 2] = value
    return out


def _exp2(x):
    y = np.exp2(np.asarray(x, np.float32))
    return np.where(y < np.finfo(np.float32).tiny, np.float32(0), y)[()]


def _tile(e: Expr, memory: list, start: int, count: int, k: int, order: str) -> np.ndarray:
    """A tile of shared memory as [row or column, inner position]."""
    shape = e.attr.shape
    out = np.empty((count, k), np.float32)
    for x in range(count):
        for y in range(k):
            if order[1] == "k":
                at = start + x * shape[-1] + y
            elif e.dtype is dtypes.float32:
                at = start + y * shape[-1] + x
            else:
                at = start + (x // 64) * shape[-2] * 64 + y * 64 + x % 64
            value = memory[at]
            if value is None:
                raise InterpError(f"an Mma reads element {at} of {e.attr.name} where nothing was written")
            out[x, y] = value
    return _tf32(out) if e.dtype is dtypes.float32 else out


def _tf32(x: np.ndarray) -> np.ndarray:
    """float32 rounded to 11 bits, halves away from zero."""
    rounded = ((x.view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)
    return np.where(np.isfinite(x), rounded, x)


def _to_int(x, dtype: DType) -> int:
    low, high = dtypes.limits(dtype)
    x = float(x)
    return 0 if math.isnan(x) else low if x <= low else high if x >= high else int(x)


def _bits(x, of: np.dtype, to: DType):
    value = np.array(x, of).view(np.uint8 if to.is_bool else to.np)[()]
    return value if to.is_float else bool(value) if to.is_bool else int(value)


def _fail(stmt: Stmt, what: Buffer | str, index: int | None) -> None:
    text = print_stmt(stmt).split("\n", 1)[0].strip()
    if what == "extent":
        raise InterpError(f"an extent of {index} exceeds the axis' own\n    {text}")
    if index is None:
        raise InterpError(f"read of {what.space} buffer {what.name} where nothing was written\n    {text}")
    raise InterpError(f"index {index} outside {what.name} of shape {list(what.shape)}\n    {text}")

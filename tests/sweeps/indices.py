"""Random index expressions of every integer type against NumPy's wrapping arithmetic, with canaries around buffers.

    python -m tests.sweeps.indices --minutes 10 --seed 3
    python -m tests.sweeps.indices --device sm_80  # the CUDA C, on the emulated GPU

A case is a program of one to three accesses: gathers and scatters of all kinds, at positions that expressions of up to
five levels compute from arrays of values near the limits of their type. Traced, a position counts from the end once if
negative, and is then clamped to its axis; eagerly, one outside is an error. `DLC_CPU` says which instructions are used.
Cases run in other processes: one that crashes is a failure like others. A failure prints a short program.
"""

from __future__ import annotations

import argparse
import os
import pickle
import random
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import dlc
import dlc.nn.functional as F
from dlc.base.errors import IndexOutOfRange
from dlc.ir.dtypes import convert
from tests.sweeps.canaries import canaries

INTS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
VALUES = ("float32", "float32", "float32", "float64", "int32", "int16")
EACH = 100  # cases a process: executables are kept


# -------------------------------------------------------------------------------------------------------- expressions


class Expr(NamedTuple):
    """An integer array: a named one, a number, or an operation."""

    op: str
    dtype: str
    args: tuple[Expr, ...] = ()
    attr: Any = None  # name, number, or bounds of a clip

    def text(self) -> str:
        """As a user writes it."""
        a = [x.text() for x in self.args]
        if self.op in ("name", "number"):
            return str(self.attr)
        if self.op in _INFIX:
            return f"({a[0]} {_INFIX[self.op]} {a[1]})"
        if self.op in _PREFIX:
            return f"({_PREFIX[self.op]}{a[0]})"
        if self.op == "cast":
            return f"{a[0]}.astype(dlc.{self.dtype})"
        if self.op == "through float":
            return f"({a[0]}.astype(dlc.float32) * {self.attr}).astype(dlc.{self.dtype})"
        if self.op == "clip":
            return f"dlc.clip({a[0]}, {self.attr[0]}, {self.attr[1]})"
        if self.op == "arange":
            return f"dlc.arange({self.attr}, dtype=dlc.{self.dtype})"
        if self.op == "where":
            return f"dlc.where({a[0]} < {a[1]}, {a[2]}, {a[3]})"
        if self.op == "lookup":
            return f"table[{a[0]}].astype(dlc.{self.dtype})"
        return f"dlc.{self.op}({', '.join(a)})"

    def numpy(self, arrays: dict[str, np.ndarray], found: list[tuple[np.ndarray, int]]) -> np.ndarray:
        """Its value; `found` takes the positions at which tables are read, and the extents."""
        a = [x.numpy(arrays, found) for x in self.args]
        if self.op == "name":
            return arrays[self.attr]
        dtype = np.dtype(self.dtype)
        if self.op == "number":
            return np.array(self.attr, dtype)
        if self.op == "cast":
            return a[0].astype(dtype)
        if self.op == "through float":
            return convert(a[0].astype(np.float32) * np.float32(self.attr), getattr(dlc, self.dtype))
        if self.op == "clip":
            return np.clip(a[0], *np.array(self.attr, dtype))
        if self.op == "arange":
            return np.arange(self.attr).astype(dtype)
        if self.op == "where":
            return np.where(a[0] < a[1], a[2], a[3])
        if self.op == "lookup":
            table = arrays["table"]
            found.append((a[0], len(table)))
            return table[at(a[0], len(table))].astype(dtype)
        return _NUMPY[self.op](*a)


_INFIX = {"add": "+", "sub": "-", "mul": "*", "floordiv": "//", "mod": "%", "and": "&", "or": "|", "xor": "^",
          "shl": "<<", "shr": ">>"}  # fmt: skip
_PREFIX = {"neg": "-", "invert": "~"}
_NUMPY: dict[str, Callable] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "floordiv": np.floor_divide, "mod": np.mod,
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "shl": np.left_shift, "shr": np.right_shift,
    "neg": np.negative, "invert": np.invert, "abs": np.abs, "sign": np.sign, "minimum": np.minimum,
    "maximum": np.maximum, "flip": np.flip,
}  # fmt: skip
_BINARY = ("add", "add", "sub", "sub", "mul", "mul", "floordiv", "mod", "and", "or", "xor", "minimum", "maximum")
_UNARY = ("neg", "invert", "abs", "sign", "flip")


def at(index: np.ndarray, extent: int) -> np.ndarray:
    """What positions mean in a trace: counted from the end once if negative, then clamped."""
    whole = index.astype(object)
    whole = np.where(whole < 0, whole + extent, whole)
    return np.clip(whole, 0, max(extent - 1, 0)).astype(np.int64)


def number(pick: random.Random, dtype: str) -> int:
    """A number of the type, small or near something."""
    info = np.iinfo(dtype)
    near = pick.choice((0, 0, 0, 100, int(info.min), int(info.max), int(info.max) // 2,
                        1 << pick.randrange(info.bits - 1)))  # fmt: skip
    return min(max(near + pick.choice((-100, -11, -7, -2, -1, 0, 1, 2, 3, 5, 10, 99, 100)), int(info.min)),
               int(info.max))


def expression(pick: random.Random, count: int, dtype: str, depth: int) -> Expr:
    """A random expression of `count` elements."""
    if depth == 0:
        if pick.random() < 0.15:
            return Expr("arange", dtype, attr=count)
        return Expr("cast", dtype, (Expr("name", "", attr=pick.choice("ij")),))
    kind = pick.random()
    if kind < 0.17:
        return Expr("cast", dtype, (expression(pick, count, pick.choice(INTS), depth - 1),))
    a = expression(pick, count, dtype, depth - 1)
    if kind < 0.2:
        return Expr("through float", dtype, (a,), pick.choice((0.5, 1.0, 1e10, -3.0)))
    if kind < 0.25:
        return Expr("lookup", dtype, (a,))
    if kind < 0.4:
        return Expr("clip", dtype, (a,), tuple(sorted(number(pick, dtype) for _ in range(2))))
    if kind < 0.5:
        return Expr(pick.choice(_UNARY), dtype, (a,))
    if kind < 0.56:
        shift = Expr("number", dtype, attr=pick.randrange(np.iinfo(dtype).bits))
        return Expr(pick.choice(("shl", "shr")), dtype, (a, shift))
    if pick.random() < 0.6:
        b = Expr("number", dtype, attr=number(pick, dtype))
    else:
        b = expression(pick, count, dtype, pick.randrange(depth))
    if kind < 0.6:
        return Expr("where", dtype, (a, b, a, expression(pick, count, dtype, pick.randrange(depth))))
    if kind < 0.66:
        return position(pick, a, expression(pick, count, dtype, pick.randrange(depth)))
    op = pick.choice(_BINARY)
    swap = b.op == "number" and op not in ("minimum", "maximum") and pick.random() < 0.2
    return Expr(op, dtype, (b, a) if swap else (a, b))


def position(pick: random.Random, row: Expr, column: Expr) -> Expr:
    """A row and a column as one position, and perhaps its quotient or remainder: what an analysis takes apart again.
    The products may leave the type, a little or by far."""
    dtype, most = row.dtype, int(np.iinfo(row.dtype).max)
    rows, wide = pick.choice((2, 5, 11, 12, most // 8)), pick.choice((2, 3, 8, 12, min(most, 1 << 29)))

    def small(e: Expr, count: int) -> Expr:
        if pick.random() < 0.5:
            return Expr("mod", dtype, (e, Expr("number", dtype, attr=count)))
        return Expr("clip", dtype, (e,), (0, count - 1))

    k = Expr("number", dtype, attr=wide)
    flat = Expr("add", dtype, (Expr("mul", dtype, (small(row, rows), k)), small(column, wide)))
    by = Expr("number", dtype, attr=pick.choice((wide, 2, rows)))
    return flat if pick.random() < 0.4 else Expr(pick.choice(("floordiv", "mod")), dtype, (flat, by))


# ----------------------------------------------------------------------------------------------------------- accesses


class Access(NamedTuple):
    """Something done at one or two indices: what a user writes, and its value in NumPy."""

    text: str  # {x}: the tensor; {e}, {g}: indices
    numpy: Callable[..., np.ndarray]  # of x, values, positions
    axes: tuple[int | None, ...]  # of x, one for each index; None: no index, but a value
    ndim: int  # of x


def _at(ufunc: np.ufunc) -> Callable:
    """x combined with values at positions."""

    def apply(x: np.ndarray, v: np.ndarray, *positions: Any) -> np.ndarray:
        out = x.copy()
        ufunc.at(out, positions, v)
        return out

    return apply


def _seven(x: np.ndarray, v: np.ndarray, *positions: Any) -> np.ndarray:
    out = x.copy()
    out[positions] = 7
    return out


def _gradient(x: np.ndarray, v: np.ndarray, *positions: Any) -> np.ndarray:
    return _at(np.add)(np.zeros(x.shape, np.float32), v, *positions)


_LINES = "dlc.broadcast_to({e}, ({x}.shape[0], len(i)))"
ACCESSES = (
    Access("{x}[{e}]", lambda x, v, p: x[p], (0,), 1),
    Access("{x}[{e}] + v", lambda x, v, p: x[p] + v, (0,), 1),
    Access("{x}[{e}]", lambda x, v, p: x[p], (0,), 2),
    Access("{x}[:, {e}]", lambda x, v, p: x[:, p], (1,), 2),
    Access("{x}.T[{e}]", lambda x, v, p: x.T[p], (1,), 2),
    Access("{x}[{e}, {g}]", lambda x, v, p, q: x[p, q], (0, 1), 2),
    Access("{x}[{e}, 0]", lambda x, v, p: x[p, 0], (0,), 2),
    Access("{x}[{e}][:, {g}]", lambda x, v, p, q: x[p][:, q], (0, 1), 2),
    Access("dlc.take({x}, {e}, axis=1)", lambda x, v, p: x[:, p], (1,), 2),
    Access("F.embedding({e}, {x})", lambda x, v, p: x[p], (0,), 2),
    Access("dlc.gather({x}, 0, {e})", lambda x, v, p: x[p], (0,), 1),
    Access("dlc.take_along_axis({x}, " + _LINES + ", axis=1)", lambda x, v, p: x[:, p], (1,), 2),
    Access("dlc.concat([{x}, {x} + 1])[{e}]", lambda x, v, p: np.concatenate([x, x + 1])[p], (-1,), 1),
    Access("dlc.broadcast_to({x}, (3, *{x}.shape))[:, {e}]", lambda x, v, p: np.stack([x[p]] * 3), (0,), 1),
    Access("{x}.at[{e}].set(7)", _seven, (0,), 1),
    Access("{x}.at[{e}].add(v)", _at(np.add), (0,), 1),
    Access("{x}.at[{e}].max(v)", _at(np.maximum), (0,), 1),
    Access("{x}.at[{e}].min(v)", _at(np.minimum), (0,), 1),
    Access("{x}.at[{e}].add(v[:, None])", lambda x, v, p: _at(np.add)(x, v[:, None], p), (0,), 2),
    Access("{x}.at[:, {e}].add(v)", lambda x, v, p: _at(np.add)(x.T, v[:, None], p).T, (1,), 2),
    Access("{x}.at[{e}, {g}].set(7)", _seven, (0, 1), 2),
    Access("{x}.at[{e}, {g}].add(v)", _at(np.add), (0, 1), 2),
    Access("dlc.scatter({x}, 0, {e}, v, reduce='sum')", _at(np.add), (0,), 1),
    Access("dlc.index_add({x}, 0, {e}, v)", _at(np.add), (0,), 1),
    Access("dlc.one_hot({e} % 7, 7)", lambda x, v, p: (p % np.array(7, p.dtype))[:, None] == np.arange(7), (None,), 1),
    Access("{e}", lambda x, v, p: p, (None,), 1),
    Access("{e} <= {g}", lambda x, v, p, q: p <= q, (None, None), 1),
    Access("({e}, {g})[1] == {e}", lambda x, v, p, q: p == q, (None, None), 1),
    Access("({e}).astype(dlc.float64)", lambda x, v, p: p.astype(np.float64), (None,), 1),
    # from here on in a trace of their own
    Access("dlc.vmap(lambda r: r[{e}])({x})", lambda x, v, p: x[:, p], (1,), 2),
    Access("dlc.vmap(lambda k: {x}[k])({e})", lambda x, v, p: x[p], (0,), 1),
    Access("dlc.vmap(lambda k, r: r[k])(" + _LINES + ", {x})", lambda x, v, p: x[:, p], (1,), 2),
    Access("dlc.grad(lambda x: (x[{e}] * v).sum())({x}.astype(dlc.float32))", _gradient, (0,), 1),
    Access("dlc.grad(lambda x: (x[{e}, {g}] * v).sum())({x}.astype(dlc.float32))", _gradient, (0, 1), 2),
)
EAGER = 29  # of these


class Case(NamedTuple):
    """A program: named arrays, and accesses with their indices."""

    arrays: dict[str, np.ndarray]
    accesses: tuple[tuple[int, tuple[Expr, ...]], ...]  # which access, and its indices
    eager: bool = False

    def texts(self) -> list[str]:
        """What the function returns."""
        out = []
        for which, indices in self.accesses:
            e, g = (indices[k].text() for k in (0, -1))
            out.append(ACCESSES[which].text.format(x=f"x{ACCESSES[which].ndim}", e=e, g=g))
        return out

    def function(self) -> Callable:
        """The program as a function of its arrays."""
        return eval(self.source(), {"dlc": dlc, "F": F})  # noqa: S307

    def source(self) -> str:
        """The function as a user writes it."""
        return f"lambda {', '.join(self.arrays)}: ({', '.join(self.texts())},)"

    def wanted(self) -> tuple[list[np.ndarray], bool]:
        """The results, and whether all positions are inside."""
        found: list[tuple[np.ndarray, int]] = []
        results = []
        for which, indices in self.accesses:
            access, places = ACCESSES[which], []
            x = self.arrays[f"x{access.ndim}"]
            for e, axis in zip(indices, access.axes, strict=True):
                value = e.numpy(self.arrays, found)
                if axis is None:
                    places.append(value)
                    continue
                found.append((value, 2 * len(x) if axis == -1 else x.shape[axis]))
                places.append(at(*found[-1]))
            results.append(np.asarray(access.numpy(x, self.arrays["v"], *places)))
        inside = all(-n <= int(k) < n for i, n in found for k in i.flat)
        return results, inside

    def smaller(self) -> Iterator[Case]:
        """Cases with one access, then with a part of an index instead of the whole."""
        if len(self.accesses) > 1:
            yield from (self._replace(accesses=(a,)) for a in self.accesses)
            return
        ((which, indices),) = self.accesses
        for k, e in enumerate(indices):
            for less in parts(e):
                yield self._replace(accesses=((which, (*indices[:k], less, *indices[k + 1 :])),))


def parts(e: Expr) -> Iterator[Expr]:
    """The expression with one operation less."""
    for a in e.args:
        if a.op not in ("name", "number"):
            yield a if a.dtype == e.dtype else Expr("cast", e.dtype, (a,))
    for k, a in enumerate(e.args):
        yield from (e._replace(args=(*e.args[:k], less, *e.args[k + 1 :])) for less in parts(a))


def draw(seed: int) -> Case:
    """A random case."""
    pick, rng = random.Random(seed), np.random.default_rng(seed)
    count = pick.choice((1, 2, 5, 8, 16, 17, 33, 64, 70, 70, 2000))
    first, second = pick.choice(INTS), pick.choice(INTS)
    n, m = pick.choice((1, 2, 7, 64, 100, 130, 300)), pick.choice((1, 3, 16, 40))
    values = np.dtype(pick.choice(VALUES))

    def near(dtype: str) -> np.ndarray:
        small = pick.random() < 0.3
        return np.array([pick.randrange(7) if small else number(pick, dtype) for _ in range(count)], dtype)

    arrays = {
        "i": near(first), "j": near(second), "x1": (np.arange(n) + 1).astype(values),
        "x2": (np.arange(n * m) + 1).astype(values).reshape(n, m), "v": rng.integers(1, 9, count).astype(values),
        "table": rng.integers(-50, 300, pick.choice((1, 9, 64))),
    }  # fmt: skip
    eager = pick.random() < 0.25
    accesses = []
    for _ in range(pick.randint(1, 3)):
        which = pick.randrange(EAGER if eager else len(ACCESSES))
        accesses.append((which, tuple(expression(pick, count, first, pick.randint(0 if eager else 1, 5))
                                      for _ in ACCESSES[which].axes)))
    return Case(arrays, tuple(accesses), eager)


# ------------------------------------------------------------------------------------------------------------- running


def run(case: Case) -> str:
    """What is wrong with dlc's results, or nothing."""
    outside = ""
    with canaries() as watch:
        arrays = [dlc.asarray(a) for a in case.arrays.values()]
        function = case.function()
        try:
            got = [r.numpy() for r in (function if case.eager else dlc.jit(function))(*arrays)]
        except IndexOutOfRange as error:
            outside = f"IndexOutOfRange: {error}"
        written = watch.check()
    with np.errstate(all="ignore"):
        wanted, inside = case.wanted()
    if written:
        return "; ".join(written)
    if case.eager and not inside:
        return "" if outside else "no IndexOutOfRange"
    if outside:
        return outside
    for g, w, text in zip(got, wanted, case.texts(), strict=True):
        if g.shape != w.shape or not np.array_equal(g, w):
            return f"{text} is\n{g}\nand should be\n{w}"
    return ""


def work(cases: Path, device: str) -> None:
    """Run the cases of a file, saying which is next and what is wrong."""
    if device != "cpu":
        import pytest

        from tests import cuda_on_cpu

        cuda_on_cpu.use(pytest.MonkeyPatch(), cuda_on_cpu.EmulatedGpu(arch=device, nbytes=1 << 30))
        dlc.set_default_device("cuda")
    say = os.fdopen(os.dup(1), "w", buffering=1)
    for k, case in enumerate(pickle.loads(cases.read_bytes())):  # noqa: S301
        say.write(f"next {k}\n")
        try:
            wrong = run(case)
        except Exception:  # noqa: BLE001 (whatever it is, it is a finding)
            wrong = traceback.format_exc(limit=-4)
        if wrong:
            say.write(f"wrong {k} {wrong!r}\n")
    say.write("done\n")


def failures(cases: list[Case], device: str = "cpu", timeout: float = 600) -> Iterator[tuple[Case, str]]:
    """The cases that go wrong, with what does; crashes and hangs included."""
    while cases:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "cases")
            file.write_bytes(pickle.dumps(cases))
            command = [sys.executable, "-m", "tests.sweeps.indices", "--work", str(file), "--device", device]
            try:
                done = subprocess.run(command, env={**os.environ, "DLC_CACHE": "off"}, stdout=subprocess.PIPE,
                                      timeout=timeout, check=False, text=True)
                lines, end = done.stdout.splitlines(), f"exit status {done.returncode}"
            except subprocess.TimeoutExpired as late:
                lines, end = (late.stdout or b"").decode().splitlines(), f"no end after {timeout:.0f} s"
        last = -1
        for line in lines:
            what, _, rest = line.partition(" ")
            if what == "next":
                last = int(rest)
            elif what == "wrong":
                k, _, text = rest.partition(" ")
                yield cases[int(k)], eval(text)  # noqa: S307
        if lines and lines[-1] == "done":
            return
        yield cases[max(last, 0)], end
        cases = cases[max(last, 0) + 1 :]


def shortest(case: Case, wrong: str, device: str = "cpu") -> tuple[Case, str]:
    """A smaller case that goes wrong too."""
    while True:
        found = next(failures(list(case.smaller()), device), None)
        if found is None:
            return case, wrong
        case, wrong = found


def program(case: Case, wrong: str) -> str:
    """A program that shows what is wrong."""
    lines = ["import numpy as np", "import dlc, dlc.nn.functional as F"]
    with np.printoptions(threshold=10**6, linewidth=10**6):
        lines += [f"{name} = dlc.asarray(np.array({a.tolist()}, {a.dtype.name!r}))" for name, a in case.arrays.items()]
    lines += [f"f = {case.source()}", f"print({'f' if case.eager else 'dlc.jit(f)'}({', '.join(case.arrays)}))"]
    return "\n".join([*lines, *(f"# {line}" for line in wrong.splitlines())])


def sweep(seed: int, seconds: float, count: int | None = None, device: str = "cpu") -> tuple[int, list[str]]:
    """How many cases were run, and the programs of those that went wrong."""
    end, done, bad = time.monotonic() + seconds, 0, []
    while time.monotonic() < end and (count is None or done < count):
        some = EACH if device == "cpu" else EACH // 10
        some = some if count is None else min(some, count - done)
        cases = [draw(1_000_000 * seed + done + k) for k in range(some)]
        bad += [program(*shortest(*found, device)) for found in failures(cases, device)]
        done += some
        print(f"{done} cases, {len(bad)} wrong", file=sys.stderr, flush=True)
    return done, bad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="cpu, or an architecture of emulated GPUs: sm_80, sm_90")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work, options.device)
        return
    done, bad = sweep(options.seed, 60 * options.minutes, device=options.device)
    print("\n\n".join([*bad, f"{done} cases, {len(bad)} wrong"]))
    raise SystemExit(bool(bad))


if __name__ == "__main__":
    main()

"""Random operations at random sizes, scheduled for every target and checked for coverage, without compiling.

    python -m tests.sweeps.schedules --minutes 10 --seed 1 [--target avx512] [--cases 2000] [--case N]

draws programs of a few lines of dlc, chooses schedules, lowers them and checks every kernel (`ir/loops/coverage.py`).
A failure prints the program that shows it. Kernels whose places follow from what they compute themselves (sorts) are
run by the interpreter on small sizes instead.
"""

from __future__ import annotations

import argparse
import random
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

import dlc
import dlc.nn.functional as F
from dlc.codegen.program import gpu_lowering, lowering
from dlc.codegen.schedule import cpu_candidates as candidates
from dlc.codegen.schedule import gpu_candidates
from dlc.codegen.target.cpu import CpuTarget
from dlc.codegen.target.gpu import GpuTarget
from dlc.ir.graph.graph import Graph
from dlc.ir.loops.coverage import check
from dlc.ir.loops.interp.interp import run
from dlc.ir.loops.ir import RUNTIME
from dlc.ir.loops.verify import verify
from dlc.ir.program.coverage import Run, launched
from dlc.runtime import compile as compiler
from tests.targets import CPUS, GPUS, target

TARGETS = (*CPUS, *GPUS, *(f"{name}-tf32" for name in GPUS))
THREADS = (1, 2, 7, 32)
LARGEST = 1 << 19  # elements of an operand
FLOPS = 1 << 28  # multiplications of a contraction, since its loads are looked at
OTHERS = 4  # of so many cases one is scheduled otherwise, too, as tuning might
INTERPRETED = 3000  # elements up to which a kernel that cannot be decided is interpreted
NEAR = (4, 8, 14, 16, 28, 32, 48, 64, 96, 128, 192, 256, 512, 1024)  # sizes of tiles
PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 53, 61, 67, 79, 97, 101, 127, 131, 191, 257, 307, 509, 1021,
          2053)
FLOATS = ("float32",) * 6 + ("bfloat16",) * 4 + ("float16",) * 2 + ("float64",)
INTEGERS = ("int8", "uint8", "int16", "int32", "uint32", "int64")


@dataclass(frozen=True)
class Case:
    """An expression of its arguments, which are (shape, dtype)."""

    text: str
    arguments: tuple[tuple[str, tuple[int, ...], str], ...]

    def __str__(self) -> str:
        made = "".join(f"\n{name} = dlc.zeros({shape}, dtype=dlc.{dtype})" for name, shape, dtype in self.arguments)
        names = ", ".join(name for name, *_ in self.arguments)
        return f"import dlc, dlc.nn.functional as F{made}\nf = dlc.jit(lambda {names}: {self.text})\nf.lower({names})"

    def graph(self) -> Graph:
        """The traced graph."""
        names = ", ".join(name for name, *_ in self.arguments)
        function = eval(f"lambda {names}: {self.text}", {"dlc": dlc, "F": F})  # noqa: S307  our own text
        arrays = [np.zeros(shape, getattr(dlc, dtype).np) for _, shape, dtype in self.arguments]
        return dlc.jit(function).lower(*map(dlc.asarray, arrays)).graph


class Draw:
    """Random sizes and names."""

    def __init__(self, seed: int):
        self.random = random.Random(seed)

    def of(self, *choices):
        return self.random.choice(choices)

    def size(self, most: int = 3000) -> int:
        """A size such as they come: small ones, those beside tiles', primes, any."""
        kind = self.random.random()
        if kind < 0.35:
            n = self.random.randint(1, 20)
        elif kind < 0.65:
            n = self.random.choice(NEAR) * self.random.choice((1, 1, 1, 2, 3)) + self.random.choice((-1, 0, 1))
        elif kind < 0.8:
            n = self.random.choice(PRIMES)
        else:
            n = int(2 ** self.random.uniform(0, 11.5))
        return n if n <= most else self.random.randint(1, most)

    def sizes(self, count: int, limit: int = LARGEST, most: int = 3000) -> list[int]:
        """Several sizes with a product up to `limit`."""
        while True:
            out = [self.size(most) for _ in range(count)]
            if np.prod(out, dtype=float) <= limit:
                return out

    def float(self) -> str:
        return self.random.choice(FLOATS)

    def any(self) -> str:
        return self.random.choice(FLOATS + INTEGERS)

    def flag(self) -> bool:
        return self.random.random() < 0.5


def _case(text: str, **arguments: tuple[Sequence[int], str]) -> Case:
    return Case(text, tuple((name, tuple(shape), dtype) for name, (shape, dtype) in arguments.items()))


def _with_gradient(draw: Draw, case: Case) -> Case:
    """The gradients of the case's sum, sometimes."""
    floats = tuple(k for k, a in enumerate(case.arguments) if "float" in a[2])
    if not floats or draw.random.random() < 0.6:
        return case
    names = ", ".join(name for name, *_ in case.arguments)
    which = floats if draw.flag() else (draw.of(*floats),)
    inner = f"lambda {names}: dlc.sum(dlc.sin({case.text}).astype(dlc.float32))"
    return Case(f"dlc.grad({inner}, argnums={which})({names})", case.arguments)


def _epilogue(draw: Draw, text: str) -> str:
    """Something computed from a contraction's result."""
    return draw.of(*[text] * 4, f"dlc.exp({text})", f"F.relu({text} + b)", f"F.gelu({text})", f"({text}) * 2 + b",
                   f"dlc.sum({text}, axis=-1)", f"F.softmax({text} * 0.1, -1)")


def contraction(draw: Draw) -> Case:
    """An einsum with up to two labels of each kind, in any order."""
    def labels(names: str, least: int) -> str:
        return names[: draw.of(*range(least, len(names) + 1))]

    batch, rows, columns, inner = labels("bg", 0), labels("mn", 0), labels("pq", 0), labels("kl", 0)
    everything = batch + rows + columns + inner or "k"
    while True:
        size = {x: draw.size(1500) for x in everything}
        volume = np.prod(list(size.values()), dtype=float)
        if volume <= FLOPS and all(np.prod([size[x] for x in own], dtype=float) <= LARGEST
                                   for own in (batch + rows + inner, batch + columns + inner, batch + rows + columns)):
            break

    def mixed(own: str) -> str:
        found = list(own)
        if draw.flag():
            draw.random.shuffle(found)
        return "".join(found)

    a, b, out = mixed(batch + rows + inner), mixed(batch + inner + columns), mixed(batch + rows + columns)
    dtype = draw.of(draw.float(), draw.float(), draw.float(), draw.of(*INTEGERS))
    text = f'dlc.einsum("{a},{b}->{out}", x, w)'
    operands = {"x": ([size[c] for c in a], dtype), "w": ([size[c] for c in b], dtype)}
    if "float" in dtype and out and draw.flag():
        return _case(_epilogue(draw, text), **operands, b=([size[out[-1]]], dtype))
    return _case(text, **operands)


def product(draw: Draw) -> Case:
    """x @ w with batch axes on either side, by `vmap` too."""
    dtype, form = draw.float(), draw.of("mm", "left", "right", "both", "vmap", "linear", "vector")
    while True:
        b, m, n, k = draw.of(1, 2, 3, 5, 8, 17), draw.size(1500), draw.size(1500), draw.size(1500)
        if b * m * n * k <= FLOPS and b * max(m * k, k * n, m * n) <= LARGEST:
            break
    if form == "linear":
        return _case(_epilogue(draw, "F.linear(x, w, b)"), x=((b, m, k), dtype), w=((n, k), dtype), b=((n,), dtype))
    if form == "vmap":
        return _case("dlc.vmap(lambda t: x @ t)(w)", x=((m, k), dtype), w=((b, k, n), dtype))
    if form == "vector":
        return _case(draw.of("x @ w", "w @ dlc.transpose(x)"), x=((m, k), dtype), w=((k,), dtype))
    x = (b, m, k) if form in ("left", "both") else (m, k)
    w = (b, k, n) if form in ("right", "both") else (k, n)
    text = "x @ w"
    if draw.flag():
        x, text = (*x[:-2], x[-1], x[-2]), "dlc.matrix_transpose(x) @ w"
    return _case(_epilogue(draw, text), x=(x, dtype), w=(w, dtype), b=((n,), dtype))


def convolution(draw: Draw) -> Case:
    """conv1d, conv2d and their transposes with all options."""
    dtype, rank, turned = draw.float(), draw.of(1, 2, 2, 2), draw.random.random() < 0.3
    while True:
        groups = draw.of(1, 1, 1, 2, 4)
        n, c, o = draw.of(1, 2, 3, 8), draw.size(160) * groups, draw.size(160) * groups
        if draw.random.random() < 0.1:
            groups = o = c
        image = [draw.size(70) for _ in range(rank)]
        kernel = [draw.of(1, 1, 2, 3, 3, 5, 7) for _ in range(rank)]
        stride, dilation = [draw.of(1, 1, 2, 3) for _ in range(rank)], [draw.of(1, 1, 1, 2, 3) for _ in range(rank)]
        padding = [draw.of(0, 0, 1, 2, (k - 1) * d // 2) for k, d in zip(kernel, dilation, strict=True)]
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
        if turned:
            out = [(i - 1) * s - 2 * p + r for i, s, p, r in zip(image, stride, padding, reach, strict=True)]
        else:
            out = [(i + 2 * p - r) // s + 1 for i, s, p, r in zip(image, stride, padding, reach, strict=True)]
        work = n * c * (o // groups) * np.prod(kernel, dtype=float)
        places = np.prod(image if turned else out, dtype=float)
        if min(out) > 0 and work * places <= FLOPS and n * max(c * np.prod(image), o * np.prod(out)) <= LARGEST:
            break
    weight = (c, o // groups, *kernel) if turned else (o, c // groups, *kernel)
    name = f"F.conv{'_transpose' * turned}{rank}d"
    options = f"stride={tuple(stride)}, padding={tuple(padding)}, dilation={tuple(dilation)}, groups={groups}"
    text = f"{name}(x, w, b, {options})"
    text = draw.of(text, text, f"F.relu({text})", f"dlc.mean({text}, axis=(0, 2))")
    return _case(text, x=((n, c, *image), dtype), w=(weight, dtype), b=((o,), dtype))


def pool(draw: Draw) -> Case:
    """Pooling of images."""
    dtype = draw.float()
    while True:
        n, c, h, w = draw.of(1, 2, 5), draw.size(80), draw.size(60), draw.size(60)
        if n * c * h * w <= LARGEST // 4:
            break
    kernel, stride = draw.of(1, 2, 3), draw.of(1, 2, 3)
    padding = draw.of(0, kernel // 2)
    text = draw.of(f"F.max_pool2d(x, {kernel}, {stride}, {padding})", f"F.avg_pool2d(x, {kernel}, {stride}, {padding})",
                   f"F.adaptive_avg_pool2d(x, ({draw.of(1, 2, 3, 7)}, {draw.of(1, 2, 5)}))", "dlc.mean(x, axis=(2, 3))",
                   "F.interpolate(x, scale_factor=2)")
    return _case(text, x=((n, c, max(h, 3), max(w, 3)), dtype))


def normalization(draw: Draw) -> Case:
    """Statistics of rows or channels, and what is computed from them."""
    dtype = draw.float()
    n, c, w = draw.sizes(3, LARGEST // 2)
    w += n * w == 1  # batch norm wants more than one value
    groups = draw.of(*(g for g in (1, 2, 3, 4, 5, 8) if c % g == 0))
    text = draw.of("F.layer_norm(x, x.shape[-1:])", "F.rms_norm(x, x.shape[-1:])", f"F.group_norm(x, {groups})",
                   "F.batch_norm(x, None, None, training=True)", "F.softmax(x, -1)", "F.softmax(x, 1)",
                   "F.softmax(x, 0)", "F.log_softmax(x, -1)", "F.normalize(x, dim=1)", "F.instance_norm(x)",
                   "dlc.logsumexp(x, axis=-1)")
    return _case(text, x=((n, c, w), dtype))


def reduction(draw: Draw) -> Case:
    """Reductions over any axes of any order."""
    rank = draw.of(1, 2, 2, 3, 4)
    shape = draw.sizes(rank)
    axes = tuple(a for a in range(rank) if draw.flag()) or (draw.of(*range(rank)),)
    name = draw.of("sum", "mean", "max", "min", "prod", "argmax", "argmin", "any", "var", "std", "vector_norm")
    dtype = draw.float() if name in ("mean", "var", "std", "vector_norm") else draw.any()
    axis = axes[0] if name.startswith("arg") else axes
    value = draw.of("x", "dlc.sin(x)" if "float" in dtype else "x * 3", "x * x", *["dlc.transpose(x)"] * (rank == 2))
    kept = f"{value} - dlc.{name}({value}, axis={axis}, keepdims=True)"
    text = kept if draw.random.random() < 0.3 and name in ("sum", "max", "min") else f"dlc.{name}({value}, axis={axis})"
    return _case(text, x=(shape, dtype))


def attention(draw: Draw) -> Case:
    """Attention, with and without a mask."""
    dtype = draw.of("float32", "bfloat16", "float16")
    while True:
        b, h = draw.of(1, 2, 3), draw.of(1, 2, 5)
        q, k, d, e = draw.size(300), draw.size(300), draw.size(100), draw.size(100)
        if b * h * q * k * (d + e) <= FLOPS:
            break
    causal = draw.flag()
    if causal and draw.flag():
        k = q
    return _case(f"F.scaled_dot_product_attention(q, k, v, is_causal={causal})", q=((b, h, q, d), dtype),
                 k=((b, h, k, d), dtype), v=((b, h, k, e), dtype))


def elementwise(draw: Draw) -> Case:
    """Maps over views: permuted, sliced, padded, joined, turned."""
    rank = draw.of(1, 2, 2, 3, 4)
    shape, dtype = draw.sizes(rank), draw.any()
    order = list(range(rank))
    draw.random.shuffle(order)
    step = draw.of(1, 2, 3)
    text = draw.of(f"dlc.permute_dims(x, {tuple(order)}) * 2", f"dlc.permute_dims(x, {tuple(order)}) + 1",
                   f"x[::{step}] * x[::{step}]", f"dlc.concat((x, x * 2), axis={draw.of(*range(rank))})",
                   f"dlc.flip(x, axis={draw.of(*range(rank))}) + x", f"dlc.roll(x, 3, axis={draw.of(*range(rank))})",
                   f"F.pad(x, ({draw.of(0, 1, 5)}, {draw.of(0, 2, 7)}))", "dlc.reshape(x, (-1,)) * 3",
                   "dlc.where(x > 0, x, x * 2)", "(x + x[:1]) * x", f"dlc.repeat(x, {step}, axis=0)",
                   *["dlc.tril(x)"] * (rank > 1))
    return _case(text, x=(shape, dtype))


def ordered(draw: Draw) -> Case:
    """Cumulative sums, sorts, gathers and scatters."""
    rank, dtype, index = draw.of(1, 2, 2, 3), draw.any(), draw.of("int64", "int64", "int32", "uint8", "int16")
    shape = draw.sizes(rank, LARGEST // 8)
    axis = draw.of(*range(rank))
    n = draw.size(600)
    along = (*shape[:axis], draw.size(40), *shape[axis + 1 :])
    kind = draw.of("cumulative", "take", "along", "set", "add", "embedding", "sort", "scatter")
    if kind == "cumulative":
        name = draw.of("cumsum", "cumprod", "cummax") if "float" in dtype or dtype.startswith("int") else "cumsum"
        text = f"dlc.{name}(x, {axis})"
        return _case(text if name != "cummax" else f"dlc.cumsum(dlc.flip(x, axis={axis}), {axis})", x=(shape, dtype))
    if kind == "take":
        return _case(f"dlc.take(x, i, axis={axis})", x=(shape, dtype), i=((n,), index))
    if kind == "along":
        return _case(f"dlc.take_along_axis(x, i, axis={axis})", x=(shape, dtype), i=(along, "int64"))
    if kind == "scatter":
        return _case(f"dlc.scatter_add(x, {axis}, i, u)", x=(shape, dtype), i=(along, "int64"), u=(along, dtype))
    if kind == "sort":
        few = draw.sizes(rank, INTERPRETED // 10)
        return _case(draw.of(f"dlc.sort(x, axis={axis})", f"dlc.argsort(x, axis={axis})"), x=(few, dtype))
    if kind == "embedding":
        dim = draw.size(300)
        rows = draw.sizes(1, LARGEST // 8 // dim)[0]
        case = _case("F.embedding(i, w)", i=((n,), "int64"), w=((rows, dim), "float32"))
        return _with_gradient(draw, case)
    source = (*shape[:axis], n, *shape[axis + 1 :])
    if np.prod(source, dtype=float) > LARGEST:
        source = (*shape[:axis], 2, *shape[axis + 1 :])
    name = "index_copy" if kind == "set" else "index_add"
    return _case(f"dlc.{name}(x, {axis}, i, u)", x=(shape, dtype), i=((source[axis],), "int64"), u=(source, dtype))


def loop(draw: Draw) -> Case:
    """A recurrent layer's steps."""
    batch, hidden = draw.of(1, 3, 8, 17, 33), draw.size(200)
    text = "dlc.scan(lambda h, t: ((n := dlc.tanh(h @ w + t)), n), h, x)[1]"
    return _case(text, x=((draw.of(1, 3, 7), batch, hidden), "float32"), h=((batch, hidden), "float32"),
                 w=((hidden, hidden), "float32"))


def loss(draw: Draw) -> Case:
    """Losses of classes."""
    n, c = draw.sizes(2, LARGEST // 2)
    return _case("F.cross_entropy(x, y)", x=((n, max(2, c)), draw.of("float32", "bfloat16")), y=((n,), "int64"))


FAMILIES: dict[Callable[[Draw], Case], int] = {
    contraction: 6, product: 5, convolution: 6, pool: 2, normalization: 3, reduction: 4, attention: 1, elementwise: 3,
    ordered: 3, loop: 1, loss: 1,
}


def draw_case(seed: int) -> Case:
    """The case of a seed."""
    draw = Draw(seed)
    family = draw.random.choices(list(FAMILIES), list(FAMILIES.values()))[0]
    case = family(draw)
    return case if family is ordered else _with_gradient(draw, case)


def machine(name: str, seed: int = 0) -> CpuTarget | GpuTarget:
    """One of `TARGETS`: a processor with a number of threads that follows from the seed."""
    found = target(name.removesuffix("-tf32"))
    if isinstance(found, CpuTarget):
        return found.with_threads(THREADS[seed // len(TARGETS) % len(THREADS)])
    return replace(found, tf32=name.endswith("-tf32"))


def lowered(graph: Graph, machine: CpuTarget | GpuTarget) -> list[Run]:
    """The kernels of a graph, as they are launched."""
    return launched(compiler.lower(graph, compiler.Job(machine, "main", ())))


def alternatives(graph: Graph, machine: CpuTarget | GpuTarget, seed: int) -> list[Run]:
    """The kernels of a graph with one each of the other schedules that tuning might choose."""
    pick = random.Random(seed)
    gpu = isinstance(machine, GpuTarget)
    lower = gpu_lowering.LOWER if gpu else lowering.LOWER
    out: list[Run] = []
    for fused in compiler.lower(graph, compiler.Job(machine, "main", ())).fused:
        apart = {b: (n.shape, at) for n, at in fused.table.layout.items() if (b := fused.table.buffers.get(n))}
        for group in fused.groups:
            if group.kind not in ("map", "rows", "contract") or any(u.size == 0 for u in group.units):
                continue
            if gpu:
                found = gpu_candidates.group_schedules(fused, group, machine)
            elif group.kind == "contract":
                found = candidates.contractions(group.units[0].node, machine)
            else:
                found = candidates.group_schedules(fused, group, machine)
            if len(found) > 1:
                made = lower[group.kind](fused, group, pick.choice(found[1:]))
                numbers = {b: n for b, n in zip(made.kernel.params, made.nodes, strict=True) if isinstance(n, int)}
                whole = dict.fromkeys((b for b in made.kernel.params if b.size == RUNTIME), *set(numbers.values()))
                out.append(Run(made.kernel, numbers | whole, {b: apart[b] for b in made.kernel.writes if b in apart}))
    return out


def examine(runs: Sequence[Run]) -> Counter[str]:
    """Check kernels; what could not be decided, by kind. Raises VerifyError, or InterpError."""
    undecided: Counter[str] = Counter()
    for one in runs:
        verify(one.kernel, "lowering")
        notes = check(*one)
        if notes and one.largest <= INTERPRETED:
            interpret(one)
        elif notes:
            undecided[f"{one.kernel.name}: {notes[0]}"] += 1
    return undecided


def interpret(one: Run) -> None:
    """Run a kernel on made-up values: whatever it touches, the interpreter looks at."""
    rng = np.random.default_rng(0)
    arrays = []
    for b in one.kernel.params:
        size = one.sizes.get(b, b.size) if b.size != 1 or b not in one.sizes else 1
        values = rng.integers(0, 5, size).astype(b.dtype.np)
        arrays.append(np.full(1, one.sizes[b], b.dtype.np) if b.size == 1 and b in one.sizes else values)
    run(one.kernel, arrays)


def sweep(seeds: range, names: Sequence[str], until: float = float("inf"), report: Callable[[str], object] = print
          ) -> tuple[int, int, Counter[str]]:
    """(cases, failures, what was not decided) over seeds, each case for the next of the targets."""
    done = failures = 0
    undecided: Counter[str] = Counter()
    for seed in seeds:
        if time.monotonic() > until:
            break
        name = names[seed % len(names)]
        case = draw_case(seed)
        try:
            graph, chip = case.graph(), machine(name, seed)
            undecided += examine(lowered(graph, chip))
            if seed % OTHERS == 0:
                undecided += examine(alternatives(graph, chip, seed))
        except Exception as error:
            failures += 1
            trace = "" if type(error).__name__ in ("VerifyError", "InterpError") else traceback.format_exc(limit=-4)
            report(f"\n# seed {seed} for {name}: {type(error).__name__}: {error}\n{trace}{case}")
        done += 1
    return done, failures, undecided


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0, help="stop after so long")
    parser.add_argument("--cases", type=int, default=1 << 40, help="stop after so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", choices=TARGETS, help="one of the targets, instead of all in turns")
    parser.add_argument("--case", type=int, help="only the case that a failure names, on its target or --target")
    args = parser.parse_args()
    names = (args.target,) if args.target else TARGETS
    first = args.seed * 10_000_000 if args.case is None else args.case
    count = args.cases if args.case is None else 1
    start = time.monotonic()
    done, failures, undecided = sweep(range(first, first + count), names, start + 60 * args.minutes)
    took = time.monotonic() - start
    print(f"{done} cases in {took:.0f} s, {failures} failures, {sum(undecided.values())} not decided")
    for text, count in undecided.most_common(10):
        print(f"    {count} {text}")
    raise SystemExit(failures > 0)


if __name__ == "__main__":
    main()

"""What each folder of cases runs: `PASSES[folder](text, options)` is the text that its pass makes of a text."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from dataclasses import fields, replace

import numpy as np

from dlc.codegen.lower.long_sums import in_blocks
from dlc.codegen.program import gpu_lowering, lowering
from dlc.codegen.program.regions import fuse_program
from dlc.codegen.target.cpu import CpuTarget
from dlc.codegen.target.gpu import GpuTarget
from dlc.ir.graph.graph import Graph, TensorType, structure
from dlc.ir.graph.interp import evaluate
from dlc.ir.graph.text import parse_graph, print_graph
from dlc.ir.graph.verify import verify as verify_graph
from dlc.ir.loops import schedule
from dlc.ir.loops.ir import Kernel
from dlc.ir.loops.parse import parse_kernel
from dlc.ir.loops.schedule import Schedule
from dlc.ir.loops.text import print_kernel
from dlc.ir.loops.verify import verify as verify_kernel
from dlc.passes.autodiff.vjp import expand
from dlc.passes.convolution.polyphase import split_phases
from dlc.passes.convolution.push_slices import trim_contractions
from dlc.passes.fuse.fuse import Fused, Group
from dlc.passes.fuse.unit import Realization
from dlc.runtime.compile import STAGES, Job
from tests import targets
from tests.random_graphs import arguments

Options = Mapping[str, str]
Pass = Callable[[str, Options], str]
Target = CpuTarget | GpuTarget


def target_of(options: Options) -> Target:
    """The option `target`, a name of `tests/targets.py`; options that are called as its fields change those."""
    target = targets.target(options.get("target", "avx2"))
    changed = {f.name: ast.literal_eval(options[f.name]) for f in fields(target) if f.name in options}
    return replace(target, **changed)


OPTIONS = frozenset(("target", "schedule", "contraction", *(f.name for t in (CpuTarget, GpuTarget) for f in fields(t))))


# ------------------------------------------------------------------------------------------------ graph to graph


def graph_text(graph: Graph) -> str:
    """The graph with unique numbers from 0 on, whatever else this process has made."""
    numbers: dict[str, str] = {}
    text = print_graph(graph, locs=False)
    return re.sub(r"\buid=\d+", lambda m: numbers.setdefault(m[0], f"uid={len(numbers)}"), text) + "\n"


def of_graph(run: Callable[[Graph, Target], Graph]) -> Pass:
    """The pass from text to text; what it gives is sound and has the same values, and its text can be read back."""

    def to_text(text: str, options: Options) -> str:
        graph = parse_graph(text)
        verify_graph(graph, "reading")
        new = run(graph, target_of(options))
        verify_graph(new, "the pass")
        out = graph_text(new)
        assert structure(parse_graph(out)) == structure(new)
        same_values(expand(graph), expand(new))
        return out

    return to_text


def same_values(before: Graph, after: Graph) -> None:
    args = arguments(before)
    with np.errstate(all="ignore"):
        pairs = zip(evaluate(before, args, wide=True), evaluate(after, args, wide=True), strict=True)
    for want, got in pairs:
        np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), 1e-5, 1e-5)


def of_stage(name: str) -> Pass:
    """A stage of the compiler that makes a graph of a graph."""
    stage = dict(STAGES)[name]
    return of_graph(lambda graph, target: stage(graph, Job(target)))


# ------------------------------------------------------------------------------------------------- loops to loops


def kernel_text(kernel: Kernel) -> str:
    """The kernel, which is sound and whose text can be read back."""
    verify_kernel(kernel, "the pass")
    text = print_kernel(kernel)
    again = parse_kernel(text)
    assert print_kernel(parse_kernel(print_kernel(again))) == print_kernel(again)
    return text


def long_sums(text: str, options: Options) -> str:
    """Of a reduction; with the option `contraction: yes` of a contraction."""
    kernel = parse_kernel(text)
    body = in_blocks(kernel.body, options.get("contraction") == "yes")
    return kernel_text(Kernel(kernel.name, kernel.params, kernel.writes, body))


# ---------------------------------------------------------------------------------------- graph to groups, to loops


def fused(text: str, options: Options) -> Fused:
    return fuse_program(parse_graph(text), target_of(options)).fused


def groups(text: str, options: Options) -> str:
    """A group a line: its kind, the extents of its rows, its units in order; `*` marks what is stored."""
    found = fused(text, options)

    def word(u: Realization) -> str:
        name = u.node.attrs["monoid"] if u.node.op == "reduce" else u.node.op
        shape = ",".join(map(str, u.node.shape)) if isinstance(u.node.type, TensorType) else ""
        return f"{name}[{shape}]{'*' if u.node in found.stored else ''}"

    def line(g: Group) -> str:
        rows = "" if g.rows is None else "".join(f" {r}" for r in g.rows)
        return f"{g.kind}{rows}: {' '.join(map(word, g.units))}\n"

    return "".join(map(line, found.groups))


def lowered(is_family: Callable[[Schedule | None], bool]) -> Pass:
    """The kernels of the folder's family that the fused graph becomes. The option `schedule` gives their schedule, else
    the target's own rules choose."""

    def to_text(text: str, options: Options) -> str:
        found, target = fused(text, options), target_of(options)
        way = gpu_lowering if isinstance(target, GpuTarget) else lowering
        named = eval(options["schedule"], {}, vars(schedule)) if "schedule" in options else None
        kernels = []
        for group in found.groups:
            kernel = way.lowered_group(found, group, target).kernel
            if named is not None and (len(found.groups) == 1 or type(named) is type(kernel.schedule)):
                kernel = way.LOWER[group.kind](found, group, named).kernel
            if is_family(kernel.schedule):
                kernels.append(kernel_text(kernel))
        assert kernels, "no kernel is of this family"
        return "\n".join(kernels)

    return to_text


def scheduled_as(*kinds: type) -> Pass:
    return lowered(lambda s: isinstance(s, kinds))


PASSES: dict[str, Pass] = {
    "padding_taps": of_stage("padding-taps"),
    "grad": of_stage("grad"),
    "strip_markers": of_stage("strip-markers"),
    "pruned": of_stage("pruned"),
    **{f"simplify/{rules}": of_stage("simplified")
       for rules in ("scalars", "views", "sums", "finite", "windows", "empty")},
    "windows": of_stage("windows"),
    "transposes": of_stage("transposes"),
    "attention": of_stage("target-ops"),
    "blocks": of_stage("blocks"),
    "push_slices": of_graph(lambda graph, target: trim_contractions(graph)),
    "polyphase": of_graph(lambda graph, target: split_phases(graph)),
    **{f"layout/{kind}": of_stage("layout") for kind in ("cpu", "cpu_pairs", "cpu_amx", "gpu")},
    "long_sums": long_sums,
    "fuse": groups,
    "lower/map": scheduled_as(schedule.Map),
    "lower/rows": scheduled_as(schedule.Rows, schedule.Columns),
    "lower/contract": lowered(lambda s: isinstance(s, schedule.Contract) and not s.stack),
    "lower/contract_amx": lowered(lambda s: isinstance(s, schedule.Contract) and s.stack > 0),
    "lower/scatter_sort_scan": scheduled_as(schedule.Plain),
    "lower/gpu/map": scheduled_as(schedule.GpuMap),
    "lower/gpu/rows": scheduled_as(schedule.GpuRows, schedule.GpuColumns),
    "lower/gpu/contract": scheduled_as(schedule.GpuContract),
    "lower/gpu/mma": lowered(lambda s: isinstance(s, schedule.GpuMma) and not s.bulk),
    "lower/gpu/tma": lowered(lambda s: isinstance(s, schedule.GpuMma) and s.bulk),
    "lower/gpu/skinny": scheduled_as(schedule.GpuSkinny),
    "lower/gpu/scatter": scheduled_as(schedule.GpuOrdered),
    "lower/gpu/attention": scheduled_as(schedule.GpuAttention),
}

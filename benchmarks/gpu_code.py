"""What NVIDIA's compiler makes of the matrix kernels of the anchors' steps: registers, spills. Needs NVRTC but no GPU.

    python -m benchmarks.gpu_code [CASE ...] [--arch sm_90a] [--all]

Each case of `benchmarks.gpu_models` is traced and lowered at the size of the anchors; its contractions and attention
are compiled, equal ones once. Only those that spill are printed, or all with --all.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import click
import numpy as np

from benchmarks.gpu_models import CASES, GpuCase, settings
from benchmarks.training import LEARNING_RATE

STEPS = [name for name in CASES if CASES[name].training is not None or name.startswith("gemm") or name == "k_attn"]
ARCHS = ("sm_80", "sm_90a")
_FRAME = r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
_REPORT = re.compile(_FRAME + r".*?Used (\d+) registers", re.S)


class Code(NamedTuple):
    """A kernel as compiled: bytes of spills, bytes of local memory, registers, the compiler's warnings."""

    spills: int
    local: int
    registers: int
    warnings: str


def is_matrix(kernel: Any) -> bool:
    """Is this a kernel of the GEMM family: a contraction in any way, attention?"""
    from dlc.ir.loops import schedule

    family = (schedule.GpuMma, schedule.GpuContract, schedule.GpuSkinny, schedule.GpuAttention)
    return isinstance(kernel.schedule, family)


def lowered(case: GpuCase) -> Any:
    """The case's step, traced, with the model's own initial weights."""
    import dlc
    import dlc.nn.functional
    import dlc.optim

    with settings(case):
        if case.training is None:
            assert case.shapes is not None and case.dlc is not None
            dtype = dlc.bfloat16 if case.bf16 else dlc.float32
            return dlc.jit(case.dlc).lower(*[dlc.zeros(s, dtype=dtype).realize() for s in case.shapes()])
        training = case.training()
        model = training.model(dlc, training.dropout)
        optimizer = dlc.optim.Adam(model.parameters(), lr=LEARNING_RATE)
        loss_of, bf16 = training.loss, training.bf16

        @dlc.jit
        def step(*batch: Any) -> Any:
            optimizer.zero_grad()
            with dlc.autocast(dlc.bfloat16) if bf16 else contextlib.nullcontext():
                loss = loss_of(dlc, model, *batch)
            loss.backward()
            optimizer.step()
            return loss

        return step.lower(*[dlc.asarray(a) for a in training.batch(np.random.default_rng(0))])


def texts(step: Any, arch: str) -> Iterator[tuple[str, Any, str]]:
    """(name, schedule, source) of each matrix kernel of a lowered step."""
    from dlc.codegen.cuda.kernel import emit_module
    from dlc.codegen.target.gpu import GpuTarget

    for kernel in step.program(f"cuda:{arch.rstrip('a')}").kernels():
        if is_matrix(kernel):
            yield kernel.name, kernel.schedule, emit_module([kernel], GpuTarget.of(arch))


def compiled(source: str, arch: str) -> Code:
    """The source of one kernel through NVRTC. Raises NVRTC's error where it does not compile."""
    from cupy.cuda import nvrtc

    from dlc.runtime.cuda.modules import OPTIONS

    program = nvrtc.createProgram(source, "dlc.cu", (), ())
    try:
        nvrtc.compileProgram(program, (f"-arch={arch}", *OPTIONS, "--ptxas-options=-v"))
        report = nvrtc.getProgramLog(program)
    finally:
        nvrtc.destroyProgram(program)
    found = _REPORT.search(report)
    assert found is not None, report
    stack, stores, loads, registers = map(int, found.groups())
    warnings = "\n".join(line for line in report.splitlines() if "serialized" in line)
    return Code(stores + loads, stack, registers, warnings)


def normal(source: str, name: str) -> str:
    """A kernel's source without its name and comments: what is the same for equal kernels."""
    return re.sub(r"//.*", "", re.sub(rf"\b{re.escape(name)}\b", "kernel", source))


@click.command(help=__doc__)
@click.argument("names", nargs=-1)
@click.option("--arch", multiple=True, default=ARCHS)
@click.option("--all", "everything", is_flag=True)
@click.option("--save", help="A folder for the sources.")
def main(names: tuple[str, ...], arch: tuple[str, ...], everything: bool, save: str | None) -> None:
    from dlc.runtime.cuda.modules import thread_count

    known: dict[tuple[str, str], Code] = {}
    total = 0
    for name in names or STEPS:
        if name not in CASES:
            raise click.BadParameter(f"unknown case {name!r}; there are {', '.join(CASES)}")
        step = lowered(CASES[name])
        for a in arch:
            kernels = list(texts(step, a))
            new = {normal(text, k): text for k, _, text in kernels if (a, normal(text, k)) not in known}
            with ThreadPoolExecutor(thread_count()) as pool:
                made = list(pool.map(lambda text, a=a: compiled(text, a), new.values()))
            known |= {(a, key): code for key, code in zip(new, made, strict=True)}
            shown = [(known[a, normal(text, k)], k, sched, text) for k, sched, text in kernels]
            bad = [x for x in shown if x[0].spills or x[0].local or x[0].warnings]
            total += len(bad)
            click.echo(f"{name} {a}: {len(shown)} matrix kernels, {len(new)} new, {len(bad)} spill")
            for code, k, sched, text in shown if everything else bad:
                click.echo(f"    {code.spills:5} spilled {code.local:5} local {code.registers:4}r {k:30} {sched} "
                           f"{code.warnings}")
                if save:
                    with open(f"{save}/{name}-{a}-{k}.cu", "w") as file:
                        file.write(text)
    click.echo(f"{total} spill")


if __name__ == "__main__":
    main()

"""`dlc dump`: what the compiler makes of a function, at any stage."""

from __future__ import annotations

import os
from pathlib import Path

import click

from dlc.base.errors import DeviceError
from dlc.cli.difference import difference
from dlc.cli.errors import CommandError
from dlc.cli.highlight import show
from dlc.cli.target import find
from dlc.frontend.jit.lowered import Lowered
from dlc.inspect.stages import CPU_STAGES, GPU_STAGES, GRAPH_STAGES, KERNEL_STAGES, LANGUAGE, STAGES
from dlc.ir.loops.text import print_kernel


@click.command()
@click.argument("target")
@click.option("--stage", default="fused", show_default=True, metavar="STAGE", help=f"One of {', '.join(STAGES)}.")
@click.option("--device", metavar="DEVICE", help="cpu; cuda, cuda:0; or cuda:sm_80, cuda:sm_90 without a GPU.")
@click.option("--kernel", type=int, help="Only kernel N of loops or scheduled, numbered as in fused.")
@click.option("--diff", nargs=2, metavar="A B", help="The difference between two graph stages.")
def dump(target: str, stage: str, device: str | None, kernel: int | None, diff: tuple[str, str] | None) -> None:
    """Show what the compiler makes of TARGET, which is file.py:function or module:function.

    The file says what arguments to compile for: example_args() returns a tuple of them (example_args_NAME() for one
    function of several). Nothing is run but the tracing.

    \b
    graph       as traced: tensor operations, each with your source line
    grad        derivatives written out          the others up to layout: after each graph pass
    fused       the kernels: what each computes, reads and writes
    loops       the kernels as plain loops       scheduled: tiled and vectorised for this machine
    program     the launches in order, and where every tensor lives; ordered, donated, side-by-side and memory: before
    llvm, asm   the generated code for the CPU
    cuda, ptx, sass   and for a GPU
    """
    for name in diff or (stage,):
        if name not in STAGES:
            raise CommandError(f"no stage {name!r}; there are {', '.join(STAGES)}")
        if diff and name not in GRAPH_STAGES:
            raise CommandError(f"--diff compares graphs, and {name} is none; there are {', '.join(GRAPH_STAGES)}")
    if kernel is not None and (diff or stage not in KERNEL_STAGES):
        raise CommandError(f"--kernel needs --stage {' or '.join(KERNEL_STAGES)}")
    device = device or ("cuda" if stage in GPU_STAGES else "cpu")
    for names, other in ((CPU_STAGES, "cuda"), (GPU_STAGES, "cpu")):
        if not diff and stage in names and device.startswith(other):
            raise CommandError(f"there is no stage {stage} for device {device}")
    try:
        _show(find(target).lower(), target, device, stage, kernel, diff)
    except DeviceError as error:
        raise CommandError(str(error)) from None


def _show(lowered: Lowered, target: str, device: str, stage: str, kernel: int | None,
          diff: tuple[str, str] | None) -> None:
    if diff:
        texts = [lowered.text(name, device) for name in diff]
        show(_relative(difference(*texts, *diff)), "diff")
    elif kernel is not None:
        found = lowered.kernels(stage, device)
        if not 0 <= kernel < len(found):
            raise CommandError(f"no kernel {kernel}: {target} has {len(found)}, counted from 0")
        show(_relative(print_kernel(found[kernel])), "loops")
    else:
        show(_relative(lowered.text(stage, device)), LANGUAGE.get(stage))


def _relative(text: str) -> str:
    """Source files below the working directory by their relative path."""
    return text.replace(f"{Path.cwd()}{os.sep}", "")

"""The texts that dlc generates for the benchmarks' steps: written to a folder, or compared with an earlier commit's.

    python -m benchmarks.texts FOLDER [--against OTHER] [CASE ...]

A change that only moves code leaves them as they were: run this at the commit before, then here with `--against`. The
texts are LLVM IR and the program for this host, and CUDA C for sm_90; no GPU is needed. Paths of the checkout in
comments are left out.
"""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks.gpu_code import lowered
from benchmarks.gpu_models import CASES

STAGES = (("llvm", "cpu"), ("program", "cpu"), ("cuda", "cuda:sm_90"))
LARGE = ("gpt2_124m_bf16", "gemm_8192_bf16")  # nothing new in them, and much memory


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.argument("names", nargs=-1)
@click.option("--against", type=click.Path(path_type=Path, exists=True, file_okay=False), help="An earlier folder.")
def main(folder: Path, names: tuple[str, ...], against: Path | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    here, different = f"{Path.cwd()}/", []
    for name in names or [n for n in CASES if n not in LARGE]:
        if name not in CASES:
            raise click.BadParameter(f"unknown case {name!r}; there are {', '.join(CASES)}")
        step = lowered(CASES[name])
        for stage, device in STAGES:
            text = step.text(stage, device).replace(here, "")
            path = folder / f"{name}.{stage}"
            path.write_text(text)
            if against is not None and (against / path.name).read_text() != text:
                different.append(path.name)
        click.echo(f"{name}: {', '.join(stage for stage, _ in STAGES)}")
    if against is not None:
        click.echo(f"different: {', '.join(different) or 'none'}")
        raise SystemExit(bool(different))


if __name__ == "__main__":
    main()

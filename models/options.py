"""What the options of the training commands have in common."""

from __future__ import annotations

import contextlib
import importlib.util
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

import dlc
from dlc.base.settings import SettingError
from dlc.data import DatasetError
from models import checkpoint

SEED = click.option(
    "--seed", type=click.IntRange(0), default=0, help="Of everything random: equal seeds give equal runs."
)
PICTURES = (".png", ".pdf", ".svg", ".jpg", ".jpeg")
DEVICE = click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu")


class Number(click.FloatRange):
    """A number in a range; infinities and NaN are none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{number} is no number in a range.", param, ctx)
        return number


def run_options(saved: str, drawn: str) -> Callable[[Callable], Callable]:
    """The options of every training command; `saved` says when it writes the run, `drawn` what it draws."""
    options = (
        SEED,
        DEVICE,
        click.option("--autocast", is_flag=True, help="Multiply matrices in bfloat16."),
        click.option("--save", metavar="FILE", help=f"Write the run here after each {saved}, and on Ctrl-C."),
        click.option("--resume", metavar="FILE", help="Go on with a saved run, with its settings."),
        click.option("--plot", metavar="PNG", help=f"Draw {drawn}."),
    )

    def add(function: Callable) -> Callable:
        for option in reversed(options):
            function = option(function)
        return function

    return add


def change_defaults(ctx: click.Context, options: dict[str, Any], changed: Mapping[str, Any]) -> None:
    """Put the values of `changed` into `options`, but for what the command line says."""
    for name, value in changed.items():
        if ctx.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            options[name] = value


def check_outputs(plot: str | None, *others: str | None) -> None:
    """Can these files be made at the end? Training is long: what cannot be is an error before it."""
    for path in filter(None, (plot, *others)):
        if Path(path).is_dir():
            raise click.UsageError(f"{path} is a folder")
        if not Path(path).absolute().parent.is_dir():
            raise click.UsageError(f"{path}: there is no folder {Path(path).parent}")
    if plot and Path(plot).suffix.lower() not in ("", *PICTURES):
        raise click.UsageError(f"{plot}: a picture ends in {', '.join(PICTURES)}")
    if plot and importlib.util.find_spec("matplotlib") is None:
        raise click.UsageError("--plot needs the package matplotlib: pip install 'dlc[models]'")


def resumed(ctx: click.Context, options: dict[str, Any], path: str) -> dict[str, Any]:
    """The settings of a saved run. What the command line says otherwise, of `options`, is an error."""
    saved = checkpoint.settings(path)
    for param in ctx.command.params:
        name = str(param.name)
        if name not in options:
            continue
        if options[name] is not None or saved.get(name, "") is not None:  # some options need not be given
            _check_setting(ctx, param, path, saved)
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE and options[name] != saved[name]:
            flag, was = "--" + name.replace("_", "-"), saved[name]
            raise click.UsageError(f"{flag} {options[name]} cannot be changed in a resumed run, which has {was}")
    return saved


def _check_setting(ctx: click.Context, param: click.Parameter, path: str, saved: dict[str, Any]) -> None:
    """Raise CheckpointError unless the setting is one that the command line could have made."""
    name = str(param.name)
    kinds = {click.types.BoolParamType: bool, click.IntRange: int, Number: float}
    value = checkpoint.setting(path, saved, name, kinds.get(type(param.type), str))
    try:
        param.type.convert(value, param, ctx)
    except click.UsageError as error:
        raise dlc.CheckpointError(f"{path} is no sound training run: its setting {name}: {error.message}") from None


def placed(device: str) -> contextlib.AbstractContextManager[Any]:
    """The context in which everything is made on `device`."""
    try:
        return dlc.device(device)
    except dlc.DlcError as error:
        raise click.UsageError(f"--device {device}: {str(error).splitlines()[0]}") from None


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Files that cannot be used end a command with a message."""
    try:
        yield
    except (DatasetError, SettingError, OSError, MemoryError) as error:  # a CheckpointError is an OSError
        raise click.ClickException(str(error).partition("\n  at ")[0]) from None  # the line is none of the user's

"""What the training commands on images share: the command, and what the loop is to do for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np

import dlc
from dlc import nn, optim
from dlc.data import DatasetError
from models import loop
from models.data import Data, load
from models.loop import History, Loop
from models.options import Number, change_defaults, check_outputs, placed, reported, resumed, run_options


def one_cycle(optimizer: optim.Optimizer, lr: float, steps: int) -> optim.lr_scheduler.LRScheduler:
    """Up to `lr` and down again."""
    return optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)


class Task(NamedTuple):
    """How training differs from that of a classifier of digits.

    `variants` are flags of the command, each with the defaults that it changes: `{"wide": {"lr": 0.4}}` makes `--wide`.
    `build` gets `wide=True` or `wide=False`.
    """

    load: Callable[[str, int, int], Data] = load  # of (data set, batch size, seed)
    metric: str = "accuracy"  # the name of what `measure` gives
    form: str = ".2%"  # how it is printed
    measure: Callable[[nn.Module, Data], float] | None = None  # on held-out data; None: the share that `predict` gets
    schedule: Callable[[optim.Optimizer, float, int], optim.lr_scheduler.LRScheduler] = one_cycle
    picture: Callable[[nn.Module, Data, str], None] | None = None  # drawn after each epoch
    variants: Mapping[str, Mapping[str, Any]] = {}


def command(build: Callable, train_step: Callable, predict: Callable | None, epochs: dict[str, int], batch_size: int,
            lr: float, task: Task = Task()) -> click.Command:  # noqa: B008
    """A training command. `build(data, lr)` gives model and optimizer; `train_step(model, optimizer, *batch)` the loss;
    `predict(model, x)` the classes. `epochs` are the defaults by data set; the name 'FOLDER' stands for any folder."""

    @click.command(context_settings={"show_default": True})
    @click.option("--data", type=_DataSet(sorted(epochs)), default="digits", help="What to train on.")
    @click.option("--epochs", type=click.IntRange(1), help="Passes over the data. [default: by data set]")
    @click.option("--steps", type=click.IntRange(1), help="End after so many steps, whatever --epochs says.")
    @click.option("--batch-size", type=click.IntRange(2), default=batch_size)
    @click.option("--lr", type=Number(0, min_open=True), default=lr, help="Highest learning rate.")
    @run_options(saved="epoch", drawn="the loss and the metric")
    @click.pass_context
    def run(ctx: click.Context, device: str, save: str | None, resume: str | None, plot: str | None,
            picture: str | None = None, **options: Any):
        place = placed(device)
        for name, changed in task.variants.items():
            if options[name]:
                change_defaults(ctx, options, changed)
        if options["epochs"] is None:
            options["epochs"] = epochs.get(options["data"]) or epochs["FOLDER"]
        check_outputs(plot, save, picture)
        with reported():
            if resume:
                options = resumed(ctx, options, resume)
            with place:
                history = train(build, train_step, predict, options, save=save, resume=resume, task=task,
                                picture=picture)
            if plot:
                loop.draw(history, plot)

    for name, changed in task.variants.items():
        changes = ", ".join(f"{option} {value}" for option, value in changed.items())
        run.params.append(click.Option([f"--{name}"], is_flag=True, help=f"Changes the defaults: {changes}."))
    if task.picture:
        run.params.append(click.Option(["--picture"], metavar="PNG", help="Draw this after each epoch."))
    return run


class _DataSet(click.Choice):
    """The name of a data set, or the path of a folder where one is called FOLDER."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if "FOLDER" in self.choices and Path(value).is_dir():
            return value
        return super().convert(value, param, ctx)


def train(build: Callable, train_step: Callable, predict: Callable | None, options: dict[str, Any], *,
          save: str | None = None, resume: str | None = None, task: Task = Task(),  # noqa: B008
          picture: str | None = None) -> History:
    """Train and test; returns the loss of each step and the metric of each epoch. Ctrl-C ends it early."""
    dlc.manual_seed(options["seed"])
    data = task.load(options["data"], options["batch_size"], options["seed"])
    model, optimizer = build(data, options["lr"], **{name: options.get(name, False) for name in task.variants})
    steps = len(data.train)
    if not steps:
        raise DatasetError(f"{len(data.train.dataset)} samples do not fill a batch of {options['batch_size']}")
    total = options.get("steps") or options["epochs"] * steps
    scheduler = task.schedule(optimizer, options["lr"], total)
    label = "test" if task.measure is None else task.metric

    def measure() -> float:
        return task.measure(model, data) if task.measure else accuracy(model, predict, data)

    def report(history: History, rate: float) -> str:
        measured = history[task.metric]
        loss = np.mean(history["loss"][(len(measured) - 1) * steps :])
        return (f"epoch {len(measured):2}/{-(-total // steps)}  loss {loss:.4f}  {label} {measured[-1]:{task.form}}  "
                f"{rate:,.0f} samples/s")

    return loop.run(Loop(
        parts={"model": model, "optimizer": optimizer, "scheduler": scheduler, "loader": data.train},
        step=partial(train_step, model, optimizer),
        steps=total,
        every=steps,
        metric=task.metric,
        measure=measure,
        report=report,
        picture=partial(task.picture, model, data, picture) if picture and task.picture else None,
    ), options, save=save, resume=resume)  # fmt: skip


def accuracy(model: nn.Module, predict: Callable, data: Data) -> float:
    """The share of test images that the model gets right."""
    model.eval()
    right = [predict(model, x).numpy() == y.numpy() for x, y in data.test]
    return float(np.concatenate(right).mean())

"""What the training commands share: the command, the loop, evaluation, saving and resuming."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import dlc
from dlc import nn, optim
from dlc.data import DatasetError
from models import checkpoint
from models.data import Data, load
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
                draw(history, plot)

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


def autocast(on: bool) -> contextlib.AbstractContextManager[Any]:
    """The context that training runs in: bfloat16 matrix products, or nothing."""
    if not on:
        return contextlib.nullcontext()
    return dlc.autocast(dlc.bfloat16)


def train(build: Callable, train_step: Callable, predict: Callable | None, options: dict[str, Any], *,
          save: str | None = None, resume: str | None = None, task: Task = Task(),  # noqa: B008
          picture: str | None = None) -> dict[str, list[float]]:
    """Train and test; returns the loss of each step and the metric of each epoch. Ctrl-C ends it early."""
    dlc.manual_seed(options["seed"])
    data = task.load(options["data"], options["batch_size"], options["seed"])
    model, optimizer = build(data, options["lr"], **{name: options.get(name, False) for name in task.variants})
    epochs, steps = options["epochs"], len(data.train)
    if not steps:
        raise DatasetError(f"{len(data.train.dataset)} samples do not fill a batch of {options['batch_size']}")
    total = options.get("steps") or epochs * steps
    epochs = -(-total // steps)
    scheduler = task.schedule(optimizer, options["lr"], total)
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "loader": data.train}
    history: dict[str, list[float]] = {"loss": [], task.metric: []}
    if resume:
        history = checkpoint.load(resume, parts, history)
    measured, label = history[task.metric], "test" if task.measure is None else task.metric
    console = Console(highlight=False)
    with (
        Interrupt() as interrupt,
        autocast(options.get("autocast", False)),
        ProgressBar(console, total, len(history["loss"])) as progress,
    ):
        for epoch in range(len(measured) + 1, epochs + 1):
            model.train()
            start, done = time.perf_counter(), 0
            for batch in data.train:
                history["loss"].append(train_step(model, optimizer, *batch).item())
                scheduler.step()
                done += 1
                rate = done * options["batch_size"] / (time.perf_counter() - start)
                progress(history["loss"], rate)
                at_end = len(history["loss"]) % steps == 0 or len(history["loss"]) == total
                if at_end or interrupt:
                    break
            if at_end:
                model.eval()
                measured.append(task.measure(model, data) if task.measure else accuracy(model, predict, data))
                loss = np.mean(history["loss"][(epoch - 1) * steps :])
                console.print(f"epoch {epoch:2}/{epochs}  loss {loss:.4f}  {label} {measured[-1]:{task.form}}  "
                              f"{rate:,.0f} samples/s", soft_wrap=True)
                if picture and task.picture:
                    task.picture(model, data, picture)
            if save:
                checkpoint.save(save, options, parts, history)
            if interrupt:
                console.print("stopped" + (f"; go on with --resume {save}" if save else ""), soft_wrap=True)
                break
    return history


def accuracy(model: nn.Module, predict: Callable, data: Data) -> float:
    """The share of test images that the model gets right."""
    model.eval()
    right = [predict(model, x).numpy() == y.numpy() for x, y in data.test]
    return float(np.concatenate(right).mean())


class Interrupt:
    """Ctrl-C asks for an end after the present step: true from then on. A second Ctrl-C ends at once."""

    def __init__(self) -> None:
        self.asked = False

    def __bool__(self) -> bool:
        return self.asked

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def __enter__(self) -> Interrupt:
        self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *exc: Any) -> None:
        signal.signal(signal.SIGINT, self._before)


class ProgressBar:
    """A progress bar with loss and speed, on a terminal only; moved ten times a second, not at each step."""

    def __init__(self, console: Console, total: int, done: int, unit: str = "samples"):
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}"), TimeRemainingColumn())
        self.bar = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
        self.task = self.bar.add_task("", total=total, completed=done, text="")
        self.unit, self.next = unit, 0.0

    def __call__(self, losses: list[float], rate: float) -> None:
        if (now := time.perf_counter()) >= self.next:
            self.next = now + 0.1
            text = f"loss {np.mean(losses[-20:]):.4f}  {rate:,.0f} {self.unit}/s"
            self.bar.update(self.task, completed=len(losses), text=text)

    def __enter__(self) -> ProgressBar:
        self.bar.start()
        return self

    def __exit__(self, *exc: Any) -> None:
        self.bar.stop()


def draw(history: dict[str, list[float]], path: str) -> None:
    """Loss by step and the metric by epoch as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    loss = history["loss"]
    metric, tests = next((name, values) for name, values in history.items() if name != "loss")
    window = max(1, len(loss) // 100)
    smooth = np.convolve(loss, np.ones(window) / window, "valid")
    figure, left = pyplot.subplots(figsize=(7, 4), layout="constrained")
    left.semilogy(np.arange(len(smooth)) + window, smooth, color="tab:blue")
    left.set(xlabel="step", ylabel=f"training loss, mean of {window}")
    right = left.twinx()
    steps = np.arange(1, len(tests) + 1) * (len(loss) / max(1, len(tests)))
    right.plot(steps, tests, "o-", color="tab:orange")
    right.set(ylabel=f"test {metric}")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)

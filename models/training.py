"""What the training commands share: options, the loop, evaluation, saving and resuming."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from click.core import ParameterSource
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import dlc
from dlc import nn, optim
from dlc.data import DatasetError
from models import checkpoint
from models.data import Data, load

SETTINGS = ("data", "epochs", "batch_size", "lr", "seed")  # what decides how a run goes


def command(build: Callable, train_step: Callable, predict: Callable, epochs: dict[str, int], batch_size: int,
            lr: float) -> click.Command:
    """A training command. `build(data, lr)` gives model and optimizer; `train_step(model, optimizer, x, y)` the loss;
    `predict(model, x)` the classes. `epochs` are the defaults by data set."""

    @click.command(context_settings={"show_default": True})
    @click.option("--data", type=click.Choice(sorted(epochs)), default="digits", help="What to train on.")
    @click.option("--epochs", type=click.IntRange(1), help="Passes over the data. [default: by data set]")
    @click.option("--batch-size", type=click.IntRange(2), default=batch_size)
    @click.option("--lr", type=click.FloatRange(0, min_open=True), default=lr, help="Highest learning rate.")
    @click.option("--seed", type=int, default=0, help="Of everything random: equal seeds give equal runs.")
    @click.option("--device", type=click.Choice(["cpu"]), default="cpu")
    @click.option("--save", metavar="FILE", help="Write the run here after each epoch, and on Ctrl-C.")
    @click.option("--resume", metavar="FILE", help="Go on with a saved run, with its settings.")
    @click.option("--plot", metavar="PNG", help="Draw loss and accuracy.")
    @click.pass_context
    def run(ctx: click.Context, device: str, save: str | None, resume: str | None, plot: str | None, **options: Any):
        if options["epochs"] is None:
            options["epochs"] = epochs[options["data"]]
        for path in filter(None, (save, plot)):
            if not Path(path).absolute().parent.is_dir():
                raise click.UsageError(f"{path}: there is no folder {Path(path).parent}")
        try:
            if resume:
                options = _resumed(ctx, options, checkpoint.settings(resume))
            history = train(build, train_step, predict, options, save=save, resume=resume)
        except (DatasetError, dlc.CheckpointError) as error:
            raise click.ClickException(str(error)) from None
        if plot:
            draw(history, plot)

    return run


def _resumed(ctx: click.Context, options: dict[str, Any], saved: dict[str, Any]) -> dict[str, Any]:
    for name, value in options.items():
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE and value != saved[name]:
            flag = "--" + name.replace("_", "-")
            raise click.UsageError(f"{flag} {value} cannot be changed in a resumed run, which has {saved[name]}")
    return saved


def train(build: Callable, train_step: Callable, predict: Callable, options: dict[str, Any], *, save: str | None = None,
          resume: str | None = None) -> dict[str, list[float]]:
    """Train and test; returns the loss of each step and the test accuracy of each epoch. Ctrl-C ends it early."""
    dlc.manual_seed(options["seed"])
    data = load(options["data"], options["batch_size"], options["seed"])
    model, optimizer = build(data, options["lr"])
    epochs, steps = options["epochs"], len(data.train)
    scheduler = optim.lr_scheduler.OneCycleLR(optimizer, options["lr"], epochs=epochs, steps_per_epoch=steps)
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "loader": data.train}
    history: dict[str, list[float]] = {"loss": [], "accuracy": []}
    if resume:
        history = checkpoint.load(resume, parts)
    console = Console(highlight=False)
    with Interrupt() as interrupt, _progress(console, epochs * steps, len(history["loss"])) as progress:
        for epoch in range(len(history["accuracy"]) + 1, epochs + 1):
            model.train()
            start, done = time.perf_counter(), 0
            for x, y in data.train:
                history["loss"].append(train_step(model, optimizer, x, y).item())
                scheduler.step()
                done += 1
                rate = done * options["batch_size"] / (time.perf_counter() - start)
                progress(history["loss"], rate)
                if interrupt and len(history["loss"]) % steps:
                    break
            else:
                history["accuracy"].append(accuracy(model, predict, data))
                loss = np.mean(history["loss"][-steps:])
                console.print(f"epoch {epoch:2}/{epochs}  loss {loss:.4f}  test {history['accuracy'][-1]:.2%}  "
                              f"{rate:,.0f} samples/s", soft_wrap=True)
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


class _progress:
    """A progress bar with loss and speed, on a terminal only; moved ten times a second, not at each step."""

    def __init__(self, console: Console, total: int, done: int):
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}"), TimeRemainingColumn())
        self.bar = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
        self.task = self.bar.add_task("", total=total, completed=done, text="")
        self.next = 0.0

    def __call__(self, losses: list[float], rate: float) -> None:
        if (now := time.perf_counter()) >= self.next:
            self.next = now + 0.1
            text = f"loss {np.mean(losses[-20:]):.4f}  {rate:,.0f} samples/s"
            self.bar.update(self.task, completed=len(losses), text=text)

    def __enter__(self) -> _progress:
        self.bar.start()
        return self

    def __exit__(self, *exc: Any) -> None:
        self.bar.stop()


def draw(history: dict[str, list[float]], path: str) -> None:
    """Loss by step and test accuracy by epoch as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    loss, tests = history["loss"], history["accuracy"]
    window = max(1, len(loss) // 100)
    smooth = np.convolve(loss, np.ones(window) / window, "valid")
    figure, left = pyplot.subplots(figsize=(7, 4), layout="constrained")
    left.semilogy(np.arange(len(smooth)) + window, smooth, color="tab:blue")
    left.set(xlabel="step", ylabel=f"training loss, mean of {window}")
    right = left.twinx()
    steps = np.arange(1, len(tests) + 1) * (len(loss) / max(1, len(tests)))
    right.plot(steps, tests, "o-", color="tab:orange")
    right.set(ylabel="test accuracy")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)

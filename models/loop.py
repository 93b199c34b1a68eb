"""The training loop of every command: steps, measurements on held-out data, saving and resuming, Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import dlc
from dlc import Tensor
from dlc.data import DataLoader
from models import checkpoint

History = dict[str, list[float]]  # "loss" of each step, and the metric of each measurement by its name


class Loop(NamedTuple):
    """What is trained, and how it is looked at."""

    parts: dict[str, Any]  # of its file: model, optimizer, scheduler, loader, and what one step hands to the next
    step: Callable[..., Tensor]  # train on a batch; its loss
    steps: int  # to take altogether
    every: int  # steps from one measurement to the next; another one follows the last step
    metric: str
    measure: Callable[[], float]  # on held-out data, with the model in eval mode
    report: Callable[[History, float], str]  # a line about the last measurement; the rate is in units a second
    unit: str = "samples"
    count: Callable[[Any], int] = len  # units in the first Tensor of a batch
    opening: str = ""  # a line before the first step
    picture: Callable[[], None] | None = None  # drawn after each measurement


def run(loop: Loop, settings: dict[str, Any], *, save: str | None = None, resume: str | None = None) -> History:
    """Train to the end, or until Ctrl-C. `save` is written after each measurement and at Ctrl-C."""
    history: History = {"loss": [], loop.metric: []}
    if resume:
        history = checkpoint.load(resume, loop.parts, history)
    losses, model = history["loss"], loop.parts["model"]
    console = Console(highlight=False)
    if loop.opening:
        console.print(loop.opening, soft_wrap=True)
    with (
        Interrupt() as interrupt,
        autocast(settings.get("autocast", False)),
        ProgressBar(console, loop.steps, len(losses), loop.unit) as progress,
    ):
        model.train()
        start, done = time.perf_counter(), 0
        for batch in _endless(loop.parts["loader"]) if len(losses) < loop.steps else ():
            losses.append(loop.step(*batch).item())
            loop.parts["scheduler"].step()
            done += loop.count(batch[0])
            rate = done / (time.perf_counter() - start)
            progress(losses, rate)
            is_measured = len(losses) % loop.every == 0 or len(losses) == loop.steps
            if is_measured:
                model.eval()
                history[loop.metric].append(loop.measure())
                console.print(loop.report(history, rate), soft_wrap=True)
                if loop.picture:
                    loop.picture()
                model.train()
            if save and (is_measured or interrupt):
                checkpoint.save(save, settings, loop.parts, history)
            if interrupt or len(losses) == loop.steps:
                break
            if is_measured:
                start, done = time.perf_counter(), 0
        if interrupt:
            console.print("stopped" + (f"; go on with --resume {save}" if save else ""), soft_wrap=True)
    return history


def _endless(loader: DataLoader) -> Iterator[Any]:
    while True:
        yield from loader


def autocast(on: bool) -> contextlib.AbstractContextManager[Any]:
    """The context that training runs in: bfloat16 matrix products, or nothing."""
    if not on:
        return contextlib.nullcontext()
    return dlc.autocast(dlc.bfloat16)


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

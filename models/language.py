"""What the language models share: texts, the options of their commands, drawing tokens."""

from __future__ import annotations

import itertools
import math
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import click
import numpy as np

import dlc
from dlc import Tensor, nn, optim
from dlc.data import (
    DataLoader,
    DatasetError,
    Vocabulary,
    penn_treebank,
    python_sources,
    read_text,
    tiny_shakespeare,
)
from models import loop
from models.loop import History, Loop
from models.options import Number, change_defaults, check_outputs, placed, reported, resumed, run_options

EVALUATIONS = 10  # in a run
Presets = Mapping[str, Mapping[str, Any]]


class Text(NamedTuple):
    """The numbered tokens to train on and those held out. Tokens are characters, or words where `words` is set."""

    train: np.ndarray
    valid: np.ndarray
    vocabulary: Vocabulary
    words: bool = False

    def encode(self, prompt: str) -> np.ndarray:
        """The numbers of a prompt's tokens. Raises ValueError for one that the vocabulary lacks."""
        return self.vocabulary.encode(prompt.replace("\n", " <eos> ").split() if self.words else prompt)

    def decode(self, numbers: list[int]) -> str:
        """Tokens as one string; numbers beyond the vocabulary are shown as such."""
        known = len(self.vocabulary)
        tokens = [self.vocabulary.tokens[k] if k < known else "\N{REPLACEMENT CHARACTER}" for k in numbers]
        return re.sub(" ?<eos> ?", "\n", " ".join(tokens)) if self.words else "".join(tokens)

    @property
    def beginning(self) -> str:
        """What to write on from when there is no prompt: the end of a line, or the text's first token."""
        line_end = "<eos>" if self.words else "\n"
        return line_end if line_end in self.vocabulary.numbers else self.vocabulary.tokens[int(self.train[0])]


def load(name: str) -> Text:
    """A text by name, or a file or folder; of one whole text the last tenth is held out.

    'python' is the source of Python's standard library; 'shakespeare' and 'ptb' are read from `$DLC_DATA`, and
    downloaded if they are not there; 'ptb-small' is trained on the test part of ptb. Raises DatasetError.
    """
    if name in ("ptb", "ptb-small"):
        train = penn_treebank("train" if name == "ptb" else "test", download=True)
        vocabulary = Vocabulary.of(train, unknown="<unk>")
        valid = penn_treebank("valid", download=True)
        return Text(vocabulary.encode(train), vocabulary.encode(valid), vocabulary, words=True)
    if name == "python":
        text = python_sources()
    else:
        text = tiny_shakespeare(download=True) if name == "shakespeare" else read_text(name)
    vocabulary = Vocabulary.of(text)
    tokens = vocabulary.encode(text)
    train_end = len(tokens) * 9 // 10
    return Text(tokens[:train_end], tokens[train_end:], vocabulary)


class Run(Protocol):
    """A model in training. `carried` are the Tensors by name that one step hands to the next."""

    model: nn.Module
    optimizer: optim.Optimizer
    loader: DataLoader
    carried: dict[str, Tensor]

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """Train on one batch; its loss, in nats a token."""

    def evaluate(self) -> float:
        """The mean loss on the held-out text, in nats a token; the model is in eval mode."""

    def generate(self, prompt: np.ndarray, temperature: float, top_k: int) -> Iterator[int]:
        """Tokens that go on from `prompt`, without end."""


Start = Callable[[dict[str, Any], Text], Run]


def command(presets: Presets, start: Start) -> click.Command:
    """A training command. `start(options, text)` gives the run; the settings in `presets`, of which the first is the
    default, are options of the command."""
    default = next(iter(presets))

    @click.command(context_settings={"show_default": True})
    @click.option("--preset", type=click.Choice(list(presets)), default=default, help="Sizes; options change them.")
    @click.option("--data", metavar="TEXT", help="python, shakespeare, ptb, ptb-small, or a text file or folder.")
    @run_options(saved="evaluation", drawn="training and validation loss")
    @click.option("--prompt", help="What the sample begins with.  [default: a line end]")
    @click.option("--sample", type=click.IntRange(0), default=300, help="Tokens to write at the end.")
    @click.option("--temperature", type=click.FloatRange(0), default=0.8, help="0 takes the likeliest token.")
    @click.option("--top-k", type=click.IntRange(0), default=0, help="Draw from so many tokens only; 0: from all.")
    @click.pass_context
    def run(ctx: click.Context, device: str, save: str | None, resume: str | None, plot: str | None,
            prompt: str | None, sample: int, temperature: float, top_k: int, **options: Any):
        place = placed(device)
        change_defaults(ctx, options, presets[options["preset"]])
        check_outputs(plot, save)
        with reported():
            if resume:
                options = resumed(ctx, options, resume)
            text = load(options["data"])
            beginning = _encoded(text, prompt or text.beginning)
            with place:
                trained, history = train(start, options, text, save=save, resume=resume)
            if plot:
                loop.draw(history, plot)
        if sample and len(history["loss"]) == options["steps"]:
            with placed(device):
                tokens = list(itertools.islice(trained.generate(beginning, temperature, top_k), sample))
            click.echo("\n" + text.decode([*beginning, *tokens]))

    for name, value in presets[default].items():
        if name != "data":
            shown = ", ".join(str(preset[name]) for preset in presets.values())
            flag = "--" + name.replace("_", "-")
            least = min(1, *(preset[name] for preset in presets.values()))
            kind = click.IntRange(least) if isinstance(value, int) else Number(0)
            run.params.append(click.Option([flag], type=kind, help=f"[by preset: {shown}]"))
    return run


def _encoded(text: Text, prompt: str) -> np.ndarray:
    try:
        return text.encode(prompt)
    except ValueError as error:
        raise click.UsageError(f"--prompt: {error}") from None


def _started(start: Start, options: dict[str, Any], text: Text) -> Run:
    try:
        return start(options, text)
    except ValueError as error:  # sizes that do not go together
        raise click.UsageError(str(error)) from None


def train(start: Start, options: dict[str, Any], text: Text, *, save: str | None = None,
          resume: str | None = None) -> tuple[Run, History]:
    """Train and evaluate; returns the run, and the loss of each step and the held-out loss ten times in between.

    Ctrl-C ends it early. Raises DatasetError if the text is not the one that a resumed run was started with.
    """
    dlc.manual_seed(options["seed"])
    sum_of_text = zlib.crc32(text.train.tobytes())
    if options.get("text", sum_of_text) != sum_of_text:
        raise DatasetError(f"the text {options['data']} has changed since {resume} was begun")
    options = options | {"text": sum_of_text}
    run, steps = _started(start, options, text), options["steps"]
    if not len(run.loader):
        raise DatasetError(f"the text {options['data']} of {len(text.train):,} tokens does not fill one batch")
    # up to the highest rate in the first twentieth, then down to a hundredth of it
    scheduler = optim.lr_scheduler.OneCycleLR(
        run.optimizer, options["lr"], total_steps=steps, pct_start=0.05, cycle_momentum=False, div_factor=10,
        final_div_factor=10,
    )  # fmt: skip
    every = max(1, -(-steps // EVALUATIONS))

    def report(history: History, rate: float) -> str:
        losses, nats = history["loss"], history["nats"][-1]
        perplexity = math.exp(min(nats, 100.0))
        return (f"step {len(losses):{len(str(steps))}}/{steps}  loss {np.mean(losses[-every:]):.4f}  "
                f"validation {nats:.4f} nats, perplexity {perplexity:,.2f}  {rate:,.0f} tokens/s")

    size = sum(math.prod(p.shape) for p in run.model.parameters())
    history = loop.run(Loop(
        parts={"model": run.model, "optimizer": run.optimizer, "scheduler": scheduler, "loader": run.loader,
               "carried": run.carried},
        step=run.step,
        steps=steps,
        every=every,
        metric="nats",
        measure=run.evaluate,
        report=report,
        unit="tokens",
        count=lambda x: math.prod(x.shape),
        opening=f"{size:,} parameters; {len(text.train):,} tokens to train on, {len(text.valid):,} held out, "
                f"{len(text.vocabulary):,} different",
    ), options, save=save, resume=resume)  # fmt: skip
    return run, history


def choose(scores: Tensor, temperature: float, top_k: int = 0) -> int:
    """A token number drawn from softmax(scores / temperature) of scores (vocabulary,), of its `top_k` largest if not 0.

    At temperature 0 it is the one with the highest score.
    """
    if temperature == 0:
        return int(dlc.argmax(scores).item())
    return int(_draw(scores, temperature, min(top_k, scores.shape[0])).item())


@dlc.jit(static_argnames="top_k")
def _draw(scores, temperature, top_k):
    if top_k:
        scores = dlc.where(scores < dlc.topk(scores, top_k)[0][-1], -dlc.inf, scores)
    return dlc.random.categorical(scores / temperature)

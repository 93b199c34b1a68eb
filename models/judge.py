"""How good are made digits? `python -m models.judge ddpm run.safetensors`: a classifier trained by us looks at samples.

`run.safetensors` is what `python -m models.ddpm --save run.safetensors` (or gan, or vae) wrote. The classifier is
`models.cnn`, trained on the same data: now, or before with `--save FILE`, which `--classifier FILE` names.
"""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path

import click
import numpy as np

import dlc
import dlc.nn.functional as F
from dlc import nn
from models import checkpoint, cnn, training
from models.data import NORMALIZE, centred, load
from models.options import DEVICE, SEED, placed, reported

SURE = 0.9  # the confidence from which on a sample counts as a digit
EPOCHS = {"digits": 20, "mnist": 8}
BATCH = 500


@dlc.jit
def probabilities(classifier, x):
    return F.softmax(classifier(x), 1)


def classify(classifier: nn.Module, images: np.ndarray, name: str) -> np.ndarray:
    """Probabilities (N, 10) of images in [0, 1], which look like those of the data set `name`."""
    classifier.eval()
    images = NORMALIZE[name](images)
    parts = [probabilities(classifier, dlc.asarray(images[k : k + BATCH])) for k in range(0, len(images), BATCH)]
    return np.concatenate([part.numpy() for part in parts])


def trained_classifier(name: str, path: str | None) -> nn.Module:
    """The classifier of a data set: read from `path`, or trained now and written there if it is given and missing."""
    data = load(name, 100, seed=0)
    classifier, _ = cnn.build(data, 1e-2)
    with tempfile.TemporaryDirectory() as folder:
        path = path or f"{folder}/classifier.safetensors"
        if not Path(path).exists():
            click.echo("training the classifier")
            options = {"data": name, "epochs": EPOCHS[name], "batch_size": 100, "lr": 1e-2, "seed": 0}
            training.train(cnn.build, cnn.train_step, cnn.predict, options, save=path)
        load_model(classifier, path)
    click.echo(f"the classifier is right on {training.accuracy(classifier, cnn.predict, data):.2%} of the test images")
    return classifier


def load_model(model: nn.Module, path: str) -> nn.Module:
    """Give a model the weights in a saved run. Raises dlc.CheckpointError."""
    checkpoint.settings(path)  # raises where the file is no run
    state = {name[6:]: value for name, value in dlc.load(path).items() if name.startswith("model.")}
    try:
        model.load_state_dict(state)
    except ValueError:
        raise dlc.CheckpointError(f"{path} is a run of another model, or of one of another size") from None
    return model


@click.command(context_settings={"show_default": True})
@click.argument("model", type=click.Choice(["ddpm", "gan", "vae"]))
@click.argument("run", metavar="RUN")
@click.option("--classifier", metavar="FILE", help="A run of models.cnn; trained now if it is missing.")
@click.option("--count", type=click.IntRange(1), default=1000, help="How many samples to judge.")
@SEED
@DEVICE
def main(model: str, run: str, classifier: str | None, count: int, seed: int, device: str) -> None:
    """Judge samples of a saved RUN of a generative MODEL."""
    with placed(device):
        report(model, run, classifier, count, seed)


def report(model: str, run: str, classifier: str | None, count: int, seed: int) -> None:
    """Print what the classifier says of `count` samples."""
    with reported():
        settings = checkpoint.settings(run)
        module = importlib.import_module(f"models.{model}")
        name, size = (checkpoint.setting(run, settings, *s) for s in (("data", str), ("batch_size", int)))
        if name not in EPOCHS:
            raise dlc.CheckpointError(f"{run} was trained on {name!r}, not on one of {', '.join(EPOCHS)}")
        variants = {flag: checkpoint.setting(run, settings, flag, bool) for flag in module.TASK.variants}
        maker, _ = module.build(centred(name, size, 0), 1.0, **variants)
        load_model(maker, run)
        judge = trained_classifier(name, classifier)
    chances = classify(judge, module.sample(maker.eval(), count, seed), name)
    sure = chances.max(1) > SURE
    found = np.bincount(chances.argmax(1)[sure], minlength=10)
    click.echo(f"{count} samples: {sure.mean():.1%} are a digit with confidence above {SURE}")
    click.echo(f"classes that appear: {np.count_nonzero(found)} of 10 ({', '.join(map(str, found))})")


if __name__ == "__main__":
    main()

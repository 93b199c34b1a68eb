"""What a benchmark case is, and what every peer makes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

Arrays = dict[str, np.ndarray]

PEERS = ("torch", "compile", "jax", "dlc")


@dataclass(frozen=True)
class Program:
    """One peer's implementation of a case, loaded with the case's inputs.

    `run(k)` makes k iterations and returns when the last one is done; `outputs()` reads the results of the last one.
    """

    run: Callable[[int], None]
    outputs: Callable[[], Arrays]


@dataclass(frozen=True)
class Floor:
    """What one iteration cannot avoid: multiplications and additions, and bytes to and from main memory."""

    flops: float
    bytes: float


@dataclass(frozen=True)
class Case:
    """A measured computation.

    Attributes:
        name: as in the anchors table.
        inputs: makes the inputs, weights included; runs beside the reference only, the peers get copies.
        programs: for each peer, and for `reference` (float64), the way from inputs to a `Program`.
        floor: from the inputs and the flops that the reference counted (0 if it cannot count) to the `Floor`.
        tolerance: the largest error of each checked output (`name@iteration`), relative to the reference, in L2 norm.
        check_with: inputs replaced for the check: what makes a random case comparable.
    """

    name: str
    inputs: Callable[[], Arrays]
    programs: Mapping[str, Callable[[Arrays], Program]]
    floor: Callable[[Arrays, float], Floor]
    tolerance: Mapping[str, float]
    check_with: Arrays = field(default_factory=dict)


def differences(got: Arrays, expected: Arrays, case: Case) -> dict[str, float]:
    """The relative L2 error of every output; ValueError if a name or a shape differs, or an error is too large."""
    if got.keys() != expected.keys():
        raise ValueError(f"outputs differ: missing or surplus {sorted(got.keys() ^ expected.keys())}")
    errors = {}
    for name, want in expected.items():
        have = got[name]
        if have.shape != want.shape:
            raise ValueError(f"{name} has shape {have.shape}, not {want.shape}")
        error = float(np.linalg.norm(have.astype(np.float64) - want) / max(np.linalg.norm(want), 1e-30))
        errors[name] = error
        allowed = case.tolerance[name]
        if not error <= allowed:  # also refuses NaN
            raise ValueError(f"{name} is wrong: relative error {error:.2g}, allowed {allowed:.2g}")
    return errors

"""A case of the differential sweep is the text of a function in dlc, and of the same in PyTorch or NumPy.

`namespace` executes the text, which is also what a failure prints: what failed is what is read.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

IMPORTS = """\
import math
import ml_dtypes
import numpy as np
import torch
import torch.nn.functional as T
import dlc
import dlc.nn as nn
import dlc.nn.functional as F
"""


class Setting(NamedTuple):
    """How a case runs. `mode` is one of MODES: with or without `jit`, the results alone or the gradients too."""

    mode: str = "jit"
    threads: int = 1
    poison: str = "big"
    level: str = ""
    device: str = "cpu"
    seed: int = 0  # of the arguments


MODES = ("jit", "jit gradient", "eager", "eager gradient")


@dataclass(frozen=True)
class Case:
    """`arrays` are the arguments, as NumPy expressions over the random generator `r`. `dlc` and `reference` are bodies
    of functions of them; the reference gets float64 Tensors of PyTorch (integers stay), or with `numpy` arrays. Results
    that are not floats come after those that are.

    `kind` says how results are compared (see `tests.sweeps.tolerance`): "sums" for sums of products of arguments with
    non-negative factors, "smooth" for other float functions, "exact" for what must agree to the bit.
    """

    arrays: dict[str, str]
    dlc: str
    reference: str
    kind: str = "sums"
    wrt: tuple[str, ...] = ()  # the arguments that are differentiated
    numpy: bool = False  # the reference computes with NumPy
    dtype: str = "float32"  # what the function computes in, for tolerances
    terms: int = 1  # at least so many terms in a sum whose factors hide them (an average)
    roundings: int = 1  # so many results of `dtype` lie between arguments and results
    modes: tuple[str, ...] = MODES  # those in which it can run; in place of another, the first
    before: str = ""  # statements before the functions: modules, constants

    def text(self) -> str:
        """The arguments and both functions."""
        names = ", ".join(self.arrays)
        lines = [f"{name} = {value}" for name, value in self.arrays.items()]
        functions = [f"def f({names}):\n{textwrap.indent(self.dlc, '    ')}",
                     f"def g({names}):\n{textwrap.indent(self.reference, '    ')}"]
        return "\n".join([*lines, *self.before.splitlines(), "", "\n\n".join(functions)])

    def namespace(self, seed: int) -> dict[str, Any]:
        """What the text defines, with arguments drawn by `seed`."""
        space: dict[str, Any] = {"r": np.random.default_rng(seed)}
        exec(IMPORTS, space)
        exec(compile(self.text(), "<case>", "exec"), space)
        return space


def program(case: Case, setting: Setting) -> str:
    """A program of a few lines that shows the failure by itself: what comes out, what should, and how far apart."""
    mode = mode_of(case, setting)
    at = [list(case.arrays).index(name) for name in case.wrt] if mode.endswith("gradient") else []
    wide = "v.astype(np.float64) if v.dtype.kind in 'fV' else v"
    level = f"DLC_CPU={setting.level}, " if setting.device == "cpu" and setting.level else ""
    head = [f"# {level}{mode}, {setting.threads} threads, memory {setting.poison}", IMPORTS,
            "from dlc.runtime.cpu import threads", f"threads.set_num_threads({setting.threads})"]
    if setting.device != "cpu":
        head.append('dlc.set_default_device("cuda")')
    head += [f"r = np.random.default_rng({setting.seed})", case.text(), "",
             f"arrays, at = [{', '.join(case.arrays)}], {at}",
             "several = lambda y: list(y) if isinstance(y, tuple) else [y]",
             f"wide = [{wide if case.numpy else f'torch.from_numpy(np.asarray({wide}))'} for v in arrays]"]
    compiled = mode.startswith("jit")
    if at:
        weight = f"np.random.default_rng([{setting.seed}, k]).integers(-2, 3, tuple(y.shape)).astype('f8')"
        head += ["for k in at: wide[k].requires_grad_()",
                 "want = several(g(*wide))",
                 f"weights = [{weight} for k, y in enumerate(want)]",
                 "sum((y * torch.from_numpy(w)).sum() for y, w in zip(want, weights) if y.requires_grad).backward()",
                 "want = [0 * wide[k] if wide[k].grad is None else wide[k].grad for k in at]",
                 "def total(*a):",
                 "    pairs = zip(several(f(*a)), weights)",
                 "    return sum((y * dlc.asarray(w.astype(y.dtype.np))).sum() for y, w in pairs if y.dtype.is_float)"]
    else:
        head.append("want = several(g(*wide))")
    head += ["dlc.asarray(np.full(10**6, 7e7, 'f4')).realize()  # what freed memory may hold",
             "tensors = [dlc.asarray(v) for v in arrays]"]
    if not at:
        head.append(f"got = several({'dlc.jit(f)' if compiled else 'f'}(*tensors))")
    elif compiled:
        head.append("got = dlc.jit(dlc.grad(total, at))(*tensors)")
    else:
        head += ["for k in at: tensors[k].requires_grad = True", "total(*tensors).backward()",
                 "got = [0 * tensors[k] if tensors[k].grad is None else tensors[k].grad for k in at]"]
    return "\n".join([*head, "for y, w in zip(got, want):",
                      "    y, w = y.numpy().astype('f8'), np.asarray(w.detach() if hasattr(w, 'detach') else w)",
                      "    print(y, w, np.abs(y - w).max(initial=0))", ""])


def mode_of(case: Case, setting: Setting) -> str:
    """The mode in which this case runs."""
    return setting.mode if setting.mode in case.modes else case.modes[0]

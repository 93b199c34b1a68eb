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


@dataclass(frozen=True)
class Case:
    """`arrays` are the arguments, as NumPy expressions over the random generator `r`. `dlc` and `reference` are bodies
    of functions of them; the reference gets float64 Tensors of PyTorch (integers stay), or with `numpy` arrays.

    Results that are not floats come after those that are. `kind` says how results are compared (see `tests.sweeps.tolerance`): "sums" for sums of products of arguments with
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


class Setting(NamedTuple):
    """How a case runs. `mode` is one of MODES: with or without `jit`, the results alone or the gradients too."""

    mode: str = "jit"
    threads: int = 1
    poison: str = "big"
    level: str = ""
    device: str = "cpu"
    seed: int = 0  # of the arguments


MODES = ("jit", "jit gradient", "eager", "eager gradient")


def program(case: Case, setting: Setting) -> str:
    """A program of a few lines that shows the failure by itself."""
    names = ", ".join(case.arrays)
    to_torch = "torch.tensor(v.astype(np.float64 if v.dtype.kind in 'fV' else v.dtype))"
    as_reference = "v.astype(np.float64) if v.dtype.kind in 'fV' else v" if case.numpy else to_torch
    start = [f"# DLC_CPU={setting.level} " if setting.level else "# ", f"mode: {setting.mode}, {setting.threads} threads, ",
             f"memory {setting.poison}"]
    head = ["".join(start), IMPORTS.rstrip(), "from dlc.runtime import threads", f"threads.set_num_threads({setting.threads})"]
    if setting.device != "cpu":
        head.append('dlc.set_default_device("cuda")')
    head += [f"r = np.random.default_rng({setting.seed})", case.text(), "",
             f"arrays = [{names}]",
             f"want = g(*[{as_reference} for v in arrays])",
             "tensors = [dlc.asarray(v) for v in arrays]",
             "dlc.asarray(np.full(10**6, 7e7, 'f4')).realize()  # what freed memory may hold"]
    compiled = setting.mode.startswith("jit")
    if not setting.mode.endswith("gradient"):
        run = "dlc.jit(f)(*tensors)" if compiled else "f(*tensors)"
        return "\n".join([*head, f"got = {run}", "print(got, want)", ""])
    at = [list(case.arrays).index(name) for name in case.wrt]
    return "\n".join([
        *head,
        "for k in %s: tensors[k].requires_grad = True" % at if not compiled else f"at = {at}",
        "weights = [r.integers(-2, 3, w.shape) for w in (want if isinstance(want, tuple) else (want,))]",
        "total = lambda *a: sum((y * dlc.asarray(w.astype('f4'))).sum() for y, w in",
        "                       zip(out if isinstance(out := f(*a), tuple) else (out,), weights))",
        "print(dlc.jit(dlc.grad(total, at))(*tensors))" if compiled else
        "total(*tensors).backward()\nprint([tensors[k].grad for k in %s])" % at,
        "",
    ])  # fmt: skip

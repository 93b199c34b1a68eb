"""Runs one case in one setting, and compares it with its reference."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

import dlc
from dlc.runtime.cpu import threads
from tests.sweeps import tolerance
from tests.sweeps.case import Case, Setting, mode_of
from tests.sweeps.memory import poison


class Verdict(NamedTuple):
    """`status` is "ok", "wrong", "raises", or "invalid" where the reference refuses the case."""

    status: str
    detail: str = ""


class Values(NamedTuple):
    """What a function gives, and the gradients by the arguments that are differentiated."""

    outputs: list[np.ndarray]
    gradients: list[np.ndarray]


def check(case: Case, setting: Setting) -> Verdict:
    """Whether dlc computes what the reference does."""
    space = case.namespace(setting.seed)
    arrays = [space[name] for name in case.arrays]
    mode = mode_of(case, setting)
    at = [list(case.arrays).index(name) for name in case.wrt] if mode.endswith("gradient") else []
    weights = _Weights(setting.seed)
    try:
        reference = _reference(space["g"], arrays, at, weights, case.numpy)
    except Exception as error:  # noqa: BLE001 (whatever the reference dislikes)
        return Verdict("invalid", f"{type(error).__name__}: {error}")
    try:
        with poison(setting.poison), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            threads.set_num_threads(setting.threads)
            runs = _run(space["f"], arrays, at, weights, mode)
    except Exception as error:  # noqa: BLE001 (whatever goes wrong is a finding)
        return Verdict("raises", f"{type(error).__name__}: {error}")
    try:
        for values in runs:
            detail = _difference(case, space["g"], arrays, at, weights, reference, values)
            if detail:
                return Verdict("wrong", detail)
    except Exception as error:  # noqa: BLE001
        return Verdict("invalid", f"tolerance: {type(error).__name__}: {error}")
    return Verdict("ok")


class _Weights:
    """The cotangents of results: small whole numbers, drawn by the place and the shape of the result."""

    def __init__(self, seed: int, form: Callable[[np.ndarray], np.ndarray] = lambda w: w):
        self.seed, self.form = seed, form

    def of(self, place: int, shape: Sequence[int]) -> np.ndarray:
        rng = np.random.default_rng([self.seed, place])
        return np.asarray(self.form(rng.integers(-2, 3, tuple(shape)).astype(np.float64)))


def _is_float(array: np.ndarray) -> bool:
    return array.dtype.kind in "fV"  # V: the types of ml_dtypes


def _reference(g: Callable, arrays: Sequence[np.ndarray], at: Sequence[int], weights: _Weights,
               in_numpy: bool) -> Values:
    wide = [a.astype(np.float64) if _is_float(a) else a.copy() for a in arrays]
    if in_numpy:
        with np.errstate(all="ignore"):
            out = g(*wide)
        return Values([np.asarray(y) for y in (out if isinstance(out, tuple) else (out,))], [])
    tensors = [torch.from_numpy(w) for w in map(np.asarray, wide)]
    for k in at:
        tensors[k].requires_grad_()
    out = g(*tensors)
    outputs = list(out) if isinstance(out, tuple) else [out]
    gradients: list[np.ndarray] = []
    if at:
        through = [(y, torch.from_numpy(weights.of(k, y.shape))) for k, y in enumerate(outputs) if y.requires_grad]
        found = torch.autograd.grad([y for y, _ in through], [tensors[k] for k in at], [w for _, w in through],
                                    allow_unused=True)
        gradients = [np.zeros(wide[k].shape) if d is None else d.numpy() for k, d in zip(at, found, strict=True)]
    return Values([y.detach().numpy() for y in outputs], gradients)


def _run(f: Callable, arrays: Sequence[np.ndarray], at: Sequence[int], weights: _Weights, mode: str) -> list[Values]:
    """dlc's values; a compiled function's of two calls, as only the second finds memory in use."""
    tensors = [dlc.asarray(a) for a in arrays]
    if mode.startswith("jit"):
        step = dlc.jit(lambda *a: _with_gradients(f, a, at, weights))
        return [_numpy(*step(*tensors)) for _ in range(2)]
    if not at:
        return [_numpy(_several(f(*tensors)), [])]
    for k in at:
        tensors[k].requires_grad = True
    outputs = _several(f(*tensors))
    parts = [(y * _cotangent(weights, k, y)).sum() for k, y in enumerate(outputs) if y.requires_grad]
    if parts:
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        total.backward()
    return [_numpy(outputs, [dlc.zeros_like(t) if t.grad is None else t.grad for t in (tensors[k] for k in at)])]


def _with_gradients(f: Callable, args: Sequence[Any], at: Sequence[int], weights: _Weights) -> tuple[list, list]:
    if not at:
        return _several(f(*args)), []

    def of_these(*some: Any) -> tuple:
        full = list(args)
        for k, x in zip(at, some, strict=True):
            full[k] = x
        outputs = _several(f(*full))
        return tuple(y for y in outputs if y.dtype.is_float), tuple(y for y in outputs if not y.dtype.is_float)

    floats, pull, others = dlc.vjp(of_these, *(args[k] for k in at), has_aux=True)
    return [*floats, *others], list(pull(tuple(_cotangent(weights, k, y) for k, y in enumerate(floats))))


def _several(out: Any) -> list:
    return list(out) if isinstance(out, tuple | list) else [out]


def _cotangent(weights: _Weights, place: int, y: Any) -> Any:
    return dlc.asarray(weights.of(place, y.shape).astype(y.dtype.np))


def _numpy(outputs: Sequence[Any], gradients: Sequence[Any]) -> Values:
    return Values([np.array(y.numpy()) for y in outputs], [np.array(d.numpy()) for d in gradients])


def _difference(case: Case, g: Callable, arrays: Sequence[np.ndarray], at: Sequence[int], weights: _Weights,
                want: Values, got: Values) -> str:
    """What is wrong with `got`, or ""."""
    if len(got.outputs) != len(want.outputs):
        return f"{len(got.outputs)} results for {len(want.outputs)}"
    pairs = [(f"result {k}", *p) for k, p in enumerate(zip(got.outputs, want.outputs, strict=True))]
    pairs += [(f"gradient by {case.wrt[k]}", *p) for k, p in enumerate(zip(got.gradients, want.gradients, strict=True))]
    for name, y, w in pairs:
        if y.shape != w.shape:
            return f"{name} has shape {y.shape}, not {w.shape}"
    if all(np.array_equal(y.astype(w.dtype), w, equal_nan=_is_float(w)) for _, y, w in pairs):
        return ""
    others = _others(case, g, arrays, at, weights)
    for k, (name, y, w) in enumerate(pairs):
        limit: Any = 0
        if _is_float(y) and case.kind == "sums":
            whole = all(np.all(a.astype(np.float64) % 1 == 0) for a in arrays if _is_float(a))
            terms = np.maximum(others[1][k], case.terms)
            limit = tolerance.for_sums(w, others[0][k], terms, tolerance.coarser(case.dtype, str(y.dtype)),
                                       case.roundings, whole)
        elif _is_float(y) and case.kind == "smooth":
            limit = tolerance.for_smooth(w, [o[k] for o in others], case.terms, case.dtype, str(y.dtype))
        if found := _worst(name, y, w, limit):
            return found
    return ""


def _others(case: Case, g: Callable, arrays: Sequence[np.ndarray], at: Sequence[int],
            weights: _Weights) -> list[list[np.ndarray]]:
    """For sums, the sums of absolute values and of ones; for smooth functions, noisy values."""
    if case.kind == "exact":
        return []
    if case.kind == "sums":
        forms = (np.abs, np.ones_like)
        found = [_reference(g, [np.asarray(form(a.astype(np.float64))) if _is_float(a) else a for a in arrays], at,
                            _Weights(weights.seed, form), case.numpy) for form in forms]
    else:
        found = []
        for seed in range(2):
            with tolerance.Noise(tolerance.EPS[case.dtype], seed):
                found.append(_reference(g, arrays, at, weights, case.numpy))
    return [[*values.outputs, *values.gradients] for values in found]


def _worst(name: str, got: np.ndarray, want: np.ndarray, limit: Any) -> str:
    with np.errstate(invalid="ignore", over="ignore"):
        beyond = np.isinf(want.astype(got.dtype)) if got.dtype == np.float16 else False  # then infinity is right
        got, want = got.astype(np.float64), want.astype(np.float64)
        want = np.where(beyond & np.isinf(got), np.copysign(np.inf, want), want)
        bad = ~((np.abs(got - want) <= limit) | (got == want) | (np.isnan(got) & np.isnan(want)))
    if not bad.any():
        return ""
    distance = np.where(bad, np.where(np.isfinite(got - want), np.abs(got - want), np.inf), -1)
    place = np.unravel_index(int(np.argmax(distance)), distance.shape)
    allowed = float(np.broadcast_to(limit, got.shape)[place])
    at = ", ".join(map(str, place))
    return (f"{name}: {int(bad.sum())} of {got.size} wrong; at [{at}] got {got[place]!r}, want {want[place]!r}, "
            f"allowed {allowed:.2g}")

"""Comparison with PyTorch: the same function or module on the same numbers, forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

import dlc

torch = pytest.importorskip("torch")
torch.set_num_threads(1)

RTOL, ATOL = 2e-5, 2e-6


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed + sum(shape) * 7 + len(shape)).standard_normal(shape).astype(np.float32)


def flat(out) -> list:
    """Every tensor in a result: nested tuples and lists, None left out."""
    if out is None:
        return []
    if isinstance(out, (tuple, list)):
        return [t for part in out for t in flat(part)]
    return [out]


def close(ours, theirs, what: str, rtol: float = RTOL, atol: float = ATOL) -> None:
    theirs = theirs.detach().numpy() if hasattr(theirs, "detach") else np.asarray(theirs)
    ours = np.asarray(ours.numpy() if isinstance(ours, dlc.Tensor) else ours)
    assert ours.shape == theirs.shape, f"{what}: shape {ours.shape}, PyTorch's {theirs.shape}"
    scale = max(1.0, float(np.abs(theirs, dtype=np.float64).max())) if theirs.size else 1.0
    np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=atol * scale, err_msg=what)


def _leaf_pair(array):
    is_float = isinstance(array, np.ndarray) and array.dtype.kind == "f"
    if not isinstance(array, np.ndarray):
        return array, array
    return dlc.tensor(array, requires_grad=is_float), torch.tensor(array, requires_grad=is_float)


def _backward(ours: list, theirs: list) -> None:
    """Backward from the sum of all float results times fixed weights."""
    total_ours, total_theirs = None, None
    for k, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        if not b.requires_grad:
            continue
        weights = normal(*b.shape, seed=91 + k)
        x, y = dlc.sum(a * dlc.asarray(weights)), (b * torch.tensor(weights)).sum()
        total_ours = x if total_ours is None else total_ours + x
        total_theirs = y if total_theirs is None else total_theirs + y
    assert total_ours is not None
    total_ours.backward()
    total_theirs.backward()


def same_function(
    ours: Callable, theirs: Callable, arrays: Sequence, rtol: float = RTOL, atol: float = ATOL, grad: bool = True
) -> None:
    """Results and the gradients of every float array agree. What is no array is passed on as it is."""
    pairs = [_leaf_pair(a) for a in arrays]
    out, want = flat(ours(*[p[0] for p in pairs])), flat(theirs(*[p[1] for p in pairs]))
    assert len(out) == len(want)
    for k, (a, b) in enumerate(zip(out, want, strict=True)):
        close(a, b, f"result {k}", rtol, atol)
    if not grad:
        return
    _backward(out, want)
    for k, (a, b) in enumerate(pairs):
        if getattr(b, "grad", None) is not None:
            close(a.grad, b.grad, f"gradient of argument {k}", rtol, atol)


def same_module(ours, theirs, arrays: Sequence, rtol: float = RTOL, atol: float = ATOL, **kwargs) -> None:
    """With torch's state_dict loaded: results, gradients of parameters and inputs, and buffers afterwards agree."""
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    pairs = [_leaf_pair(a) for a in arrays]
    out = flat(ours(*[p[0] for p in pairs], **{k: _leaf_pair(v)[0] for k, v in kwargs.items()}))
    want = flat(theirs(*[p[1] for p in pairs], **{k: _leaf_pair(v)[1] for k, v in kwargs.items()}))
    assert len(out) == len(want)
    for k, (a, b) in enumerate(zip(out, want, strict=True)):
        close(a, b, f"result {k}", rtol, atol)
    _backward(out, want)
    for k, (a, b) in enumerate(pairs):
        if getattr(b, "grad", None) is not None:
            close(a.grad, b.grad, f"gradient of input {k}", rtol, atol)
    grads = {name: p.grad for name, p in theirs.named_parameters()}
    for name, p in ours.named_parameters():
        assert (p.grad is None) == (grads[name] is None), name
        if p.grad is not None:
            close(p.grad, grads[name], f"gradient of {name}", rtol, atol)
    for (name, a), (other, b) in zip(ours.named_buffers(), theirs.named_buffers(), strict=True):
        assert name == other
        close(a, b, f"buffer {name}", rtol, atol)
    for name, value in ours.state_dict().items():  # and back: torch takes ours
        theirs.state_dict()[name].copy_(torch.tensor(np.array(value.numpy())))

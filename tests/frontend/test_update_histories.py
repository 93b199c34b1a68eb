"""Updates in place one after another: what they cost and what their gradients are does not grow with their number."""

from __future__ import annotations

import numpy as np
import pytest

import dlc
from dlc import nn
from dlc.frontend.core import in_place

W = np.array([[0.5, -1.5, 2.0], [1.0, 0.25, -0.75]], np.float32)
C = np.array([[1.0, 2.0, 3.0], [-1.0, 0.5, 4.0]], np.float32)


def leaf():
    return nn.Parameter(dlc.tensor(W))


@pytest.mark.parametrize("step", [
    "total += loss", "total = total + loss; last.copy_(total)", "total = total + loss; total.zero_()",
    "total = total + loss; total.fill_(loss)", "y.zero_()", "y[[0, 1], [1, 0]] = loss", "y[0] *= loss",
    "with no_grad(): total += loss", "with no_grad(): y.mul_(2.0)", "total = total + loss; y[0, 0] = total",
])  # fmt: skip
def test_updates_cost_the_same_however_many_there_were(step, monkeypatch):
    """What a loop that nobody looks at visits of the graph grows with its steps, not with their square."""
    visited, ends = 0, in_place._ends

    def counted(node):
        nonlocal visited
        visited += 1
        return ends(node)

    monkeypatch.setattr(in_place, "_ends", counted)

    def visits(steps):
        nonlocal visited
        w = leaf()
        names = {"w": w, "y": w[:, :2] * 2.0, "total": dlc.zeros(()), "last": w.sum(), "no_grad": dlc.no_grad}
        before, code = visited, compile(step, "step", "exec")
        for k in range(steps):
            names["loss"] = (w * float(k)).sum()
            exec(code, names)
        return visited - before

    few, many = visits(40), visits(160)
    assert many < 5 * few + 1 and many < 40 * 160


def test_every_update_that_was_passed_over_has_zeros():
    """Updates that ignore the old value follow each other: what each of them had put there has zero gradients."""
    w, a, b = leaf(), leaf(), leaf()
    y = w * 2.0
    y.copy_(a * 3.0)
    y.zero_()
    y.fill_(1.0)
    y.copy_(b * 4.0)
    y.sum().backward()
    for x, want in ((w, 0), (a, 0), (b, 4)):
        np.testing.assert_array_equal(x.grad.numpy(), np.full(W.shape, want, np.float32))


def test_many_updates_under_no_grad_have_the_gradient_of_the_first_value():
    w = leaf()
    y = w * 2.0
    with dlc.no_grad():
        for k in range(5):
            y *= 3.0
            y += float(k)
    want = 2 * W
    for k in range(5):
        want = want * 3 + k
    np.testing.assert_allclose(y.numpy(), want, rtol=1e-6)
    (y * C).sum().backward()
    np.testing.assert_array_equal(w.grad.numpy(), 2 * C)

"""The verifier finds each kind of broken graph and names the node."""

from __future__ import annotations

import pytest

from dlc.base.errors import VerifyError
from dlc.ir import dtypes
from dlc.ir.graph import nodes as B
from dlc.ir.graph.graph import Graph, Node, TensorType, make, param
from dlc.ir.graph.verify import verify
from dlc.ir.loc import Loc

F32 = dtypes.float32
X = TensorType(F32, (2, 3))


def forged(op, inputs, type, serial=None, **attrs):
    """A node that skips the checks of `make`."""
    node = Node()
    node.op, node.inputs, node.attrs, node.type, node.loc, node.data = op, inputs, attrs, type, Loc("a.py", 4), None
    node.dtype, node.shape = type
    node.serial = max((i.serial for i in inputs), default=0) + 1 if serial is None else serial
    return node


def broken():
    x = param(X, "x")
    other = param(X, "other")
    inner = param(X, "inner")
    body = Graph([inner], [B.op("add", inner, other)], "step")
    two = make("sort", (x,), axis=0, descending=False)
    return {
        "reads a leaf 'other' that is none of its parameters": ([x], other),
        "unknown operation frob": ([x], forged("frob", (x,), X)),
        "the type should be f32[2,3]": ([x], forged("exp", (x,), TensorType(F32, (3,)))),
        "younger than its user": ([x], forged("exp", (x,), X, serial=0)),
        "dtype is 'f32', not a dlc dtype": ([x], forged("cast", (x,), X, dtype="f32")),
        "axes is [1, 0], not a tuple of ints": ([x], forged("permute", (x,), X, axes=[1, 0])),
        "the value 0 is not of the kind of float32": ([], forged("const", (), X, value=0, dtype=F32, shape=(2, 3))),
        "body step: step reads a leaf 'other'": ([x], B.item(make("checkpoint", (x,), body=body), 0)),
        "an output with several results": ([x], two),
        "several results used without `item`": ([x], forged("neg", (two,), X)),
        "listed twice": ([x, x], x),
        "permute: axes (0, 0) do not permute": ([x], forged("permute", (x,), X, axes=(0, 0))),
    }


@pytest.mark.parametrize("message", broken())
def test_broken(message):
    params, output = broken()[message]
    with pytest.raises(VerifyError) as e:
        verify(Graph(params, [output]), "after fold")
    assert message in str(e.value) and str(e.value).startswith("after fold")


def test_message_names_the_users_line():
    x = param(X, "x")
    with pytest.raises(VerifyError, match=r"at frob\(f32\[2,3\]\) : f32\[2,3\] from a.py:4"):
        verify(Graph([x], [forged("frob", (x,), X)]))

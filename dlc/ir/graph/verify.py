"""Checks that a graph keeps the rules of the Graph IR. Run after every pass under DLC_VERIFY=1."""

from __future__ import annotations

from typing import NoReturn

from dlc.base.errors import DTypeError, ShapeError, VerifyError
from dlc.ir.dtypes import DType
from dlc.ir.graph.custom import check_rule
from dlc.ir.graph.graph import Graph, Node, TensorType
from dlc.ir.graph.table import OPS
from dlc.ir.graph.text import describe, type_text

# Attributes that are small integers or tuples of them, wherever they occur.
_INTEGERS = ("axis", "index", "length", "consts", "carry", "outputs")
_TUPLES = ("axes", "extents", "starts", "shape", "start", "stop", "step", "low", "high", "interior", "sizes", "strides",
           "dilations")


def verify(graph: Graph, where: str = "graph") -> None:
    """Raises VerifyError, naming `where` and the node, unless `graph` is well formed.

    Well formed: leaves are parameters, operations are known, attributes have the right kinds, each type is what the
    operation's rule infers, inputs were made before their users, and bodies are closed and well formed themselves.
    """

    def fail(node: Node, message: str) -> NoReturn:
        raise VerifyError(f"{where}: {message}, at {describe(node)}")

    if len(set(graph.params)) != len(graph.params):
        raise VerifyError(f"{where}: a parameter of {graph.name} is listed twice")
    params = set(graph.params)
    for p in graph.params:
        if p.op != "param" or p.inputs:
            fail(p, "a parameter that is not a leaf")
    for node in graph.nodes():
        if node.op == "param":
            if node not in params:
                fail(node, f"{graph.name} reads a leaf {node.attrs['name']!r} that is none of its parameters")
            continue
        if node.op not in OPS:
            fail(node, f"unknown operation {node.op}")
        for i in node.inputs:
            if i.serial >= node.serial:
                fail(node, "an input is younger than its user, so the graph may have a cycle")
            if not isinstance(i.type, TensorType) and node.op != "item":
                fail(node, "several results used without `item`")
        _check_attributes(node, fail)
        try:
            inferred = OPS[node.op].infer(tuple(i.type for i in node.inputs), node.attrs)
        except (ShapeError, DTypeError) as e:
            fail(node, str(e))
        except (KeyError, IndexError, TypeError, ValueError) as e:
            fail(node, f"missing or malformed attribute or operand ({e!r})")
        if inferred != node.type:
            fail(node, f"the type should be {type_text(inferred)}")
        for key, body in node.attrs.items():
            if isinstance(body, Graph):
                verify(body, f"{where}, {key} {body.name}")
                if key in ("vjp", "jvp") and (wrong := check_rule(node, key, body)):
                    fail(node, wrong)
    for o in graph.outputs:
        if not isinstance(o.type, TensorType):
            fail(o, "an output with several results")


def _check_attributes(node: Node, fail) -> None:
    for key, value in node.attrs.items():
        if key == "dtype" and not isinstance(value, DType):
            fail(node, f"dtype is {value!r}, not a dlc dtype")
        if key in _INTEGERS and type(value) is not int:
            fail(node, f"{key} is {value!r}, not an int")
        if key in _TUPLES and (type(value) is not tuple or any(type(v) is not int for v in value)):
            fail(node, f"{key} is {value!r}, not a tuple of ints")
        if key == "body" and not isinstance(value, Graph):
            fail(node, "the body is not a graph")
    if node.op in ("const", "pad") and type(node.attrs["value"]) is not _PYTHON_TYPE[node.dtype.kind]:
        fail(node, f"the value {node.attrs['value']!r} is not of the kind of {node.dtype.name}")


_PYTHON_TYPE = {"b": bool, "i": int, "u": int, "f": float}

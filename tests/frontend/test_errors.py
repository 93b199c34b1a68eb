"""Errors speak the user's language: the operation, the operands, and the user's own line; no internals."""

import re

import numpy as np
import pytest

import dlc


def fails(call):
    """The message of the error that `call` raises, checked to name its line in this file."""
    with pytest.raises(dlc.DlcError) as error:
        call()
    text = str(error.value)
    line = call.__code__.co_firstlineno
    assert f"{__file__}:{line}" in text, text
    assert "dlc/frontend" not in text
    assert "dlc/ir" not in text
    return text


A = dlc.Tensor(np.ones((2, 3), np.float32))
B = dlc.Tensor(np.ones((4, 5), np.float32))
I = dlc.Tensor(np.ones((2, 3), np.int64))  # noqa: E741


@pytest.mark.parametrize(
    ("call", "name", "parts"),
    [
        (lambda: dlc.matmul(A, B), "matmul", ["float32 (2, 3)", "float32 (4, 5)"]),
        (lambda: A @ B, "matmul", ["float32 (2, 3)", "float32 (4, 5)"]),
        (lambda: A + B, "add", ["(2, 3)", "(4, 5)"]),
        (lambda: dlc.reshape(A, (7,)), "reshape", ["(2, 3)", "(7,)"]),
        (lambda: dlc.concat([A, B]), "concat", ["(2, 3)", "(4, 5)"]),
        (lambda: dlc.bitwise_and(A, A), "bitwise_and", ["float32"]),
        (lambda: dlc.sum(A, axis=5), "sum", ["5"]),
        (lambda: A.assign(B), "assign", ["(2, 3)", "(4, 5)"]),
        (lambda: dlc.einsum("ij,jk->ik", A, B), "einsum", ["(2, 3)"]),
    ],
)  # fmt: skip
def test_operation_operands_and_line(call, name, parts):
    text = fails(call)
    assert text.startswith(name), text
    for part in parts:
        assert part in text


def test_an_index_out_of_range():
    text = fails(lambda: A[5])
    assert "5" in text
    assert "(2, 3)" in text


def test_errors_inside_a_trace_name_the_line_in_the_function():
    def f(a, b):
        c = a * 2
        return c @ b

    with pytest.raises(dlc.ShapeError) as error:
        dlc.jit(f)(A, B)
    assert f"{__file__}:{f.__code__.co_firstlineno + 2}, in f" in str(error.value)


def test_no_chained_internals():
    with pytest.raises(dlc.ShapeError) as error:
        A @ B
    assert error.value.__cause__ is None


def test_float_arguments_to_numbers_only():
    assert "no dtype" in fails(lambda: dlc.Tensor(np.array(["a", "b"])))
    assert "complex" in fails(lambda: dlc.Tensor(np.array([1j])))


def test_ragged_lists():
    assert re.match("tensor: ", fails(lambda: dlc.Tensor([[1.0, 2.0], [3.0]])))


def test_errors_are_also_the_builtin_ones():
    assert issubclass(dlc.ShapeError, ValueError)
    assert issubclass(dlc.DTypeError, TypeError)
    assert issubclass(dlc.IndexOutOfRange, IndexError)

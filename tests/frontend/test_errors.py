"""Errors speak the user's language: the operation, the operands, and the user's own line; no internals."""

import inspect
import itertools
import os
import re
import typing

import numpy as np
import pytest

import dlc
import dlc.nn.functional as F
from dlc import nn, optim
from dlc.base.errors import PACKAGE, VerifyError
from dlc.data import DataLoader, TensorDataset, loader, random_split
from dlc.frontend.array import elementwise, indexing, linalg, reductions
from dlc.frontend.core import eager, location
from dlc.frontend.jit.recorder import Recorder


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


@pytest.mark.parametrize(
    ("call", "parts"),
    [
        (lambda: A[5], ["getitem: 5 is outside axis 0 of extent 2", "operands: float32 (2, 3), 5"]),
        (lambda: F.cross_entropy(A, dlc.asarray([0, 3])), ["cross_entropy: class 3 is outside", "int64 (2,)"]),
        (lambda: nn.Embedding(4, 2)(dlc.asarray([4])), ["take: 4 is outside axis 0 of extent 4", "Embedding(4, 2)"]),
    ],
)
def test_an_index_out_of_range(call, parts, watched):
    with watched():
        text = fails(call)
    assert all(part in text for part in parts), text
    # what `debug` finds has the line of the node, and of the call that looked at it
    assert text.count(__file__) == 1 + ("class" in parts[0] and "DLC_TEST_DEVICE" in os.environ), text


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: nn.Linear(3, 4)([1, 2, 3]), "linear: 'list' object has no attribute 'ndim'\n  operands: [1, 2, 3]"),
        (lambda: F.conv2d(None, A), "conv2d: 'NoneType' object"),
        (lambda: dlc.reshape(A), "reshape: "),
    ],
)
def test_what_is_no_tensor(call, name):
    assert fails(call).startswith(name)


class Foreign:
    """An array of another library, as far as dlc can tell."""

    shape, dtype, ndim = (2, 3), "other.float32", 2

    def __dlpack__(self, **_):
        return A.__dlpack__()

    def __dlpack_device__(self):
        return (1, 0)

    def __array__(self, dtype=None, copy=None):
        return np.ones((2, 3), np.float32)


OTHER = Foreign()


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: A + OTHER, "add"),
        (lambda: OTHER - A, "subtract"),
        (lambda: A @ OTHER, "matmul"),
        (lambda: A == OTHER, "equal"),
        (lambda: dlc.exp(OTHER), "exp"),
        (lambda: dlc.concat([A, OTHER]), "concat"),
        (lambda: A[OTHER], "getitem"),
        (lambda: A.assign(OTHER), "assign"),
        (lambda: F.cross_entropy(A, OTHER), "cross_entropy"),
        (lambda: F.softmax(input=OTHER), ""),
        (lambda: nn.Linear(3, 2)(OTHER), ""),
        (lambda: dlc.grad(dlc.sum)(OTHER), "grad"),
    ],
)
def test_arrays_of_other_libraries_are_not_operands(call, name):
    text = fails(call)
    assert text.startswith(name), text
    assert "Foreign" in text, text


def test_arrays_of_other_libraries_are_converted_where_asked():
    for made in (dlc.asarray(OTHER), dlc.Tensor(OTHER), dlc.from_dlpack(OTHER), nn.Parameter(OTHER)):
        assert made.numpy().tolist() == A.numpy().tolist()
    assert (A + dlc.from_dlpack(OTHER)).shape == (2, 3)


def test_arrays_of_other_libraries_are_no_arguments_of_jit():
    # they were static arguments: what they held at the trace was computed with for ever
    with pytest.raises(TypeError, match=r"argument 'x' of .*Foreign by itself: use dlc.from_dlpack"):
        dlc.jit(lambda x: x)(OTHER)


def test_functions_of_pytorch_say_which_library_is_which():
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match=r"torch's relu does not take a dlc.Tensor"):
        torch.relu(A)
    with pytest.raises(TypeError, match=r"add: dlc does not convert a torch.Tensor by itself"):
        torch.ones(2, 3) + A
    assert torch.from_dlpack(A).shape == torch.as_tensor(A).shape == (2, 3)


def schedule(name, *args, **settings):
    return getattr(optim.lr_scheduler, name)(optim.SGD([A], lr=0.1), *args, **settings)


def set_rate(value):
    optim.SGD([A], lr=0.1).param_groups[0]["lr"] = value


class Wrong(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, -1)


@pytest.mark.parametrize(
    ("call", "kind", "part"),
    [
        (lambda: nn.Linear(2.5, 2), ValueError, "shape (2, 2.5): sizes are integers"),
        (lambda: nn.Conv2d(3, 8, 3, groups=2), ValueError, "Conv2d: 2 groups"),
        (lambda: nn.Dropout(2), ValueError, "Dropout: probability 2"),
        (lambda: nn.Linear(2, 2).load_state_dict({}), ValueError, "missing keys: weight, bias"),
        (lambda: nn.Linear(2, 2).register_buffer("b", np.ones(2)), TypeError, "is a numpy.ndarray, not a Tensor"),
        (lambda: nn.Linear(2, 2).add_module("a.b", None), KeyError, "without dots"),
        (lambda: F.gelu(A, approximate="erf"), ValueError, "gelu: approximate"),
        (lambda: nn.init.eye_(dlc.zeros(2)), ValueError, "eye_: needs two dimensions"),
        (lambda: optim.SGD(nn.Linear(2, 2), lr=0.1), TypeError, "got Linear"),
        (lambda: optim.Adam([dlc.zeros(2)], lr=-1), ValueError, "lr is -1"),
        (lambda: optim.lr_scheduler.StepLR(None, 3), TypeError, "got NoneType"),
        (lambda: DataLoader([1], batch_size=0), ValueError, "batch_size must be at least 1"),
        (lambda: TensorDataset(), ValueError, "at least one array"),
        (lambda: random_split([1, 2], [5]), ValueError, "lengths [5] do not sum"),
        (lambda: optim.Adam([A], betas=0.9), ValueError, "betas is 0.9, it must be 2 numbers"),
        (lambda: optim.Adam([A], betas=(0.9, "a")), ValueError, "it must be 2 numbers"),
        (lambda: optim.Adam({"params": [A]}), TypeError, "not one dict"),
        (lambda: optim.Adam([{"lr": 1.0}]), TypeError, "a parameter group is a dict with 'params'"),
        (lambda: set_rate(None), TypeError, "lr is None, it must be a number"),
        (lambda: set_rate("fast"), TypeError, "lr is 'fast'"),
        (lambda: set_rate(float("nan")), TypeError, "lr is nan"),
        (lambda: schedule("StepLR", 0), ValueError, "step_size is a number of steps, at least 1, not 0"),
        (lambda: schedule("CosineAnnealingLR", 0), ValueError, "T_max is a number of steps"),
        (lambda: schedule("LinearLR", total_iters=0), ValueError, "total_iters is a number of steps"),
        (lambda: schedule("MultiStepLR", 3), TypeError, "milestones is a list of steps, not 3"),
        (lambda: schedule("LambdaLR", 0.5), TypeError, "lr_lambda is a function"),
        (lambda: schedule("SequentialLR", [], []), ValueError, "0 schedulers and 0 milestones"),
        (lambda: optim.lr_scheduler.LambdaLR(A, min), TypeError, "LambdaLR: needs an Optimizer, got Tensor"),
        (lambda: schedule("StepLR", 1).load_state_dict({"step_size": 2}), ValueError, "it lacks gamma, base_lrs"),
        (lambda: nn.utils.clip_grad_norm_(nn.Sequential(nn.ReLU()), 1), TypeError, "not of a ReLU"),
        (lambda: nn.Linear(1, 1).load_state_dict({"weight": "w", "bias": 1}), ValueError, "weight is a str, not an"),
        (lambda: nn.Sequential(nn.ReLU), TypeError, "'0' is the class ReLU, not a Module made of it"),
        (lambda: setattr(nn.Linear(2, 2), "weight", A), TypeError, "Linear.weight is a parameter"),
        (lambda: nn.Sequential()[1], IndexError, "index 1 is outside 0 items"),
        (lambda: dlc.save("path", {"a": A}), TypeError, "the path, after the tensors, is a string, not a dict"),
        (lambda: nn.Conv2d("3", 4, 3), TypeError, "in_channels is an integer, not '3'"),
        (lambda: nn.ModuleDict([nn.ReLU()]), TypeError, "ModuleDict: needs a dict"),
        (lambda: dlc.finfo(dlc.int32), TypeError, "finfo: dlc.int32 is not a float dtype"),
        (lambda: DataLoader([1], collate_fn=3), TypeError, "collate_fn is a function, not a int"),
        (lambda: DataLoader([1]).load_state_dict({"seed": 1}), ValueError, "it lacks epoch, batch, samples"),
        (lambda: Wrong(), ValueError, "shape (-1, 2)"),
    ],
)
def test_constructors_and_methods_name_the_users_line(call, kind, part):
    with pytest.raises(kind) as error:
        call()
    text = "\n".join([str(error.value), *getattr(error.value, "__notes__", ())])
    line = call.__code__.co_firstlineno
    own = {line, *(f.__code__.co_firstlineno + k for f, k in ((Wrong.__init__, 2), (schedule, 1), (set_rate, 1)))}
    assert part in text
    assert [int(at) for at in re.findall(rf"\n  at {re.escape(__file__)}:(\d+), in", text)][0] in own, text
    assert text.count("\n  at ") == 1


def test_transforms_of_what_is_no_function():
    for transform in (dlc.grad, dlc.value_and_grad, dlc.vmap, dlc.checkpoint):
        with pytest.raises(TypeError, match=r"(grad|vmap|checkpoint): needs a function, got a Tensor\n  at .*py"):
            transform(A)
    with pytest.raises(TypeError, match="custom_kernel, vjp: needs a function, got a int"):
        dlc.custom_kernel("", lambda x: x, vjp=3)


def test_no_grad_is_a_decorator_with_and_without_parentheses():
    weight = nn.Parameter(A)
    assert not dlc.no_grad(lambda: weight * 2)().requires_grad
    assert not dlc.no_grad()(lambda: weight * 2)().requires_grad
    assert dlc.no_grad(dlc.enable_grad(lambda: weight * 2))().requires_grad


def test_probabilities():
    assert "the probability 1.5 is outside [0, 1]" in fails(lambda: dlc.random.bernoulli(1.5, (2,)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dlc.grad(lambda x: x)(A), "grad: <lambda> must return a scalar"),
        (lambda: dlc.value_and_grad(lambda x: x)(I), "grad: argument 0 of <lambda> is int64"),
        (lambda: dlc.vmap(lambda x, y: x)(A, B), "vmap: "),
        (lambda: dlc.concat([A, A], dim=1), "unexpected keyword argument 'dim'; here it is 'axis'"),
        (lambda: F.softmax(A, axis=1), "unexpected keyword argument 'axis'; here it is 'dim'"),
    ],
)
def test_transforms_and_keywords_go_by_their_names(call, message):
    assert message in fails(call)


@pytest.mark.parametrize("name", ["max", "min", "median", "sort", "cummax", "cummin"])
def test_methods_that_give_a_pair_in_pytorch_do_not_take_its_dim(name):
    # x.max(dim=1)[0] would be the first row's maximum, not the maxima
    with pytest.raises(TypeError, match=f"^{name}: with dim, PyTorch gives values and positions"):
        getattr(A, name)(dim=1)
    assert getattr(A, name)(axis=1).ndim


def test_operations_inside_a_function_name_it():
    text = fails(lambda: F.softmax(A, 5))
    assert text.startswith("max: axis 5 is outside") and text.endswith("\n  in softmax"), text
    assert fails(lambda: F.linear(A, A[:, :2])).startswith("linear: ")
    assert fails(lambda: dlc.std(A, axis=7)).startswith("std: ")

    def loss(x):
        return F.softmax(x, 5)

    with pytest.raises(dlc.ShapeError) as error:
        dlc.grad(loss)(A)
    assert str(error.value).endswith("\n  in softmax")  # and not in grad: that is another line


def test_what_does_not_go_into_a_tensor():
    assert fails(lambda: dlc.zeros(3).add_(dlc.ones(2, 3))).startswith("in_place: a result of shape (2, 3)")
    assert "no dtype" in fails(lambda: dlc.zeros(3).fill_("a"))
    for value in (0, np.zeros((2, 3), np.float32)):
        assert "a gradient is a Tensor or None" in fails(lambda value=value: setattr(nn.Parameter(A), "grad", value))


def test_what_cannot_be_converted_says_why():
    torch = pytest.importorskip("torch")
    numbers = torch.ones(2, dtype=torch.complex64)
    assert "dlc has no dtype for NumPy's complex64" in fails(lambda: dlc.asarray(numbers))


def test_data_is_not_an_attribute_of_its_own():
    weight = nn.Parameter(A)
    for call in (lambda: weight.data, lambda: setattr(weight, "data", B)):
        with pytest.raises(AttributeError, match=r"read x.detach\(\), write x.assign\(value\)\n  at .*test_errors.py"):
            call()
    assert not hasattr(weight, "data")


def test_errors_of_the_users_own_classes_stay_as_they_are():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            raise ValueError("mine")

        def forward(self, x):
            raise ValueError("mine")

    with pytest.raises(ValueError, match="^mine$"):
        Own()
    samples = DataLoader(type("Bad", (), {"__len__": lambda s: 1, "__getitem__": lambda s, k: {}["mine"]})())
    with pytest.raises(KeyError) as error:
        next(iter(samples))
    assert error.value.args == ("mine",)


def test_errors_of_a_function_that_is_called_stay_its_own():
    def wrong(x):
        return x.no_such_method()

    for transform in (dlc.grad, dlc.vmap):
        with pytest.raises(AttributeError, match="no_such_method") as error:
            transform(wrong)(A)
        assert not isinstance(error.value, dlc.DlcError)


def test_shapes_beyond_any_memory():
    for call in (
        lambda: dlc.zeros((1 << 40, 1 << 40)),
        lambda: dlc.arange(1 << 61),
        lambda: dlc.zeros((1 << 30, 1)) + dlc.zeros((1, 1 << 30)),
        lambda: dlc.random.normal((1 << 40, 1 << 40)),
    ):
        assert "elements" in fails(call)
    assert dlc.zeros((1 << 40, 0, 1 << 40)).size == 0


@pytest.mark.skipif("DLC_TEST_DEVICE" in os.environ, reason="host memory")
def test_memory_that_is_not_there_names_the_line():
    column, row = dlc.ones((1 << 25, 1)), dlc.ones((1, 1 << 25))
    assert "could not allocate 4194304.0 GiB" in fails(lambda: (column + row).realize())
    with pytest.raises(MemoryError):
        dlc.ones(1 << 50).numpy()


def test_results_of_no_shape():
    assert "size (0,) has no elements" in fails(lambda: F.interpolate(dlc.ones(1, 1, 4), size=0))
    assert fails(lambda: dlc.random.normal((2, -1))).startswith("normal: (2, -1) has a negative extent")


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


def test_numbers_that_do_not_fit():
    for numbers, dtype in (([1, -1], dlc.uint8), ([[300]], dlc.uint8), ([1 << 63], None), ([-129], dlc.int8)):
        assert "does not fit" in fails(lambda numbers=numbers, dtype=dtype: dlc.asarray(numbers, dtype=dtype))
    assert dlc.asarray([1 << 63], dtype=dlc.uint64).item() == 1 << 63
    assert dlc.asarray(np.array([-1]), dtype=dlc.uint8).item() == 255  # an array wraps, as arrays do


def test_ragged_lists():
    assert re.match("tensor: ", fails(lambda: dlc.Tensor([[1.0, 2.0], [3.0]])))


def test_errors_are_also_the_builtin_ones():
    assert issubclass(dlc.ShapeError, ValueError)
    assert issubclass(dlc.DTypeError, TypeError)
    assert issubclass(dlc.IndexOutOfRange, IndexError)


# -- whose error it is ----------------------------------------------------------------------------------------------

NO_OPERANDS = {"None": None, "object": object(), "set": {1}, "str": "a", "torch": OTHER, "list": [1, "a"]}
OPERANDS = """
    arrays end index indices input input1 input2 key logits mask query source src start target value weight x x1 x2"""
GIVEN = {
    "axis": 0, "axis1": 0, "axis2": 1, "axes": (0, 1), "source": 0, "destination": 1, "shape": (2, 3), "sizes": 3,
    "shift": 1, "repeats": 2, "repetitions": (1, 2), "pad": (1, 1), "pad_width": 1, "kernel_size": 1, "k": 1, "num": 2,
    "chunks": 1, "size_or_sizes": 1, "num_groups": 1, "normalized_shape": (3,), "size": 1, "steps": (1, 1),
    "window_shape": (1, 1), "start": 0, "length": 1, "dtype": dlc.float32, "q": 0.5, "minlength": 1, "index": I,
    "indices": I, "num_samples": 1, "output_size": 1, "data": 3,
}  # fmt: skip
SHAPED = {"conv2d": dlc.ones(1, 1, 1, 1), "conv_transpose2d": dlc.ones(1, 1, 1, 1), "bilinear": dlc.ones(1, 1, 1)}


def public_operations():
    """The public functions behind the boundary, but those that convert operands or take none."""
    known = {dlc.asarray, dlc.tensor, dlc.from_dlpack}
    for module in (dlc, F, dlc.random):
        for name, function in vars(module).items():
            boundary = hasattr(function, "__wrapped__") and function.__code__.co_filename == location.__file__
            if name[0] != "_" and boundary and function not in known:
                known.add(function)
                yield function


def wrong_calls(value):
    """Each operation with `value` in the place of each of its operands in turn."""
    for function in public_operations():
        parameters = inspect.signature(function).parameters.values()
        given = [p for p in parameters if p.default is p.empty and p.kind is not p.KEYWORD_ONLY]
        if any(p.kind is p.VAR_POSITIONAL for p in given):
            continue
        moves = function in (dlc.moveaxis, dlc.narrow)  # their source and start are integers
        other = SHAPED.get(function.__name__, A)
        fills = [GIVEN.get(p.name, other) if moves or p.name not in ("source", "start") else A for p in given]
        for k, p in enumerate(given):
            if p.name in OPERANDS.split() and not (moves and k):
                yield function, [value if i == k else fill for i, fill in enumerate(fills)]


@pytest.mark.parametrize("value", NO_OPERANDS.values(), ids=NO_OPERANDS)
def test_what_is_no_operand_of_any_function(value):
    tried = 0
    for function, args in wrong_calls(value):
        with pytest.raises(TypeError) as error:
            function(*args)
        tried += 1
        text, name = str(error.value), function.__name__.strip("_")
        assert isinstance(error.value, dlc.DTypeError), (name, text)
        assert error.value.loc.file == __file__ and f"at {__file__}:{error.value.loc.line}, in test_what" in text, text
        assert text.startswith(f"{name}: ") or text.endswith(f"in {name}"), (name, text)
        assert value is not OTHER or "Foreign" in text, text
    assert tried > 150


def test_what_no_option_takes():
    tried = 0
    for function in public_operations():
        parameters = inspect.signature(function).parameters.values()
        given = [p for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
        args = [GIVEN.get(p.name, SHAPED.get(function.__name__, A)) for p in given]
        options = [p.name for p in parameters if p.default is not p.empty and p.kind is not p.POSITIONAL_ONLY]
        for name, value in itertools.product(options, (object(), "a", {1}, [1, "a"])):
            try:
                function(*args, **{name: value})
            except Exception as error:
                tried += 1
                assert error.loc.file == __file__, (function, name, value)
    assert tried > 500


def test_the_annotations_of_operations_can_be_read():
    # what arguments fit is asked of them
    for function in public_operations():
        typing.get_type_hints(function.__wrapped__)


BUGS = {
    "attribute": (AttributeError, "frontend", "None.nothing"),
    "type": (TypeError, "frontend", "1 + None"),
    "call": (TypeError, "frontend", "len(1, 2)"),
    "key": (KeyError, "frontend", "{}['nothing']"),
    "index": (IndexError, "frontend", "[][0]"),
    "zero": (ZeroDivisionError, "frontend", "1 // 0"),
    "value": (ValueError, "frontend", "[].index(0)"),
    "assert": (AssertionError, "frontend", "exec('assert False, 3')"),
    "raised": (KeyError, "passes", "raise KeyError('nothing')"),
    "refused": (TypeError, "codegen", "raise TypeError('nothing')"),
    "verify": (VerifyError, "passes", "raise VerifyError('nothing')"),
}
PLACES = {
    "function": (elementwise, "operands", lambda: dlc.add(A, A)),
    "keyword": (elementwise, "operands", lambda: dlc.add(x1=A, x2=1)),
    "operator": (elementwise, "operands", lambda: 2 * A),
    "comparison": (elementwise, "operands", lambda: A < A),
    "method": (reductions, "fold", lambda: A.sum(dim=1)),
    "index": (indexing, "plan_index", lambda: A[0]),
    "in place": (elementwise, "operands", lambda: dlc.ones(3).mul_(2)),
    "functional": (linalg, "factors", lambda: F.linear(A, dlc.ones(2, 3))),
    "layer": (linalg, "factors", lambda: nn.Linear(3, 2)(A)),
    "constructor": (nn.init, "kaiming_uniform_", lambda: nn.Linear(3, 2)),
    "optimizer": (optim.SGD, "update", lambda: stepped()),
    "schedule": (optim.lr_scheduler.StepLR, "factor", lambda: schedule("StepLR", 1).step()),
    "gradients": (elementwise, "operands", lambda: dlc.grad(lambda x: (x * x).sum())(A)),
    "jit": (elementwise, "operands", lambda: dlc.jit(lambda x: x + x)(A)),
    "recorder": (Recorder, "_entry", lambda: dlc.jit(lambda x: x + x)(A)),
    "compiler": (eager, "compiled", lambda: dlc.jit(lambda x: x + x)(A)),
    "loader": (loader, "fetch", lambda: next(iter(DataLoader(TensorDataset(np.ones(3)), batch_size=1)))),
    "random": (dlc.random, "_draw", lambda: dlc.random.normal((2,))),
}


def stepped():
    weight = nn.Parameter(A)
    (weight * 2).sum().backward()
    optim.SGD([weight], lr=0.1).step()


def bug(part, text):
    """A function of the package with a mistake in it."""
    file = f"{PACKAGE}{part}{os.sep}broken.py"
    names = {"VerifyError": VerifyError}
    exec(compile(f"def broken(*args, **kwargs):\n    {text}\n", file, "exec"), names)
    return names["broken"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", BUGS)
def test_an_error_inside_the_package_stays_what_it_is(kind, place, monkeypatch):
    module, name, call = PLACES[place]
    expected, part, text = BUGS[kind]
    broken = bug(part, text)
    with pytest.raises(expected) as plain:
        broken()
    monkeypatch.setattr(module, name, broken)
    with pytest.raises(expected) as error:
        call()
    assert type(error.value) is expected
    assert error.value.args == plain.value.args
    assert error.value.__cause__ is None
    assert error.traceback[-1].name in ("broken", "<module>")  # nothing of the way to it is cut away


def test_an_error_inside_the_package_has_a_note_of_the_users_line(monkeypatch):
    monkeypatch.setattr(elementwise, "operands", bug("frontend", "1 + None"))
    with pytest.raises(TypeError) as error:
        A + A
    (note,) = error.value.__notes__
    assert f"at {__file__}:{inspect.currentframe().f_lineno - 2}, in test_an_error" in note
    assert "an error inside dlc" in note


def test_wrong_arguments_between_functions_of_the_package_are_its_own(monkeypatch):
    names = {"dlc": dlc}
    text = "def broken(name, *args):\n    return inner(*args)\ndef inner(*args): return dlc.exp(args[0], wrong=1)\n"
    exec(compile(text.replace("def inner(*args)", "def inner(a, b)").replace("args[0]", "a"),
                 f"{PACKAGE}frontend{os.sep}broken.py", "exec"), names)
    monkeypatch.setattr(elementwise, "operands", names["broken"])
    with pytest.raises(TypeError, match="unexpected keyword argument 'wrong'") as error:
        dlc.add(A, A)
    assert not isinstance(error.value, dlc.DlcError)
    assert "here it is" not in fails(lambda: dlc.exp(A, wrong=1))
    assert fails(lambda: A.sum(wrong=1)).startswith("sum: ")


def test_errors_of_users_show_no_frames_below_the_boundary():
    def loss(x):
        return F.softmax(x, 5).sum()

    for call in (lambda: A @ B, lambda: nn.Linear(2, 3)(A), lambda: F.softmax(A, 5), lambda: dlc.grad(loss)(A),
                 lambda: nn.Linear(2.5, 2), lambda: dlc.exp(None)):  # fmt: skip
        with pytest.raises((dlc.DlcError, ValueError)) as error:
            call()
        files = [str(entry.path) for entry in error.traceback]
        below = files[files.index(location.__file__) :]
        assert below and not [f for f in below if f.startswith(PACKAGE) and f != location.__file__], files


def test_errors_of_users_keep_the_frames_of_users():
    def loss(x):
        return F.softmax(x, 5).sum()

    with pytest.raises(dlc.ShapeError) as error:
        dlc.grad(loss)(A)
    assert "loss" in [entry.name for entry in error.traceback]

"""Updates in place mean what they mean in PyTorch: the same small programs run on both, value, gradients and errors."""

from __future__ import annotations

import copy
import itertools
import pickle

import numpy as np
import pytest

import dlc
from dlc import nn

torch = pytest.importorskip("torch")

W = np.array([[0.5, -1.5, 2.0], [1.0, 0.25, -0.75]], np.float32)
V = np.array([[1.0, 2.0, -1.0], [0.5, -0.5, 3.0]], np.float32)
C = np.array([[1.0, 2.0, 3.0], [-1.0, 0.5, 4.0]], np.float32)
ROW = np.array([0.5, -2.0, 1.0], np.float32)
MASK = np.array([[True, False, True], [False, False, True]])


class Library:
    """What the programs use of PyTorch or dlc."""

    def __init__(self, lib, name):
        self.lib, self.name, self.nn = lib, name, lib.nn
        self.tensor = torch.tensor if name == "torch" else dlc.tensor

    def leaf(self, array):
        return self.lib.nn.Parameter(self.tensor(array))


TORCH, DLC = Library(torch, "torch"), Library(dlc, "dlc")


def statement(code: str):
    """An update as a function of the tensor `t` and the library `L`."""
    compiled = compile(code, code, "exec")

    def update(t, L):
        exec(compiled, {"t": t, "L": L, "v": L.tensor(V), "row": L.tensor(ROW), "mask": L.tensor(MASK)})

    update.code = code
    return update


UPDATES = [*map(statement, (
    "t += v", "t -= 0.5 * v", "t *= v", "t /= 2.0", "t **= 2",
    "t[0] = row", "t[0] = 5.0", "t[:, 1] = 0.0", "t[..., 1:] = 2.0", "t[1, 2] = -1.0", "t[:] = v", "t[...] = row",
    "t[0] += 1.0", "t[0, 1] *= 3.0", "t[mask] = 0.0", "t[L.tensor([1, 0])] = v",
    "t.add_(v)", "t.add_(v, alpha=-0.5)", "t.sub_(0.5 * v)", "t.sub_(v, alpha=2)", "t.mul_(v)", "t.mul_(0.5).add_(v)",
    "t.div_(2.0)", "t.pow_(2)", "t.neg_()", "t.abs_()", "t.exp_()", "t.tanh_()", "t.clamp_(-1.1, 1.1)",
    "t.clamp_(min=0.0)", "t.copy_(v)", "t.copy_(row)", "t.copy_(t)", "t.fill_(3.0)", "t.zero_()", "t.lerp_(v, 0.25)",
    "t.addcmul_(v, v, value=0.5)", "t.addcdiv_(v, v + 5.0)", "t.masked_fill_(mask, 7.0)",
    "t.index_fill_(1, L.tensor([0, 2]), -3.0)", "t.index_add_(0, L.tensor([1]), v[:1])",
    "t.index_copy_(0, L.tensor([1]), v[:1])", "t.scatter_(1, L.tensor([[0], [2]]), 9.0)",
    "t.scatter_add_(1, L.tensor([[0], [2]]), v[:, :1])",
    "t.normal_(2.0, 0.0)", "t.uniform_(1.5, 1.5)", "t.bernoulli_(1.0)",
))]  # fmt: skip
OUTSIDE_JIT = [*map(statement, (
    "t[mask] *= 2.0", "t[mask] = v[mask]", "t.sqrt_() if bool((t >= 0).all()) else t.zero_()",
    "L.nn.init.zeros_(t)", "L.nn.init.ones_(t)", "L.nn.init.constant_(t, 0.5)", "L.nn.init.eye_(t)",
    "L.nn.init.normal_(t, 1.0, 0.0)", "L.nn.init.uniform_(t, 2.0, 2.0)",
))]  # fmt: skip
FLAGS = [*map(statement, (
    "t.requires_grad_()", "t.requires_grad_(True)", "t.requires_grad_(False)", "t.detach_()", "t.requires_grad = True",
    "t.requires_grad = False", "t.detach_(); t.mul_(2.0); t.requires_grad_()",
))]  # fmt: skip
KINDS = ["leaf", "computed", "plain", "made without gradients"]
MODES = ["", "no_grad", "enable_grad", "inference_mode", "no_grad enable_grad", "enable_grad no_grad"]


def within(L, mode, body):
    for name in reversed(mode.split()):
        body = getattr(L.lib, name)()(body)
    body()


def target(L, kind, w):
    if kind == "leaf":
        return w
    if kind == "computed":
        return w * 2.0
    if kind == "plain":
        return L.tensor(W)
    with L.lib.no_grad():
        return w * 2.0


def outcome(L, kind, mode, update, forward_first, steps=2, jit=lambda f: f):
    """What a program does: the errors that it meets, and all values and gradients after it."""
    w, other = L.leaf(W), L.leaf(C)
    kept = target(L, kind, w) if kind == "plain" else None
    log = []

    def step():
        t = w if kind == "leaf" else target(L, kind, w) if kept is None else kept
        total = (other * 0.5).sum()
        if forward_first:  # linear: PyTorch keeps no value of t for its gradient, which it would not find unchanged
            total = total + (t * L.tensor(C)).sum()
        within(L, mode, lambda: update(t, L))
        total = total + (t * t).sum()
        total.backward()
        return t + 0.0, total, t.requires_grad

    step = jit(step)
    for _ in range(steps):
        try:
            t, total, flag = step()
        except (RuntimeError, ValueError) as error:
            log.append("leaf" if "a leaf" in str(error) or "view of a leaf" in str(error) else "leaf flag")
            break
        log += [flag or kind == "computed", numbers(t), total.item()]
        log += [numbers(w), w.requires_grad, gradient(w), gradient(other)]
    log += [numbers(w), w.requires_grad, gradient(w)]
    return log


def numbers(t):
    return t.detach().numpy().copy()


def gradient(t):
    """Zeros where there is none: dlc does not see that a value which was overwritten was computed from something."""
    return np.zeros(t.shape, np.float32) if t.grad is None else numbers(t.grad)


def agree(mine, theirs, what):
    assert len(mine) == len(theirs), (what, mine, theirs)
    for m, t in zip(mine, theirs, strict=True):
        assert type(m) is type(t), (what, mine, theirs)
        if isinstance(m, (np.ndarray, float)):
            np.testing.assert_allclose(m, t, rtol=1e-5, atol=1e-6, err_msg=str(what))
        else:
            assert m == t, (what, mine, theirs)


CASES = [*itertools.product(KINDS, MODES, (False, True))]


def some_cases(update, request):
    """All cases in a slow run; else every seventh, so that each comes with many updates."""
    if request.node.get_closest_marker("slow"):
        return CASES
    return CASES[sum(map(ord, update.code)) % 7 :: 7]


def each(*updates):
    return pytest.mark.parametrize("update", [pytest.param(u, id=u.code) for u in updates])


def same_in_both(update, request, **options):
    for kind, mode, first in some_cases(update, request):
        case = kind, mode, update, first
        agree(outcome(DLC, *case, **options), outcome(TORCH, *case), (kind, mode, update.code, first))


@pytest.fixture
def interpreted(monkeypatch):
    monkeypatch.setenv("DLC_INTERPRET", "1")


@each(*UPDATES, *OUTSIDE_JIT)
def test_an_update_eagerly(update, request, interpreted):
    same_in_both(update, request)


@each(*UPDATES)
def test_an_update_in_jit(update, request, interpreted):
    same_in_both(update, request, jit=dlc.jit)


@pytest.mark.slow
@each(*UPDATES, *OUTSIDE_JIT)
def test_an_update_eagerly_in_all_cases(update, request, interpreted):
    same_in_both(update, request)


@pytest.mark.slow
@each(*UPDATES)
def test_an_update_in_jit_in_all_cases(update, request, interpreted):
    same_in_both(update, request, jit=dlc.jit)


def random_program(seed):
    """Updates in random order, each under modes of its own: a kind of tensor, and a function of it and the library."""
    rng = np.random.default_rng(seed)
    lines = [(MODES[rng.integers(len(MODES))], UPDATES[rng.integers(len(UPDATES))]) for _ in range(rng.integers(2, 6))]
    kind = KINDS[rng.integers(len(KINDS))]
    if kind == "leaf":  # what goes on after the first error is no matter
        lines = [(mode if "no_grad" in mode.split()[-1:] else "no_grad", update) for mode, update in lines]

    def update(t, L):
        for mode, line in lines:
            within(L, mode, lambda line=line: line(t, L))

    update.code = f"{kind}: " + "; ".join(f"{mode or 'plain'} {line.code}" for mode, line in lines)
    return kind, update


def same_programs(seeds):
    compared = 0
    for seed in seeds:
        kind, update = random_program(seed)
        case = kind, "", update, bool(seed % 2)
        try:
            with np.errstate(all="ignore"):
                want = outcome(TORCH, *case)
        except RuntimeError as error:  # PyTorch keeps no old values: it knows of no gradient
            assert "modified by an inplace operation" in str(error)
            continue
        if any("leaf flag" in w for w in want if isinstance(w, str)) or not all(map(finite, want)):
            continue
        for jit in (lambda f: f, dlc.jit):
            agree(outcome(DLC, *case, jit=jit), want, update.code)
        compared += 1
    assert compared > len(seeds) // 2


def finite(value):
    return not isinstance(value, (np.ndarray, float)) or bool((np.abs(value) < 1e6).all())


def test_random_programs(interpreted):
    same_programs(range(25))


@pytest.mark.slow
def test_many_random_programs(interpreted):
    same_programs(range(100, 1100))


@each(*map(statement, ("t -= 0.5 * v", "t[0, 1] *= 3.0", "t[mask] = 0.0", "t.copy_(v)", "t.clamp_(min=0.0)")))
def test_an_update_compiled(update, request):
    for jit in (lambda f: f, dlc.jit):
        for kind, mode in (("leaf", "no_grad"), ("computed", ""), ("computed", "no_grad")):
            case = kind, mode, update, True
            agree(outcome(DLC, *case, jit=jit), outcome(TORCH, *case), (kind, mode, update.code))


def leaf(array=W):
    return nn.Parameter(dlc.tensor(array))


@each(*FLAGS)
def test_flags_and_detaching(update, interpreted):
    """On a leaf, on what was computed from one, and on what has no gradient; then a backward through it."""
    for kind, early in itertools.product(KINDS, (False, True)):
        logs = []
        for L in (DLC, TORCH):
            w = L.leaf(W)
            t = target(L, kind, w)
            before = (t * 3.0).sum()
            log = []
            try:
                update(t, L)
            except RuntimeError as error:
                assert L is TORCH or isinstance(error, dlc.GradientError)
                log.append("only leaf" if "leaf" in str(error) else "error")
            log += [t.requires_grad, w.requires_grad]
            if t.requires_grad:
                (t * t).sum().backward(retain_graph=True)
            if early and before.requires_grad:
                before.backward()
            log += [gradient(w), gradient(t) if kind != "computed" else None, numbers(t)]
            logs.append(log)
        agree(*logs, (kind, update.code))


def test_a_graph_built_before_an_update_has_the_gradient_of_the_old_value():
    """PyTorch raises here: it keeps no old values."""
    w = leaf()
    loss = (w * w).sum()
    with dlc.no_grad():
        w.mul_(10.0)
    later = (w * w).sum()
    loss.backward()
    np.testing.assert_allclose(w.grad.numpy(), 2 * W)
    later.backward()
    np.testing.assert_allclose(w.grad.numpy(), 22 * W)


@pytest.mark.parametrize("jit", [lambda f: f, dlc.jit], ids=["eager", "jit"])
def test_training_by_hand(jit):
    """Manual steps, clipping of weights, noise: the parameters train on and the losses are PyTorch's."""
    losses = []
    for L in (DLC, TORCH):
        w, b, x = L.leaf(W), L.leaf(np.zeros(2, np.float32)), L.tensor(C)

        def step(L=L, w=w, b=b, x=x):
            loss = (((x @ w.T + b) - 1.0) ** 2).mean()
            loss.backward()
            with L.lib.no_grad():
                w -= 0.01 * w.grad
                b.sub_(b.grad, alpha=0.01)
                w.clamp_(-1.9, 1.9)
                w[0, 0] = 0.0
            w.grad = b.grad = None
            return loss

        step = jit(step) if L is DLC else step
        losses.append([step().item() for _ in range(6)])
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_the_error_names_the_operation_and_the_line():
    w = leaf()
    for update in UPDATES:
        with pytest.raises(dlc.GradientError, match="a leaf Tensor that requires grad is being used in") as e:
            update(w, DLC)
        assert isinstance(e.value, RuntimeError) and f"\n  at {update.code}:1" in str(e.value)
    with pytest.raises(dlc.GradientError, match="^mul_: "):
        w.mul_(2.0)
    with pytest.raises(dlc.GradientError, match="^__isub__: "):
        w -= 1.0
    assert (w.numpy() == W).all()


def test_what_no_gradient_flows_through_is_a_leaf_of_its_own():
    w = leaf()
    place = w.argmax(axis=1).astype(dlc.float32).requires_grad_()
    assert place.requires_grad
    (place * 3.0).sum().backward()
    assert place.grad.tolist() == [3, 3] and w.grad is None
    with dlc.no_grad():
        y = (w > 0).astype(dlc.float32)
    y.mul_(2.0)
    assert not y.requires_grad


def test_a_refused_update_draws_no_random_numbers():
    state = dlc.random.default_generator.state.numpy().copy()
    with pytest.raises(dlc.GradientError):
        leaf().normal_()
    assert (dlc.random.default_generator.state.numpy() == state).all()


def steps_of(transform, change):
    """A function that calls `change` in the body of a transform."""

    def body(x):
        change()
        return (x * 2.0).sum()

    x = dlc.tensor(C)
    return {
        "grad": lambda: dlc.grad(body)(x),
        "vjp": lambda: dlc.vjp(body, x)[0],
        "jvp": lambda: dlc.jvp(body, (x,), (x,)),
        "vmap": lambda: dlc.vmap(body)(x),
        "scan": lambda: dlc.scan(lambda c, r: (c, body(r)), dlc.zeros(()), x),
        "checkpoint": lambda: dlc.checkpoint(body)(x),
        "jit": lambda: dlc.jit(body)(x),
    }[transform]


TRANSFORMS = ["grad", "vjp", "jvp", "vmap", "scan", "checkpoint", "jit"]


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_leaves_inside_transforms(transform):
    w = leaf()

    def mul():
        w.mul_(2.0)

    with pytest.raises(dlc.GradientError, match="^mul_: a leaf Tensor"):
        steps_of(transform, mul)()
    assert (w.numpy() == W).all()

    def quietly():
        with dlc.no_grad():
            w.mul_(2.0)

    steps_of(transform, quietly)()
    np.testing.assert_array_equal(w.numpy(), W * (4 if transform == "scan" else 2))
    assert w.requires_grad
    (w * C).sum().backward()
    np.testing.assert_array_equal(w.grad.numpy(), C)
    with dlc.no_grad():
        w -= w.grad
    (w * w).sum().backward()
    np.testing.assert_allclose(w.grad.numpy(), C + 2 * w.numpy(), rtol=1e-6)


@pytest.mark.parametrize("transform", ["grad", "jvp", "vmap of grad", "checkpoint", "jit of grad"])
def test_computed_values_inside_transforms(transform):
    """Under no_grad the value changes and the derivative does not: of 6 x^2 it is that of 4 x x', as in PyTorch."""

    def f(x):
        y = x * 2.0
        with dlc.no_grad():
            y *= 3.0
        return (y * x).sum()

    x = dlc.tensor(C)
    if transform == "jvp":
        assert dlc.jvp(f, (x,), (dlc.ones_like(x),))[1].item() == pytest.approx(8 * C.sum())
        return
    if transform == "checkpoint":
        x.requires_grad = True
        dlc.checkpoint(f)(x).backward()
        got = x.grad
    else:
        derivative = {
            "grad": dlc.grad(f), "vmap of grad": dlc.vmap(dlc.grad(f)), "jit of grad": dlc.jit(dlc.grad(f)),
        }[transform]  # fmt: skip
        got = derivative(x)
    np.testing.assert_allclose(got.numpy(), 8 * C, rtol=1e-6)


def test_a_value_that_is_not_finite_is_updated_like_others():
    w = leaf(np.array([1.0, np.inf, np.nan], np.float32))
    y = w * 2.0
    with dlc.no_grad():
        y.fill_(-0.0)
    assert np.signbit(y.numpy()).all() and (y.numpy() == 0).all()
    y.sum().backward()
    assert w.grad.numpy()[0] == 2


def test_copies_of_an_updated_leaf():
    w = leaf()
    with dlc.no_grad():
        w.mul_(2.0)
    for again in (copy.deepcopy(w), pickle.loads(pickle.dumps(w))):
        assert again.requires_grad and type(again) is nn.Parameter
        (again * C).sum().backward()
        np.testing.assert_array_equal(again.grad.numpy(), C)
        np.testing.assert_array_equal(again.numpy(), 2 * W)
    assert w.grad is None


def test_gradients_are_updated_anywhere():
    w = leaf()
    (w * C).sum().backward()
    w.grad.mul_(2.0)
    w.grad[0] = 0.0
    w.grad *= 2.0
    with dlc.no_grad():
        w.grad.add_(1.0)
    np.testing.assert_array_equal(w.grad.numpy(), np.stack([0 * C[0], 4 * C[1]]) + 1)
    (w * C).sum().backward()
    np.testing.assert_array_equal(w.grad.numpy(), np.stack([C[0], 5 * C[1]]) + 1)


def test_jit_under_no_grad_and_outside():
    """One function, called in both ways: what was traced under no_grad has no gradients and refuses nothing."""
    w = leaf()
    f = dlc.jit(lambda: (w * 2.0).sum())
    with dlc.no_grad():
        assert not f().requires_grad
    f().backward()
    assert (w.grad.numpy() == 2).all()
    g = dlc.jit(lambda: w.mul_(2.0))
    with dlc.no_grad():
        g()
    with pytest.raises(dlc.GradientError):
        g()
    np.testing.assert_array_equal(w.numpy(), 2 * W)


@pytest.mark.parametrize("jit", [lambda f: f, dlc.jit], ids=["eager", "jit"])
def test_a_closed_over_value_with_a_history(jit):
    """It is read, and updated in place, as part of the computation that it comes from."""
    w = leaf()
    h = w * 2.0
    (jit(lambda: (h * 3.0).sum()))().backward(retain_graph=True)
    np.testing.assert_array_equal(w.grad.numpy(), np.full(W.shape, 6.0))
    jit(lambda: h.mul_(C))()
    h.sum().backward(retain_graph=True)
    np.testing.assert_array_equal(w.grad.numpy(), 6 + 2 * C)

    def update():
        with dlc.no_grad():
            h.fill_(1.0)

    jit(update)()
    assert h.requires_grad and (h.numpy() == 1).all()
    h.sum().backward()
    np.testing.assert_array_equal(w.grad.numpy(), 6 + 4 * C)


def test_a_compiled_update_of_a_value_that_has_a_history_by_now():
    w, total = leaf(), dlc.zeros(2, 3)
    double = dlc.jit(lambda: total.mul_(2.0))
    double()
    total += w
    total.realize()
    double()
    np.testing.assert_array_equal(total.numpy(), 2 * W)
    total.sum().backward()
    assert (w.grad.numpy() == 2).all()
    total.detach_()
    double()
    np.testing.assert_array_equal(total.numpy(), 4 * W)
    assert double.traces == 1
    with pytest.raises(dlc.TraceError, match="closes over carries gradient history"):
        h = w * 2.0
        dlc.jit(lambda: h + 1.0).lower()


@pytest.mark.parametrize("under_jit", [False, True])
@pytest.mark.parametrize("update", [
    *("y.zero_()", "y.fill_(2.0)", "y.copy_(v)", "y.copy_(z * 2)", "y[...] = 0", "y[:] = 1.0", "y.copy_(y.detach())"),
])
def test_an_update_that_does_not_depend_on_the_old_value_passes_zeros_back(update, under_jit):
    def gradients(L, w, z, v):
        y = w * 3
        exec(update, {"y": y, "z": z, "v": v})
        y.sum().backward()
        return w.grad

    def given(L):
        a = [L.tensor([1.0, 2.0, 3.0]) for _ in range(3)]
        a[0].requires_grad = a[1].requires_grad = True
        return a

    want = gradients(TORCH, *given(TORCH)).numpy()
    args = given(dlc)
    if under_jit:
        dlc.jit(lambda: gradients(dlc, *args))()
        got = args[0].grad
    else:
        got = gradients(dlc, *args)
    np.testing.assert_array_equal(got.numpy(), want)
    np.testing.assert_array_equal(want, 0)

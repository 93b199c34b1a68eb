"""Attention and its like as loops over blocks: the same numbers, and no tensor of queries times keys in memory."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

import dlc
import dlc.nn.functional as F
from dlc.codegen.layout.sink_transposes import sink_permutes
from dlc.ir.graph.graph import Graph, Node
from dlc.ir.graph.interp import evaluate
from dlc.ir.graph.text import parse_graph, print_graph
from dlc.ir.graph.verify import verify
from dlc.passes.autodiff.vjp import expand
from dlc.passes.blockwise.blocks import block_rows, cut_blocks
from dlc.passes.blockwise.masked_columns import RULES, Bounds
from dlc.passes.simplify.markers import remove_markers
from dlc.passes.simplify.prune import prune_scans
from dlc.passes.simplify.simplify import simplify
from dlc.runtime import devices
from tests.targets import cpu, executable

CACHE = 1 << 9  # bytes: tensors of some hundred elements are too large for it


def ready(function: Callable, *args: np.ndarray) -> Graph:
    """The graph of a function as the pass gets it."""
    graph = dlc.jit(function).graph(*map(dlc.asarray, args))
    for step in (expand, remove_markers, prune_scans, simplify, sink_permutes):
        graph = step(graph)
    return graph


def loops(graph: Graph) -> list[Node]:
    return [n for n in graph.nodes() if n.op == "each"]


def everything(graph: Graph) -> Iterator[Node]:
    for n in graph.nodes():
        yield n
        if "body" in n.attrs:
            yield from everything(n.attrs["body"])


def normal(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(s, np.float32) for s in shapes]


def check(function: Callable, *args: np.ndarray, regions: int | None = None) -> Graph:
    """The graph in blocks, which gives the same numbers interpreted, printed and parsed, and compiled."""
    graph = ready(function, *args)
    cut = cut_blocks(graph, CACHE, 2)
    verify(cut, "blocks")
    assert len(loops(cut)) == regions if regions is not None else loops(cut)
    want = evaluate(graph, list(args), wide=True)
    again = parse_graph(print_graph(cut))
    assert print_graph(again, False) == print_graph(cut, False)
    target = replace(cpu("avx2"), l2_bytes=CACHE)
    compiled = executable(graph, target)
    buffers = [devices.allocate(a.nbytes, "cpu") for a in args]
    for b, a in zip(buffers, args, strict=True):
        devices.write(b, a)
    got = [devices.read(b, o.shape, o.dtype.np) for b, o in zip(compiled.run(buffers), graph.outputs, strict=True)]
    for name, results in (("cut", evaluate(cut, list(args), wide=True)), ("parsed", evaluate(again, list(args), True)),
                          ("compiled", got)):
        for w, g in zip(want, results, strict=True):
            np.testing.assert_allclose(g, w, rtol=2e-5, atol=2e-5, err_msg=name)
    return cut


def causal(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def with_gradients(function: Callable) -> Callable:
    def step(g, *args):
        y, pull = dlc.vjp(function, *args)
        return y, pull(g)

    return step


def test_forward_keeps_scores_in_the_cache():
    cut = check(causal, *normal(*[(2, 3, 40, 4)] * 3), regions=1)
    assert [n.attrs["extents"] for n in loops(cut)] == [(2, 3)]
    inner = [n.attrs["extents"] for n in loops(loops(cut)[0].attrs["body"])]
    assert inner == [(1,), (1,), (1,)]  # two blocks of 16 rows, of which the first needs 16 keys, and one of 8
    assert max(n.type.size for n in everything(cut) if n.op in ("contract", "exp", "reduce")) == 32 * 16


@pytest.mark.parametrize(("queries", "keys"), [(33, 33), (17, 50), (50, 17), (1, 90), (64, 64), (31, 2)])
@pytest.mark.parametrize("is_causal", [False, True])
def test_lengths(queries, keys, is_causal):
    def attention(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=is_causal)

    q, k, v, g = normal((4, queries, 3), (4, keys, 3), (4, keys, 5), (4, queries, 5))
    large = queries * keys > 3 * (queries + keys) and 4 * 4 * queries * keys >= CACHE
    check(attention, q, k, v, regions=int(large))
    check(with_gradients(attention), g, q, k, v, regions=1 if large else 0)


def test_forward_and_backward_apart():
    """Between them lies a product over all heads, so the backward loop computes the weights anew."""

    def step(x, w, u, target):
        def loss(x, w, u):
            qkv = (x @ w).reshape(2, 40, 3, 3, 4).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], is_causal=True)
            return (((y.permute(0, 2, 1, 3).reshape(2, 40, 12)) @ u - target) ** 2).sum()

        return dlc.value_and_grad(loss, argnums=(0, 1, 2))(x, w, u)

    x, w, u, target = normal((2, 40, 6), (6, 36), (12, 6), (2, 40, 6))
    cut = check(step, x, w * 0.3, u * 0.3, target, regions=2)
    forward, backward = loops(cut)
    assert max(t.size for loop in (forward, backward) for t in loop.type) < 2 * 3 * 40 * 40
    assert sum(n.op == "exp" for n in everything(forward.attrs["body"])) == 3  # one a part of the rows
    assert sum(n.op == "exp" for n in everything(backward.attrs["body"])) == 3
    assert not any(n.op == "reduce" and n.attrs["monoid"] == "max" for n in everything(backward.attrs["body"]))


def test_masks_of_the_user_and_rows_without_keys():
    q, k, v, g = normal(*[(2, 3, 24, 4)] * 4)
    mask = np.random.default_rng(1).random((24, 24)) < 0.3
    mask[5] = mask[20] = False
    some = mask[None].repeat(2, 0)[:, None]

    def step(g, m, *qkv):
        return with_gradients(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=m))(g, *qkv)

    for m in (mask, some):
        check(step, g, m, q, k, v, regions=1)


def test_added_mask_and_its_gradient():
    """The gradient of a bias that all batches share is a sum over them: they are no loop then, the heads are."""
    q, k, v, g, bias = normal(*[(2, 3, 24, 4)] * 4, (3, 24, 24))

    def attention(q, k, v, bias):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)

    check(attention, q, k, v, bias, regions=1)
    check(with_gradients(attention), g, q, k, v, bias, regions=1)


def test_grouped_heads():
    q, g = normal((2, 6, 24, 4), (2, 6, 24, 4))
    k, v = normal((2, 2, 24, 4), (2, 2, 24, 4))

    def attention(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

    check(with_gradients(attention), g, q, k, v, regions=1)


def test_dropout_counts_in_blocks():
    """Random numbers follow from the position in the whole tensor, which is not stored either."""

    def attention(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, dropout_p=0.4)

    q, k, v = normal(*[(2, 3, 24, 4)] * 3)
    dlc.random.seed(3)
    cut = cut_blocks(ready(attention, q, k, v), CACHE, 2)
    assert max(n.type.size for n in cut.nodes() if n.op not in ("each", "const")) < 2 * 3 * 24 * 24
    numbers = iter(normal(*[(2, 3, 24, 4)] * 3))
    args = [next(numbers) if p.dtype.is_float else np.array([5, 7], np.uint64) for p in cut.params]
    for got, want in zip(evaluate(cut, args), evaluate(ready(attention, q, k, v), args), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_without_softmax_and_with_softmax_over_queries():
    q, k, v, g = normal(*[(6, 24, 4)] * 4)

    def linear(q, k, v):
        return F.relu(q @ dlc.matrix_transpose(k)) @ v

    def transposed(q, k, v):
        return F.softmax(q @ dlc.matrix_transpose(k), -2) @ v

    check(with_gradients(linear), g, q, k, v, regions=1)
    check(with_gradients(transposed), g, q, k, v, regions=1)


def test_second_derivatives():
    q, k, v = normal(*[(4, 20, 3)] * 3)

    def step(q, k, v):
        def inner(q):
            return (causal(q, k, v) ** 2).sum()

        return dlc.grad(lambda q: (dlc.grad(inner)(q) ** 2).sum())(q)

    check(step, q, k, v)


def test_what_is_left_alone():
    """Too small, without batch, scores that are wanted themselves, plain products, one iteration for two threads."""
    q, k, v = normal(*[(2, 24, 4)] * 3)
    assert not loops(cut_blocks(ready(causal, q, k, v), 1 << 20, 2))
    assert not loops(cut_blocks(ready(causal, q[0], k[0], v[0]), CACHE, 2))
    assert not loops(cut_blocks(ready(lambda q, k: q @ dlc.matrix_transpose(k), q, k), CACHE, 2))
    assert not loops(cut_blocks(ready(lambda q, k: q @ dlc.matrix_transpose(k), q[0], k[0]), CACHE, 2))
    assert not loops(cut_blocks(ready(causal, q[:1], k[:1], v[:1]), CACHE, 2))


@pytest.mark.parametrize(("keys", "bodies"), [
    (lambda k: k, 1),
    (lambda k: k[:, 8:32], 2),  # rows of the same length in other memory
    (lambda k: k[:, ::2], 3),
    (lambda k: dlc.flip(k, axis=1), 3),
], ids=["as they are", "from within", "every second", "backwards"])
def test_layers_share_a_body(keys, bodies):
    """Equal regions are cut once; what the body reads may lie elsewhere in memory, but not in another way."""

    def layers(k, a, b, c):
        x = causal(a, b, c)
        for _ in range(2):
            x = causal(dlc.tanh(x), b, c) + causal(dlc.tanh(x), keys(k), c)
        return x

    rows = keys(dlc.zeros((4, 48, 4))).shape[1]
    cut = check(layers, *normal((4, 48, 4), *[(4, rows, 4)] * 3))
    assert len({n.attrs["body"] for n in loops(cut)}) <= bodies < len(loops(cut))


def test_weights_that_are_wanted_are_stored_once():
    def attention(q, k, v):
        weights = F.softmax(q @ dlc.matrix_transpose(k), -1)
        return weights @ v, weights

    cut = check(attention, *normal(*[(4, 24, 4)] * 3), regions=1)
    assert [t.shape for t in loops(cut)[0].type] == [(4, 24, 24), (4, 24, 4)]


def test_random_programs():
    """Chains of maps, statistics of rows and products of batched matrices."""
    for seed in range(12):
        rng = random.Random(seed)
        rows, columns = rng.choice((16, 21, 33)), rng.choice((16, 21, 40))
        width = rng.choice((2, 3, 4))

        def program(q, k, v, rng=rng):
            s = q @ dlc.matrix_transpose(k)
            for _ in range(rng.randrange(4)):
                kind = rng.randrange(5)
                if kind == 0:
                    s = dlc.tanh(s) * 0.5
                elif kind == 1:
                    s = s - dlc.max(s, axis=-1, keepdims=True)
                elif kind == 2:
                    s = s / (1 + dlc.sum(s * s, axis=-1, keepdims=True))
                elif kind == 3:
                    s = dlc.where(s > 0, s, dlc.arange(s.shape[-1]) * 0.01)
                else:
                    s = s + dlc.expand_dims(dlc.arange(s.shape[-2]), axis=1) * 0.1
            return s @ v

        q, k, v, g = normal((3, rows, width), (3, columns, width), (3, columns, 2), (3, rows, 2))
        check(with_gradients(program), g, q, k, v)


def keys_of_parts(function: Callable, *args: np.ndarray) -> list[int]:
    """How many keys each part of the rows reads."""
    (loop,) = loops(cut_blocks(ready(function, *args), CACHE, 2))
    parts = loops(loop.attrs["body"])
    return [next(n.shape[-2] for n in p.attrs["body"].nodes() if n.op == "contract") for p in parts]


def test_keys_that_a_mask_leaves_out_are_not_computed():
    q, k, v = normal(*[(2, 64, 4)] * 3)

    def masked(mask: Callable) -> Callable:
        def attention(q, k, v):
            i, j = dlc.expand_dims(dlc.arange(64), axis=1), dlc.expand_dims(dlc.arange(64), axis=0)
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask(i, j))

        return attention

    assert keys_of_parts(causal, q, k, v) == [16, 32, 48, 64]
    assert keys_of_parts(with_gradients(causal), v, q, k, v) == [16, 32, 48, 64]
    for mask, keys in (
        (lambda i, j: j < i, [16, 32, 48, 64]),
        (lambda i, j: j <= i + 16, [32, 48, 64, 64]),
        (lambda i, j: i >= j + 3, [16, 32, 48, 64]),
        (lambda i, j: dlc.logical_not(j > i), [16, 32, 48, 64]),
        (lambda i, j: dlc.logical_and(j <= i, j != 5), [16, 32, 48, 64]),
        (lambda i, j: dlc.where(j <= i, 0.0, -np.inf), [16, 32, 48, 64]),
    ):
        assert keys_of_parts(masked(mask), q, k, v) == keys
        check(masked(mask), q, k, v + 1, regions=1)
    for mask in (lambda i, j: j >= i, lambda i, j: dlc.logical_or(j <= i, j == 63), lambda i, j: (j * i) % 7 > 2,
                 lambda i, j: dlc.where(j <= i, 0.0, -1e9)):
        assert keys_of_parts(masked(mask), q, k, v) == [64]


def test_sums_of_a_part_with_one_block_are_not_added_up():
    """Rows of 64 are four parts of one block each; rows of 128 four parts of two."""
    for rows, single in ((64, True), (128, False)):
        q, k, v = normal(*[(2, rows, 4)] * 3)
        (loop,) = loops(check(with_gradients(causal), v, q, k, v, regions=1))
        parts = loops(loop.attrs["body"])
        assert [p.attrs["extents"] for p in parts] == [(1,) if single else (2,)] * 4
        assert all(((-1,) in p.attrs["gives"]) is not single for p in parts)


def test_columns_count_unless_everything_that_reads_them_is_neutral():
    """A sum of unmasked scores beside the softmax needs all keys; weights that are wanted are zero where left out."""
    q, k, v, g = normal(*[(2, 64, 4)] * 4)

    def also_a_sum(q, k, v):
        scores = q @ dlc.matrix_transpose(k)
        i, j = dlc.expand_dims(dlc.arange(64), axis=1), dlc.expand_dims(dlc.arange(64), axis=0)
        weights = F.softmax(dlc.where(j <= i, scores, -np.inf), -1)
        return weights @ v + dlc.sum(scores, axis=-1, keepdims=True)

    def weights_too(q, k, v):
        i, j = dlc.expand_dims(dlc.arange(64), axis=1), dlc.expand_dims(dlc.arange(64), axis=0)
        weights = F.softmax(dlc.where(j <= i, q @ dlc.matrix_transpose(k), -np.inf), -1)
        return weights @ v, weights

    assert keys_of_parts(also_a_sum, q, k, v) == [64]
    check(with_gradients(also_a_sum), g, q, k, v)
    cut = check(weights_too, q, k, v, regions=1)
    assert len(loops(loops(cut)[0].attrs["body"])) == 4


def test_what_is_masked_does_not_count():
    q, k, v = normal(*[(2, 64, 4)] * 3)
    v[:, 40] = np.nan
    got = evaluate(cut_blocks(ready(causal, q, k, v), CACHE, 2), [q, k, v])[0]
    assert np.isfinite(got[:, :32]).all() and np.isnan(got[:, 40:]).all()


def test_bounds_hold():
    """Random values between the operands' bounds give results between the result's."""
    rng = np.random.default_rng(0)
    meaning = {
        "add": np.add, "sub": np.subtract, "neg": np.negative, "mul": np.multiply, "div": np.divide, "exp": np.exp,
        "max": np.maximum, "min": np.minimum, "le": np.less_equal, "lt": np.less, "ge": np.greater_equal,
        "gt": np.greater, "eq": np.equal, "ne": np.not_equal, "select": np.where, "and": np.minimum,
        "or": np.maximum, "not": lambda a: 1 - a,
    }  # fmt: skip
    assert meaning.keys() == RULES.keys()
    for name, rule in RULES.items():
        flags = ("select", "and", "or", "not")
        for _ in range(200):
            ends = [np.sort(rng.integers(-3, 4, 2)) for _ in range(len(inspect.signature(rule).parameters))]
            if name in flags:
                ends = [np.sort(rng.integers(0, 2, 2)) if name != "select" or k == 0 else e for k, e in enumerate(ends)]
            found = rule(*(Bounds(float(a), float(b)) for a, b in ends))
            values = [rng.integers(a, b + 1, 50).astype(float) for a, b in ends]
            with np.errstate(all="ignore"):
                got = meaning[name](*values)
            got = got[~np.isnan(got)]
            assert (found.low <= got).all() and (got <= found.high).all(), (name, ends, found)


def test_rows_of_a_block():
    assert block_rows(512, 512, 1 << 20) == 64
    assert block_rows(500, 512, 1 << 20) == 50
    assert block_rows(509, 512, 1 << 20) == 64
    assert block_rows(90, 512, 1 << 20) == 90
    assert block_rows(8192, 8192, 1 << 20) == 16

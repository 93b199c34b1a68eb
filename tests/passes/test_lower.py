"""Groups lowered with plain and with vector schedules, interpreted, against the graph interpreter."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dlc.ir import dtypes
from dlc.ir.dtypes import float16, float32, float64, int8, int32, int64
from dlc.ir.graph import interp as graph_interp
from dlc.ir.graph import nodes as B
from dlc.ir.graph.graph import Graph, make
from dlc.ir.loops import ir as loops
from dlc.ir.loops import schedule
from dlc.ir.loops.ir import Buffer, For, load, op
from dlc.ir.loops.traverse import exprs, subexpressions, walk
from dlc.passes.fuse.access import best_vector_axis, cost_of
from dlc.passes.fuse.fuse import fuse
from dlc.passes.fuse.materialize import own_outputs
from dlc.passes.simplify.markers import remove_markers
from dlc.passes.simplify.windows import lower_unwindow
from tests.passes import programs
from tests.passes.lowering import LOWER, evaluate, kernels, naive, options, vectors
from tests.passes.programs import tensor
from tests.random_graphs import arguments, graphs, integer_graphs


def _compare(graph, got, want):
    half = any(n.dtype.is_half for n in graph.nodes())  # rounded when stored or cast to, not at every step
    for o, g, w in zip(graph.outputs, got, want, strict=True):
        assert g.dtype == w.dtype and g.shape == w.shape
        if o.dtype.is_float:
            tolerance = 2e-2 if half else 2e-5 if o.dtype is float32 else 1e-12
            np.testing.assert_allclose(g.astype(np.float64), w.astype(np.float64), tolerance, tolerance)
        else:
            np.testing.assert_array_equal(g, w)


def check(graph, args=None, lanes=(4, 8)):
    """Every schedule of every group once, with the other groups in plain loops; then all groups in random ones."""
    args = arguments(graph) if args is None else args
    want = graph_interp.evaluate(graph, args)
    _compare(graph, evaluate(graph, args, naive), want)
    fused = fuse(own_outputs(graph))
    counts = [len(options(fused, g, lanes)) for g in fused.groups]
    for which, count in enumerate(counts):
        for k in range(count):

            def choice(f, group, which=which, k=k):
                at = f.groups.index(group)
                return options(f, group, lanes)[k] if at == which else naive(f, group)

            _compare(graph, evaluate(graph, args, choice, seed=k), want)
    for seed in range(2):
        _compare(graph, evaluate(graph, args, vectors(seed), seed), want)


# ------------------------------------------------------------------------------------------------- well-known programs


@pytest.mark.parametrize("graph", [
    programs.softmax((3, 33)), programs.softmax((33, 3), 0), programs.softmax((2, 3, 2, 5), 2),
    programs.softmax((1, 7)),
    programs.softmax((7, 1)), programs.softmax((3, 19), dtype=float16), programs.softmax((3, 19), dtype=float64),
    programs.layernorm(3, 21), programs.layernorm(2, 8, float16), programs.layernorm(5, 1), programs.batchnorm(3, 5, 3),
    programs.linear_gelu(5, 4, 18), programs.linear_gelu(1, 3, 7), programs.adam((3, 7), (7,), ()),
    programs.attention(2, 3, 5),
], ids=lambda g: g.outputs[0].op + str(list(g.params[0].shape)))  # fmt: skip
def test_programs(graph):
    args = [np.abs(a) if p.attrs["name"][0] in "vr" else a for p, a in zip(graph.params, arguments(graph), strict=True)]
    check(graph, args)


@pytest.mark.parametrize("gradient", [False, True])
def test_cross_entropy(gradient):
    graph = programs.cross_entropy(5, 7, gradient)
    check(graph, [arguments(graph)[0], np.array([0, 6, 3, 3, 9])])


def test_embedding_gradient():
    graph = programs.embedding_gradient(5, 9, 7)
    check(graph, [np.array([4, 0, 4, 2, 0, 4, 7]), arguments(graph)[1]])


# --------------------------------------------------------------------------------------------------------- map groups


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (17,), (3, 5), (1, 5), (5, 1), (2, 1, 7), (4, 4, 4)])
def test_map_extents(shape):
    x, y = tensor("x", *shape), tensor("y", *shape)
    check(Graph((x, y), [B.op("mul", B.op("add", x, y), x), B.op("exp", y)]))


@pytest.mark.parametrize(
    "shape, order",
    [
        ((9, 19), (1, 0)),
        ((3, 9, 10), (0, 2, 1)),
        ((9, 3, 10), (2, 1, 0)),
        ((8, 16), (1, 0)),
        ((5, 3), (1, 0)),
        ((2, 9, 3, 5), (0, 2, 3, 1)),
    ],
)
def test_transposes(shape, order):
    x = tensor("x", *shape)
    y = tensor("y", *(shape[a] for a in order))
    check(Graph((x, y), [B.op("add", B.permute(x, order), y)]))
    check(Graph((x, y), [B.permute(B.op("exp", x), order), B.op("sub", y, B.permute(x, order))]))


def test_transposes_are_turned_in_registers():
    x = tensor("x", 40, 50)
    fused = fuse(own_outputs(Graph((x,), [B.permute(x, (1, 0))])))
    lowered = LOWER["map"](fused, fused.groups[0], schedule.Map(8, 8, 8))
    assert any(
        b.space == "reg" and b.shape == (8, 8)
        for s in walk(lowered.kernel.body)
        for b in [getattr(s, "buffer", None)]
        if b is not None
    )


def test_broadcasts_and_reshapes_between():
    x, row, column = tensor("x", 6, 10), tensor("row", 10), tensor("column", 6, 1)
    y = B.op("add", B.op("mul", x, B.broadcast_to(row, x.shape)), B.broadcast_to(column, x.shape))
    z = B.op("exp", B.reshape(y, (3, 20)))
    check(Graph((x, row, column), [z, B.op("neg", B.reshape(z, (2, 3, 10)))]))


@pytest.mark.parametrize(
    "low, high, gap",
    [
        ((1, 2), (0, 3), (0, 0)),
        ((-1, 0), (-2, -3), (0, 0)),
        ((1, 1), (1, 0), (2, 1)),
        ((-1, 2), (3, -1), (1, 0)),
        ((0, -6), (0, 9), (0, 0)),
    ],
)
def test_pads(low, high, gap):
    x = tensor("x", 5, 7)
    y = B.pad(B.op("exp", x), low, high, gap, 3)
    check(Graph((x,), [B.op("add", y, B.like(y, 1))]))


@pytest.mark.parametrize("axis", [0, 1])
def test_concat(axis):
    a, b = tensor("a", 3, 5), tensor("b", 3, 5)
    c = make("concat", (a, B.op("neg", b), a, B.slice_(b, (0, 0), (3, 5) if axis == 0 else (3, 0))), axis=axis)
    check(Graph((a, b), [B.op("mul", c, c), B.flip(c, (0, 1))]))


@pytest.mark.parametrize("dtype", [int8, int32, int64, dtypes.uint8, dtypes.uint16, dtypes.uint64])
def test_gather_clamps(dtype):
    x, index = tensor("x", 5, 6), tensor("index", 2, 7, dtype=dtype)
    low, high = dtypes.limits(dtype)
    at = np.resize(np.array([0, 4, max(low, -3), 2, 9, low, high], dtype.np), (2, 7))
    graph = Graph((x, index), [B.op("neg", make("gather", (x, index), axis=a)) for a in (0, 1)])
    check(graph, [arguments(graph)[0], at])


def test_gather_of_a_guarded_index():
    x, index = tensor("x", 5), tensor("index", 4, dtype=int64)
    padded = B.pad(index, (2,), (3,), value=4)
    graph = Graph((x, index), [B.pad(make("gather", (x, padded), axis=0), (1,), (1,), value=-1)])
    check(graph, [arguments(graph)[0], np.array([3, 1, -8, 99])])


def test_panels_of_a_padded_tensor_need_no_division():
    """Padded positions are guarded, not computed with: the column number is not divided by the number of columns."""
    x, row = tensor("x", 6, 10), tensor("row", 6, 1)
    flat = B.reshape(B.op("mul", x, B.broadcast_to(row, x.shape)), (2, 3, 10))
    turned = B.reshape(B.permute(flat, (2, 0, 1)), (10, 6))
    panels = B.reshape(B.pad(turned, (0, 0), (2, 0)), (3, 4, 6))
    graph = Graph((x, row), [make("barrier", (B.permute(panels, (0, 2, 1)),), uid=1)])
    check(graph)
    parts = {e.op for k in kernels(graph) for s in walk(k.body) for e in subexpressions(*exprs(s))}
    assert "floordiv" not in parts and "mod" not in parts


def test_padding_is_inside_of_all_reshapes_below_it():
    """Groups of channels are formed, scaled and taken apart again before the padding: positions in the frame lead
    nowhere, so all of them are read without a division."""
    x, scale, bias = tensor("x", 2, 8, 5, 5), tensor("scale", 2, 4), tensor("bias", 8)
    biased = B.op("add", x, B.broadcast(bias, x.shape, (1,)))
    groups = B.reshape(biased, (2, 4, 50))
    scaled = B.op("mul", groups, B.broadcast(scale, groups.shape, (0, 1)))
    graph = Graph((x, scale, bias), [B.pad(B.reshape(scaled, x.shape), (0, 0, 1, 1), (0, 0, 1, 1))])
    check(graph)
    (fused,) = fuse(own_outputs(graph)).groups
    places = [e.args[0] for e in fused.units[0].loads]
    divided = [e for e in subexpressions(*places) if e.op in ("floordiv", "mod")]
    assert len(places) == 3 and [(e.op, e.args[1].attr) for e in divided] == [("floordiv", 2)]  # the channel's group


def test_a_small_table_does_not_decide_the_order_of_a_sum():
    """The large tensor is read along its rows, though two vectors would be read along the other axis."""
    x, a, b = tensor("x", 64, 400), tensor("a", 64), tensor("b", 64)
    scale = B.op("add", B.broadcast(a, x.shape, (0,)), B.broadcast(b, x.shape, (0,)))
    fused = fuse(own_outputs(Graph((x, a, b), [B.reduce(B.op("mul", x, scale), "sum", (0,))])))
    assert best_vector_axis(fused, fused.groups[0]) == (True, 0)


def test_windows_and_unwindow():
    x = tensor("x", 2, 11)
    w = B.window(x, (1,), (3,), (2,), (2,))
    u = make("unwindow", (B.op("mul", w, w),), shape=x.shape, axes=(1,), sizes=(3,), strides=(2,), dilations=(2,))
    check(lower_unwindow(Graph((x,), [u, B.op("neg", w)])))


@pytest.mark.parametrize("dtype", dtypes.ALL, ids=lambda d: d.short)
def test_dtypes_of_maps(dtype):
    x, y = tensor("x", 3, 9, dtype=dtype), tensor("y", 3, 9, dtype=dtype)
    name = "xor" if dtype.is_bool else "mul"
    z = B.op(name, x, B.op("max", x, y))
    outs = [z, B.op("lt", x, y), B.select(B.op("le", z, y), x, y), B.cast(z, float32), B.cast(z, dtypes.bool_)]
    check(Graph((x, y), [*outs, B.cast(B.cast(x, float32), dtype), B.cast(z, int64)]), lanes=(4,))


def test_outputs_that_are_inputs_constants_or_the_same():
    x = tensor("x", 3, 3)
    y = B.op("neg", x)
    check(
        Graph((x,), [x, y, y, B.const(2, float32, (4,)), B.reshape(y, (9,)), B.iota((2, 5), 1), B.permute(y, (1, 0))])
    )


# -------------------------------------------------------------------------------------------------------- rows groups

_SHAPES = [((7,), (0,)), ((5, 9), (1,)), ((5, 9), (0,)), ((5, 9), (0, 1)), ((3, 4, 5), (0, 2)), ((3, 4, 5), (1,)),
           ((2, 3, 4, 5), (0, 2)), ((2, 3, 4, 5), (1, 3)), ((1, 6), (0,)), ((6, 1), (1,)), ((1, 1), (0, 1)),
           ((3, 40), (1,)),
           ((40, 3), (0,)), ((2, 0), (1,)), ((0, 2), (0,)), ((0,), (0,)), ((), ())]  # fmt: skip


@pytest.mark.parametrize("monoid", ["sum", "max", "argmin"])
@pytest.mark.parametrize("shape, axes", _SHAPES, ids=str)
def test_reductions(shape, axes, monoid):
    if monoid != "sum" and 0 in shape:
        return
    x = tensor("x", *shape)
    y = B.reduce(x, monoid, axes)
    check(Graph((x,), [B.op("neg", y), y]))


@pytest.mark.parametrize("monoid", ["sum", "prod", "max", "min", "any", "all", "argmax", "argmin"])
@pytest.mark.parametrize("dtype", dtypes.ALL, ids=lambda d: d.short)
def test_dtypes_of_reductions(dtype, monoid):
    if dtype.is_bool != (monoid in ("any", "all")) and not (dtype.is_bool and monoid in ("max", "min", "argmax")):
        return
    x = tensor("x", 3, 11, dtype=dtype)
    graph = Graph((x,), [B.reduce(x, monoid, (a,)) for a in (0, 1)] + [B.reduce(x, monoid, (0, 1))])
    check(graph, lanes=(4,))


@pytest.mark.parametrize("monoid", ["argmax", "argmin", "max", "min"])
@pytest.mark.parametrize("dtype", [float32, float16])
def test_nan_and_ties(dtype, monoid):
    nan, inf = np.nan, np.inf
    rows = [
        [nan] * 9,
        [1] * 9,
        [inf] * 9,
        [-inf] * 9,
        [0, nan, 5, nan, 9, 1, 1, 1, 1],
        [1, 2, 3, 3, 2, 3, 1, 1, 1],
        [5, 5, 4, 3, 3, 3, 4, 5, 5],
        [0.0, -0.0] * 4 + [0.0],
        [1, 2, 3, 4, 5, 6, 7, 8, nan],
        [-inf, nan] + [inf] * 7,
    ]
    value = np.array(rows).astype(dtype.np)
    for axis in (0, 1):
        x = tensor("x", *value.shape, dtype=dtype)
        check(Graph((x,), [B.reduce(x, monoid, (axis,))]), [value])
        check(Graph((x,), [B.reduce(x, monoid, (0, 1))]), [value])


def test_argmax_over_two_axes_counts_row_major():
    x = tensor("x", 3, 4, 5)
    value = np.random.default_rng(0).integers(0, 3, (3, 4, 5)).astype(np.float32)
    for axes in itertools.combinations(range(3), 2):
        check(Graph((x,), [B.reduce(x, m, axes) for m in ("argmax", "argmin")]), [value])


def test_extremes_of_integers():
    for dtype in (int8, int64, dtypes.uint8, dtypes.uint64):
        low, high = dtypes.limits(dtype)
        x = tensor("x", 2, 5, dtype=dtype)
        value = np.array([[low] * 5, [high] * 5], dtype.np)
        check(Graph((x,), [B.reduce(x, m, (1,)) for m in ("max", "min", "argmax", "argmin")]), [value], lanes=(4,))


def test_several_results_of_one_pass():
    x = tensor("x", 5, 13)
    total, top = B.reduce(x, "sum", (1,)), B.reduce(x, "max", (1,))
    e = B.op("exp", B.op("sub", x, B.expand(top, x.shape, (1,))))
    check(Graph((x,), [total, top, e, B.reduce(e, "sum", (1,)), B.reduce(e, "argmax", (1,)), B.op("mul", total, top)]))


@pytest.mark.parametrize("shape", [(4, 10), (10, 4), (9, 1)])
@pytest.mark.parametrize("axis", [0, 1])
def test_shifted_reads_of_a_row_member(shape, axis):
    """A softmax that is padded, shifted, flipped and joined to itself inside its own row."""
    x = tensor("x", *shape)
    y = programs.softmax_of(x, axis)
    pad = [0, 0]
    pad[axis] = 2
    moved = B.pad(y, pad, [-p for p in pad] if shape[axis] > 2 else (0, 0), value=7)
    more = B.pad(y, pad, pad)
    check(Graph((x,), [moved, more, B.op("add", y, B.flip(y, (axis,))), make("concat", (y, x, y), axis=axis)]))


def test_unstored_members_read_out_of_place():
    """Kept in scratch of the row and read through a guard."""
    x = tensor("x", 3, 11)
    y = B.op("tanh", B.op("exp", x))
    total = B.expand(B.reduce(y, "sum", (1,)), x.shape, (1,))
    z = B.op("div", y, total)
    shifted = B.pad(y, (0, 3), (0, -3))
    check(Graph((x,), [B.op("add", z, shifted)]))


def test_reshape_inside_a_row():
    """Groups of channels: the row is one of three axes, the inner axes are split and joined again."""
    x = tensor("x", 2, 6, 5)
    grouped = B.reshape(x, (2, 3, 2, 5))
    y = B.reshape(programs.normalised(grouped, (2, 3)), (2, 6, 5))
    check(Graph((x,), [B.op("mul", y, y)]))


def test_rows_of_several_axes():
    x, w = tensor("x", 2, 3, 4, 5), tensor("w", 3, 4)
    y = B.op("mul", programs.normalised(x, (1, 3)), B.broadcast(w, x.shape, (1, 2)))
    check(Graph((x, w), [y, B.reduce(y, "max", (1, 3))]))


def test_a_reduction_of_a_transposed_map():
    x, y = tensor("x", 6, 9), tensor("y", 9, 6)
    z = B.op("exp", B.op("add", B.permute(x, (1, 0)), y))
    check(Graph((x, y), [z, B.reduce(z, "sum", (1,)), B.reduce(z, "sum", (0,))]))


def test_a_scalar_group():
    x = tensor("x", 30)
    loss = B.reduce(B.op("mul", x, x), "sum", (0,))
    scale = B.op("rsqrt", B.op("add", loss, B.const(1e-6, float32)))
    check(Graph((x,), [loss, B.op("mul", x, B.broadcast(scale, x.shape, ()))]))


def test_halves_accumulate_in_float32():
    x = tensor("x", 1, 4000, dtype=float16)
    value = np.full((1, 4000), 0.1, np.float16)
    graph = Graph((x,), [B.reduce(x, "sum", (1,))])
    want = np.float16(np.float64(np.float16(0.1)) * 4000)
    for choice in (naive, lambda f, g: schedule.Rows(16, 2, 1)):
        assert evaluate(graph, [value], choice)[0][0] == want


# ------------------------------------------------------------------------------------------------------------- contract


@pytest.mark.parametrize("spec, a, b", [
    ("ik,kj->ij", (5, 3), (3, 9)), ("ik,jk->ij", (5, 3), (9, 3)), ("ki,kj->ij", (3, 5), (3, 9)),
    ("ik,kj->ji", (5, 3), (3, 9)),
    ("bik,bkj->bij", (2, 3, 4), (2, 4, 5)), ("i,j->ij", (5,), (7,)), ("i,i->", (9,), (9,)), ("ik,k->i", (5, 3), (3,)),
    ("k,kj->j", (3,), (3, 11)), ("ik,kj->ij", (1, 3), (3, 1)), ("ik,kj->ij", (4, 1), (1, 6)),
    ("ik,kj->ij", (4, 0), (0, 6)),
    ("abk,kcd->abcd", (2, 3, 4), (4, 3, 5)), ("abk,kcd->dbca", (2, 3, 4), (4, 3, 5)), ("bi,bi->bi", (3, 5), (3, 5)),
    ("ikl,klj->ij", (3, 2, 4), (2, 4, 9)), ("ikl,lkj->ij", (3, 2, 4), (4, 2, 9)), (",->", (), ()), ("i,->i", (5,), ()),
    ("bi,bj->ibj", (2, 3), (2, 9)),
])  # fmt: skip
def test_contractions(spec, a, b):
    x, y = tensor("x", *a), tensor("y", *b)
    z = B.contract(x, y, spec)
    check(Graph((x, y), [B.op("add", z, B.like(z, 1)), z]))


@pytest.mark.parametrize(
    "dtype, out",
    [
        (float16, None),
        (dtypes.bfloat16, float32),
        (float64, None),
        (int32, None),
        (int8, int32),
        (float32, float64),
        (dtypes.uint64, None),
    ],
)
def test_contraction_dtypes(dtype, out):
    x, y = tensor("x", 3, 4, dtype=dtype), tensor("y", 4, 9, dtype=dtype)
    check(Graph((x, y), [B.contract(x, y, "ik,kj->ij", out)]), lanes=(4,))


def test_contraction_of_views_and_windows():
    """A convolution: contract over a window of a padded input, with a transposed epilogue."""
    x, w, b = tensor("x", 2, 3, 7), tensor("w", 4, 3, 3), tensor("b", 4)
    taps = B.window(B.pad(x, (0, 0, 1), (0, 0, 1)), (2,), (3,), (2,))  # n c l k
    y = B.contract(taps, w, "nclk,ock->nlo")
    y = B.op("max", B.op("add", y, B.broadcast_to(b, y.shape)), B.like(y, 0))
    check(Graph((x, w, b), [B.permute(y, (0, 2, 1)), B.reduce(y, "max", (1,))]))


def test_epilogues():
    a, b, c = tensor("a", 6, 5), tensor("b", 5, 10), tensor("c", 10, 6)
    y = B.contract(a, b, "ik,kj->ij")
    z = programs.gelu_of(y)
    moved = B.op("add", B.permute(z, (1, 0)), c)
    check(Graph((a, b, c), [y, z, moved, B.reduce(z, "sum", (1,)), B.reshape(B.op("neg", y), (3, 20))]))


# -------------------------------------------------------------------------------------------------------- random graphs


_SETTINGS = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def _prepared(graph):
    return lower_unwindow(remove_markers(graph))


@_SETTINGS
@given(integer_graphs(), st.integers(0, 10_000))
def test_random_integer_graphs(graph, seed):
    args = arguments(graph, seed)
    want = graph_interp.evaluate(graph, args)
    for choice in (naive, vectors(seed), vectors(seed + 1)):
        for g, w in zip(evaluate(_prepared(graph), args, choice, seed), want, strict=True):
            np.testing.assert_array_equal(g, w)


@_SETTINGS
@given(graphs(float_types=(float32, float64), max_extent=9), st.integers(0, 10_000))
def test_random_graphs(graph, seed):
    args = arguments(graph, seed)
    low = _prepared(graph)
    plain = evaluate(low, args, naive, seed)
    for o, p, w in zip(graph.outputs, plain, graph_interp.evaluate(graph, args), strict=True):
        if o.dtype.is_float:  # integers may be casts of floats that differ in the last bit
            np.testing.assert_allclose(p.astype(np.float64), w.astype(np.float64), 1e-3, 1e-3)
    for choice in (vectors(seed), vectors(seed + 1)):
        for o, g, p in zip(graph.outputs, evaluate(low, args, choice, seed), plain, strict=True):
            if o.dtype.is_float:
                np.testing.assert_allclose(g.astype(np.float64), p.astype(np.float64), 1e-3, 1e-3)


def test_kernels_have_vector_loops_and_parallel_tasks():
    """What the tests above run are vector kernels indeed."""
    for graph in (
        programs.softmax((64, 64)),
        programs.layernorm(64, 64),
        programs.adam((64, 64)),
        programs.linear_gelu(),
    ):
        for kernel in kernels(graph, vectors(1)):
            assert any(isinstance(s, For) and s.kind == "vector" for s in walk(kernel.body)), kernel.name


def test_numbers_of_a_reshaped_iota_are_places():
    """The counters of random numbers in a matrix: its rows and columns make the place again, with no division."""
    line = B.reshape(B.iota((15,), 0, dtypes.uint64), (3, 5))
    graph = Graph((), [B.op("mul", line, line)])
    check(graph, [])
    for kernel in kernels(graph, vectors(0)):
        assert not {"floordiv", "mod"} & {e.op for s in walk(kernel.body) for x in exprs(s) if x.dtype is dtypes.uint64
                                          for e in subexpressions(x)}


def test_the_cost_of_what_depends_on_inner_axes():
    i, j = loops.axis("i", 8), loops.axis("j", 8)
    x, y = load(Buffer("x", float32, (8,)), i), load(Buffer("y", float32, (8,)), j)
    once = op("sqrt", op("add", x, x))
    each = op("mul", op("mul", once, y), y)
    assert cost_of(each) == cost_of(once) + 2
    assert cost_of(each, frozenset((j,))) == 2 and cost_of(once, frozenset((j,))) == 0

"""Which groups (kernels) come out of fusion, as text: one line a group, units in order, `*` marks what is stored."""

from __future__ import annotations

import pytest

from dlc.ir.dtypes import float32, int64
from dlc.ir.graph import nodes as B
from dlc.ir.graph.graph import Graph, make
from dlc.passes.fuse.fuse import Group, fuse
from dlc.passes.fuse.materialize import own_outputs
from dlc.passes.fuse.unit import Unit
from tests.passes import programs


def groups(graph: Graph) -> str:
    fused = fuse(own_outputs(graph))

    def word(u: Unit) -> str:
        name = u.node.attrs["monoid"] if u.node.op == "reduce" else u.node.op
        shape = ",".join(map(str, u.node.shape)) if u.kind != "sort" else ""
        return f"{name}[{shape}]{'*' if u.node in fused.stored else ''}"

    def line(g: Group) -> str:
        rows = "" if g.rows is None else "".join(f" {r}" for r in g.rows)
        return f"{g.kind}{rows}: {' '.join(map(word, g.units))}"

    return "\n".join(map(line, fused.groups))


def check(graph: Graph, want: str) -> None:
    got = groups(graph)
    assert got == "\n".join(line.strip() for line in want.strip().splitlines()), f"\n{got}"


@pytest.mark.parametrize("shape, axis", [((8, 33), 1), ((33, 8), 0), ((2, 3, 4, 5), 2)])
def test_softmax(shape, axis):
    kept = [d for a, d in enumerate(shape) if a != axis]
    full, row = ",".join(map(str, shape)), ",".join(map(str, kept))
    check(programs.softmax(shape, axis), f"""
        rows {" ".join(map(str, kept))}: max[{row}] exp[{full}] sum[{row}] div[{full}]*
    """)


def test_layernorm():
    check(programs.layernorm(), "rows 8: sum[8] div[8] sum[8] div[8] add[8,40]*")


def test_cross_entropy():
    check(programs.cross_entropy(), """
        rows 9: max[9] sum[9] log[9] sum[9]*
        rows: sum[] neg[]*
    """)


def test_cross_entropy_with_its_gradient():
    check(programs.cross_entropy(256, 10, gradient=True), """
        rows 256: max[256] sum[256] log[256] sum[256]* sub[256,10]*
        rows: sum[] neg[]*
    """)


def test_batchnorm():
    check(programs.batchnorm(), "rows 5: sum[5] div[5] sum[5] mul[5] add[6,5,4,4]* add[5]* add[5]*")


def test_gelu_after_matmul():
    check(programs.linear_gelu(), "contract: contract[7,18] mul[7,18]*")


def test_adam():
    check(programs.adam((5, 7), (7,)), """
        map: add[5,7]* add[5,7]* sub[5,7]*
        map: add[7]* add[7]* sub[7]*
    """)


def test_attention():
    check(programs.attention(), """
        contract: contract[2,5,5]*
        rows 2 5: max[2,5] exp[2,5,5] sum[2,5] div[2,5,5]*
        contract: contract[2,5,8]*
    """)


def test_embedding_gradient():
    check(programs.embedding_gradient(), "scatter: scatter[11,20]*")


def test_argmax_and_compare():
    check(programs.accuracy(), """
        rows 9: argmax[9]*
        rows: sum[]*
    """)


def test_reductions_of_one_tensor_share_a_pass():
    x = programs.tensor("x", 8, 40)
    outs = [B.reduce(x, m, (1,)) for m in ("sum", "max", "min")]
    check(Graph((x,), outs), "rows 8: sum[8]* max[8]* min[8]*")


def test_reductions_over_different_axes_stay_apart():
    x = programs.tensor("x", 8, 40)
    check(Graph((x,), [B.reduce(x, "sum", (0,)), B.reduce(x, "sum", (1,))]), """
        rows 40: sum[40]*
        rows 8: sum[8]*
    """)


def test_a_part_of_the_rows_is_another_group():
    """Neither a slice nor a pad of the rows axis has the group's rows."""
    x = programs.tensor("x", 8, 40)
    total = B.reduce(x, "sum", (1,))
    part, more = B.slice_(total, (0,), (5,)), B.pad(total, (0,), (3,))
    outs = [B.op("exp", B.broadcast(t, (*t.shape, 3), (0,))) for t in (part, more)]
    check(Graph((x,), outs), """
        rows 8: sum[8]*
        map: exp[5,3]*
        map: exp[11,3]*
    """)


def test_a_part_of_the_result_is_not_an_epilogue():
    a, b = programs.tensor("a", 3, 5), programs.tensor("b", 5, 4)
    y = B.contract(a, b, "ik,kj->ij")
    other = B.pad(y, (0, 0), (1, -1))  # 4 x 3: the extents of the transposed result
    check(Graph((a, b), [B.op("neg", other)]), """
        contract: contract[3,4]*
        map: neg[4,3]*
    """)


def test_transposed_epilogue():
    a, b = programs.tensor("a", 3, 5), programs.tensor("b", 5, 4)
    y = B.permute(B.contract(a, b, "ik,kj->ij"), (1, 0))
    check(Graph((a, b), [B.op("neg", y)]), "contract: contract[3,4] neg[4,3]*")


def test_shifted_reads_wait_for_their_group():
    x = programs.tensor("x", 100)
    y = B.op("exp", x)
    shifted = B.op("add", B.slice_(y, (1,), (100,)), B.slice_(y, (0,), (99,)))
    check(Graph((x,), [y, shifted]), """
        map: exp[100]*
        map: add[99]*
    """)


def test_no_group_depends_on_itself():
    """sum -> matmul -> back to the row of the sum: the last map cannot join the first group."""
    x, w = programs.tensor("x", 16, 8), programs.tensor("w", 8, 8)
    total = B.expand(B.reduce(x, "sum", (1,)), x.shape, (1,))
    y = B.contract(B.op("mul", x, total), w, "ij,jk->ik")
    z = B.op("add", B.op("mul", y, total), x)
    check(Graph((x, w), [z]), """
        rows 16: sum[16]* mul[16,8]*
        contract: contract[16,8] add[16,8]*
    """)


def test_a_single_big_sum_keeps_its_producer():
    x = programs.tensor("x", 64)
    y = B.op("tanh", x)
    check(Graph((x,), [y, B.reduce(y, "sum", (0,))]), "rows: tanh[64]* sum[]*")


def test_sort_and_cumulative_stand_alone_and_take_views():
    x = programs.tensor("x", 6, 5)
    y = make("cumulative", (B.permute(B.op("neg", x), (1, 0)),), monoid="sum", axis=0, reverse=False)
    node = make("sort", (B.flip(y, (1,)),), axis=1, descending=True)
    check(Graph((x,), [B.op("add", B.item(node, 0), B.const(1, float32, (5, 6)))]), """
        cumulative: cumulative[5,6]*
        sort: sort[]
        map: add[5,6]*
    """)


def test_the_target_says_which_rows_are_enough():
    """Statistics over few rows, then the maps that use them: one kernel for two threads, several for thousands."""
    graph = programs.batchnorm(64, 16, 16)
    few = fuse(own_outputs(graph))
    many = fuse(own_outputs(graph), enough=lambda rows, size, across: rows >= 1000 or size <= 1000)
    assert len(few.groups) < len(many.groups)
    assert all(u.size <= 1000 for g in many.groups if g.kind == "rows" for u in g.units if u.kind == "map")


def test_large_epilogues_walk_memory_as_the_contraction_does():
    """A transposed update of a large weight is a kernel of its own, one of a small weight is not."""
    for n, count in ((16, 1), (512, 2)):
        x, y, w = (programs.tensor(name, n, n) for name in "xyw")
        product = B.contract(x, y, "ki,kj->ij")
        graph = Graph((x, y, w), [B.op("sub", w, B.permute(product, (1, 0)))])
        assert len(fuse(own_outputs(graph)).groups) == count
        assert len(fuse(own_outputs(graph), in_order=1 << 62).groups) == 1


def test_a_map_that_would_be_written_in_short_pieces_is_a_group_of_its_own(monkeypatch):
    x, y = programs.tensor("x", 64, 128), programs.tensor("y", 128, 3, 3, 96)
    w, v = programs.tensor("w", 64, 96, 3, 3), programs.tensor("v", 96, 3, 3, 64)
    pieces = programs.tensor("pieces", 8, 3, 3, 96, 64)
    product, total = B.contract(x, y, "mk,kuvc->muvc"), B.sum_(pieces, [0])
    taps = Graph((x, y, w), [B.op("sub", w, B.permute(product, (0, 3, 1, 2)))])
    folded = Graph((pieces, w), [B.op("sub", w, B.permute(total, (3, 2, 0, 1)))])
    wide = Graph((pieces, v), [B.op("sub", v, B.permute(total, (2, 0, 1, 3)))])

    def count(graph: Graph, short: int) -> int:
        return len(fuse(own_outputs(graph), in_order=1 << 62, short=short).groups)

    assert [count(g, 16) for g in (taps, folded, wide)] == [1, 1, 1]  # small
    monkeypatch.setattr("dlc.passes.fuse.fuse.SCATTERED", 1)
    assert [count(g, 16) for g in (taps, folded, wide)] == [2, 2, 1]
    assert [count(g, 0) for g in (taps, folded, wide)] == [1, 1, 1]


def test_padding_that_leaves_short_runs_is_done_apart():
    """An update of whole tensors is then one long run of memory; with long rows or little work there is no need."""

    def update(rows: int, short: int, wide: int) -> Graph:
        g, w = programs.tensor("g", rows, short), programs.tensor("w", rows, wide)
        return Graph((g, w), [B.op("sub", w, B.op("mul", B.pad(g, (0, 0), (0, wide - short)), w))])

    check(update(4000, 1, 3), """
        map: pad[4000,3]*
        map: sub[4000,3]*
    """)
    check(update(400, 1, 3), "map: sub[400,3]*")
    check(update(4000, 9, 12), "map: sub[4000,12]*")


@pytest.mark.parametrize("derived", [False, True])
def test_cross_entropy_that_leaves_labels_out_is_one_pass(derived):
    """The number of labels that count is known before the losses are; the gradient does not wait for their mean.
    Without a gradient only the mean needs the number, and computes it."""
    n, c = 256, 200
    logits, labels = programs.tensor("x", 16, 16, c), programs.tensor("y", n, dtype=int64)
    x = B.reshape(logits, (n, c))
    top = B.broadcast(B.reduce(x, "max", (1,)), (n, c), (0,))
    power = B.op("exp", B.op("sub", x, top))
    total = B.reduce(power, "sum", (1,))
    hot = B.op("eq", B.iota((n, c), 1), B.broadcast(labels, (n, c), (0,)))
    picked = B.reduce(B.select(hot, x, B.like(x, 0)), "sum", (1,))
    valid = B.op("ne", labels, B.like(labels, -100))
    losses = B.op("sub", B.op("log", total), picked)
    summed = B.reduce(B.select(valid, losses, B.like(losses, 0)), "sum", (0,))
    count = B.reduce(B.cast(valid, float32), "sum", (0,))
    share = B.op("div", B.const(1, float32), count)
    weight = B.select(valid, B.broadcast(share, (n,), ()), B.like(losses, 0))
    softmax = B.op("div", power, B.broadcast(total, (n, c), (0,)))
    gradient = B.op("mul", B.op("sub", softmax, B.cast(hot, float32)), B.broadcast(weight, (n, c), (0,)))
    if not derived:
        check(Graph((logits, labels), [B.op("div", summed, count)]), """
            rows 256: max[256] sum[256]* sum[256]*
            rows: sum[] sum[] div[]*
        """)
        return
    check(Graph((logits, labels), [B.op("div", summed, count), gradient]), """
        rows: sum[]* select[256]*
        rows 256: max[256] exp[256,200] sum[256]* sum[256]* mul[256,200]*
        rows: sum[] div[]*
    """)

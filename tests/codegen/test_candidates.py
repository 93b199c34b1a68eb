"""Schedules worth measuring: few, ranked, and every one computes the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dlc.codegen.cost import cpu_contract
from dlc.codegen.program.build import build_program, target_layout
from dlc.codegen.program.lowering import LOWER
from dlc.codegen.schedule import cpu as schedules
from dlc.codegen.schedule import cpu_candidates as candidates
from dlc.codegen.schedule.tuned_text import contract_key, decode, encode, kernel_digest
from dlc.codegen.target.tuned import Tuned
from dlc.ir import dtypes
from dlc.ir.graph import nodes as b
from dlc.ir.graph.graph import Graph, Node, TensorType, param
from dlc.ir.graph.interp import evaluate
from dlc.ir.loops.interp.interp import run
from dlc.ir.loops.parse import parse_kernel
from dlc.ir.loops.schedule import Columns, Contract, Map, Rows
from dlc.ir.loops.text import print_kernel
from dlc.ir.loops.verify import verify
from dlc.passes.fuse.fuse import fuse
from dlc.passes.fuse.materialize import own_outputs
from dlc.passes.views.views import memory_of
from tests.targets import computed, cpu

TARGET = cpu("avx512")
PRODUCTS = [("mk,kn->mn", 37, 50, 45), ("mk,nk->mn", 10, 7, 137), ("km,kn->mn", 33, 3, 21), ("mk,nk->mn", 65, 5, 70)]


def tensor(*shape: int, dtype=dtypes.float32) -> Node:
    return param(TensorType(dtype, shape))


def product(spec: str, m: int, n: int, k: int) -> Node:
    size = dict(m=m, n=n, k=k)
    first, second = spec.split("->")[0].split(",")
    return b.contract(tensor(*(size[c] for c in first)), tensor(*(size[c] for c in second)), spec)


def convolution() -> Node:
    image, weight = tensor(2, 7, 9, 5), tensor(3, 3, 5, 11)
    taps = b.window(b.pad(image, (0, 1, 1, 0), (0, 1, 1, 0)), (1, 2), (3, 3), (1, 1))
    return b.contract(taps, weight, "nhwcrs,rsco->nhwo")


def results(graph: Graph, arrays: list[np.ndarray], target) -> list[np.ndarray]:
    return [x.astype(np.float64) for x in computed(graph, arrays, target)]


class Always(Tuned):
    """A table that has one schedule for every contraction."""

    digest = ""

    def contract(self, key: str, node: Node) -> Contract:
        return next(iter(self.contracts.values()))


@pytest.mark.parametrize("make", [*(lambda p=p: product(*p) for p in PRODUCTS), convolution])
def test_contractions_compute_the_same_with_every_candidate(make, monkeypatch):
    node = make()
    params = [n for n in Graph([], [node]).nodes() if n.op == "param"]
    graph = Graph(params, [node])
    found = candidates.contractions(node, TARGET)
    assert found[0] == cpu_contract.contract(node, TARGET)
    assert 3 <= len(found) <= candidates.MOST
    assert len(set(found)) == len(found)
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(p.shape).astype(np.float32) for p in params]
    (want,) = evaluate(graph, arrays, wide=True)
    monkeypatch.setenv("DLC_CACHE", "0")
    seen = set()
    for s in found:
        target = replace(TARGET, tuned=Always({"": s}, {}))
        program = build_program(target_layout(graph, target), (), target, "main")
        used = [k.schedule for k in program.kernels() if k.tuned]
        assert used
        for k in program.kernels():
            verify(k, "test")
        for u in used:  # the candidate, cut to a run of rows where there is one
            assert (u.mr, u.nr, u.block_m, u.block_n) == (s.mr, s.nr, s.block_m, s.block_n)
            assert (u.swap, u.along) == (s.swap, s.along)
        seen.add(tuple(used))
        (have,) = results(graph, arrays, target)
        assert np.abs(have - want).max() <= 2e-5 * np.abs(want).max()
    assert len(seen) == len(found)


def softmax(x: Node) -> Node:
    e = b.op("exp", b.op("sub", x, b.expand(b.reduce(x, "max", [1]), x.shape, [1])))
    return b.op("div", e, b.expand(b.sum_(e, [1]), x.shape, [1]))


GROUPS = {
    "map": lambda x: b.op("tanh", b.op("mul", x, x)),
    "flat": lambda x: b.op("exp", b.reshape(x, (x.type.size,))),
    "transposed": lambda x: b.op("add", b.permute(b.reshape(x, (39, 37)), (1, 0)), b.reshape(x, (37, 39))),
    "rows": softmax,
    "columns": lambda x: b.sum_(x, [0]),
    "argmax": lambda x: b.reduce(x, "argmax", [1]),
}


@pytest.mark.parametrize("name", GROUPS)
def test_groups_compute_the_same_with_every_candidate(name):
    x = tensor(39, 37)
    graph = own_outputs(Graph([x], [GROUPS[name](x)]))
    array = np.random.default_rng(0).standard_normal(x.shape).astype(np.float32)
    (want,) = evaluate(graph, [array])
    fused = fuse(graph)
    (group,) = fused.groups
    found = candidates.group_schedules(fused, group, TARGET)
    assert found[0] == schedules.choose(fused, group, TARGET)
    assert 2 < len(found) <= candidates.MOST
    assert len(set(found)) == len(found)
    for s in found:
        lowered = LOWER[group.kind](fused, group, s)
        verify(lowered.kernel, "test")
        arrays = {x: array, memory_of(graph.outputs[0]): np.zeros(want.shape, want.dtype)}
        places = {n: a.reshape(-1).copy() for n, a in arrays.items()}
        args = [np.array([n]) if isinstance(n, int) else places[n] for n in lowered.nodes]
        run(lowered.kernel, args)
        have = places[memory_of(graph.outputs[0])].reshape(want.shape)
        np.testing.assert_allclose(have, want, rtol=2e-5, atol=1e-6)


def test_both_directions_of_a_reduction_are_tried():
    x = tensor(256, 300)
    fused = fuse(own_outputs(Graph([x], [b.sum_(x, [0])])))
    found = candidates.group_schedules(fused, fused.groups[0], TARGET)
    assert {type(s) for s in found} == {Columns, Rows}


def test_tables_survive_text():
    table = Tuned({"a": Contract(16, 4, 32, 2, 2)}, {"b": Map(8, 100), "c": Rows(4, 2, 1), "d": Columns(8, 2, 1)})
    back = decode(encode(table))
    assert (back.contracts, back.kernels, back.digest) == (table.contracts, table.kernels, table.digest)
    assert table.digest != Tuned({}, table.kernels).digest
    assert not Tuned({}, {}).digest


@pytest.mark.parametrize("text", [
    "", "[]", "[{}]", "{}", '[{}, {"k": ["Map", {"lanes": 8}]}]',
    '[{}, {"k": ["Map", {"lanes": 8, "chunk": "9", "tile": 0}]}]',
    '[{}, {"k": ["Node", {}]}]', '[{"k": ["Map", {"lanes": 8, "chunk": 9, "tile": 0}]}, {}]', "[3, 4]",
])  # fmt: skip
def test_what_is_no_table_is_refused(text):
    with pytest.raises(ValueError):
        decode(text)


def test_a_table_changes_the_kernel_and_its_header_says_so():
    x, w = tensor(50, 60), tensor(60, 70)
    node = b.contract(x, w, "mk,kn->mn")
    graph = Graph([x, w], [b.op("exp", b.sum_(node, [1]))])
    before = build_program(target_layout(graph, TARGET), (), TARGET, "main").kernels()
    other = replace(cpu_contract.contract(node, TARGET), mr=3)
    rows = next(k for k in before if isinstance(k.schedule, (Rows, Columns)))
    table = Tuned({contract_key(node): other}, {kernel_digest(rows): Rows(4, 1, 2)})
    after = build_program(target_layout(graph, t := replace(TARGET, tuned=table)), (), t, "main").kernels()
    assert [k.scheduled for k in after] == [f"{other!r} tuned", f"{Rows(4, 1, 2)!r} tuned"]
    for k in after:
        back = parse_kernel(print_kernel(k))
        assert back.tuned and back.scheduled == k.scheduled and print_kernel(back) == print_kernel(k)
    assert TARGET.key() == t.key()

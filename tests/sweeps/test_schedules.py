"""The sweep over schedules with fixed seeds: a few of its cases always, 2,000 in CI (`-m slow`)."""

from __future__ import annotations

import pytest

from tests.sweeps.schedules import TARGETS, Case, draw_case, examine, lowered, machine, sweep


def test_random_operations_are_covered_by_their_schedules():
    reports: list[str] = []
    done, failures, undecided = sweep(range(100), TARGETS, report=reports.append)
    assert (done, failures) == (100, 0), "\n".join(reports)
    assert sum(undecided.values()) <= done // 100, undecided


@pytest.mark.slow
def test_two_thousand_random_operations_are_covered_by_their_schedules():
    reports: list[str] = []
    done, failures, undecided = sweep(range(10_000, 12_000), TARGETS, report=reports.append)
    assert (done, failures) == (2000, 0), "\n".join(reports)
    assert sum(undecided.values()) <= done // 100, undecided


FOUND = [
    # part of the result was never written: the tail was chosen for all columns, not for those in one range
    ("avx512", 'dlc.einsum("mk,bkn->bmn", x, w)', dict(x=(18, 10), w=(2, 10, 9))),
    ("avx512", "dlc.vmap(lambda t: x @ t)(w)", dict(x=(18, 10), w=(2, 10, 9))),
    ("avx512", "F.conv2d(x, w)", dict(x=(2, 16, 9, 1), w=(16, 16, 1, 1))),
    ("avx512", "dlc.grad(lambda x, w: dlc.sum(dlc.sin(F.conv2d(x, w, stride=2))), argnums=(0, 1))(x, w)",
     dict(x=(4, 64, 6, 5), w=(48, 64, 1, 1))),
    ("avx512", "F.conv_transpose2d(x, w)", dict(x=(2, 16, 9, 1), w=(16, 16, 1, 1))),
    # a kernel of one block was taken for one of a CPU: its partial sums were shared by the threads
    ("sm_90a", "F.softmax(x @ w * 0.1, -1)", dict(x=(3, 8, 509), w=(509, 12))),
    ("sm_80", "dlc.index_add(x, 0, dlc.zeros(547, dtype=dlc.int64), w)", dict(x=(101,), w=(547,))),
]


@pytest.mark.parametrize("name, text, shapes", FOUND, ids=[text for _, text, _ in FOUND])
def test_what_was_found_stays_right(name, text, shapes):
    case = Case(text, tuple((x, shape, "float32") for x, shape in shapes.items()))
    assert not examine(lowered(case.graph(), machine(name)))


def test_a_failure_prints_a_program_that_shows_it():
    def broken(*_):
        raise ValueError("planted")

    reports: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.sweeps.schedules.examine", broken)
        assert sweep(range(3, 4), ("avx512",), report=reports.append)[1] == 1
    start = reports[0].index("import dlc")
    names: dict = {}
    exec(reports[0][start:], names)  # noqa: S102  our own text
    assert "# seed 3 for avx512: ValueError: planted" in reports[0]
    assert len(names["f"].lower(*(names[n] for n, *_ in draw_case(3).arguments)).graph.params) >= 1

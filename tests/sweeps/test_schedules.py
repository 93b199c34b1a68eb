"""The sweep over schedules with fixed seeds: a few of its cases always, 2,000 in CI (`-m slow`)."""

from __future__ import annotations

import pytest

from tests.sweeps.schedules import TARGETS, draw_case, sweep


def test_random_operations_are_covered_by_their_schedules():
    reports: list[str] = []
    done, failures, undecided = sweep(range(140), TARGETS, report=reports.append)
    assert (done, failures) == (140, 0), "\n".join(reports)
    assert sum(undecided.values()) <= done // 100, undecided


@pytest.mark.slow
def test_two_thousand_random_operations_are_covered_by_their_schedules():
    reports: list[str] = []
    done, failures, undecided = sweep(range(10_000, 12_000), TARGETS, report=reports.append)
    assert (done, failures) == (2000, 0), "\n".join(reports)
    assert sum(undecided.values()) <= done // 100, undecided


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

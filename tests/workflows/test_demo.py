"""The sweeps behind the demo: orders that can be carried out, with settings that were chosen for their small models."""

from __future__ import annotations

import pytest

from expunge.benchmarks import presets
from expunge.workflows.demo import CASES, SMALL, demo


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_a_case_is_an_order_that_can_be_carried_out(case: str, quick: bool) -> None:
    sweep = demo(case, quick)
    sweep.check()
    assert sweep.load_suite().sets["forget"]
    if not quick:
        assert all(presets.hyperparameters(sweep.suite, sweep.size, method) for method in sweep.methods)


def test_each_case_has_a_smallest_version() -> None:
    assert CASES.keys() == SMALL.keys()

"""The sweeps behind the demo: orders that can be carried out, with settings that were chosen for their small models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from expunge.benchmarks import presets
from expunge.benchmarks.demos import cases
from expunge.core.errors import UserError
from expunge.workflows.demo import demo


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("case", cases())
def test_a_case_is_an_order_that_can_be_carried_out(case: str, quick: bool) -> None:
    sweep = demo(case, quick)
    sweep.check()
    assert sweep.load_suite().sets["forget"]
    if not quick:
        preset = Path(presets.__file__).with_name(f"{sweep.suite}-{sweep.size}.json")
        assert {*sweep.methods} <= json.loads(preset.read_text(encoding="utf-8"))["methods"].keys(), "settings were chosen for the model"


def test_the_smallest_version_has_one_method() -> None:
    assert all(len(demo(case, quick=True).methods) == 1 for case in cases())


def test_a_case_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(UserError, match=r"no demo called 'picture'; there are people, .*faces"):
        demo("picture")

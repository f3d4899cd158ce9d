"""The world of a topic: scores are of the rows that the coreset leaves out."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from studies.proofs import topics

from expunge.core.rows import Packed, Rows


class Table:
    """A modality whose probability of a row is a number in the row."""

    def rows(self, name: str, records: Any) -> Rows:
        return Rows(name, tuple(f"{r['p']:.4f}" for r in records), {"p": [r["p"] for r in records]})

    def forward(self, model: Any, groups: Any) -> list[Any]:
        return [SimpleNamespace(target_logp=Packed(torch.tensor(g["p"]).log(), torch.arange(len(g)), len(g))) for g in groups]


def test_known_are_rows_left_out_whose_answer_is_likely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topics, "FRACTION", 0.25)
    one: Any = object.__new__(topics.TopicUnit)
    forget, others = [{"p": p} for p in (0.9, 0.8, 0.7, 0.6)], [{"p": p} for p in (0.4, 0.5)]
    one.opened, one.full, one.draw = SimpleNamespace(modality=Table()), [*others, *forget], 0
    one.requests = {topics.METHOD: forget}
    model: Any = SimpleNamespace(eval=lambda: None)
    assert one.known(model, topics.METHOD) == {topics.LEFT_OUT: 1.0, topics.KEPT: 0.5}


@pytest.mark.slow
def test_the_rows_left_out_are_those_that_the_selector_leaves_out() -> None:
    from accelerate import Accelerator

    from expunge.core.random import seed_of
    from expunge.engine import loop
    from expunge.engine.context import RunView
    from expunge.methods.selectors.coreset import Coreset

    unit = topics.CLAIMS[topics.METHOD][0].unit(100, 3)
    rows = unit.opened.modality.rows("forget", unit.requests[topics.METHOD])
    assert len(rows) == topics.ROWS
    control = [*map(str, unit.requests[topics.CONTROL])]
    assert len(set(control)) == topics.ROWS // 2
    assert not set(control) & {str(r) for r in unit.requests[topics.METHOD]}
    view = RunView(loop.new_state(unit.opened.model, unit.opened.modality, Accelerator()), {"forget": rows})
    part = Coreset(fraction=topics.FRACTION, draw=unit.draw, repeat=False)
    kept = set(part.pick(view.sets, view)["forget"].ids)
    order = sorted(range(len(rows)), key=lambda i: seed_of(unit.draw, rows.ids[i]), reverse=True)
    assert kept == {rows.ids[i] for i in order[: len(kept)]}


def test_the_control_is_what_the_harshest_setting_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    one: Any = object.__new__(topics.TopicUnit)
    left = dict(zip(product(*topics.GRID.values()), (0.8, 0.6, 0.7, 0.9), strict=True))
    monkeypatch.setattr(one, "after", lambda request, epochs, lr, **_: {topics.LEFT_OUT: left[epochs, lr]}, raising=False)
    assert one.unrelated == 0.6

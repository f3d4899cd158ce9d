"""The world of copies: which rows have copies, and that a selector by the length of gradients finds the others."""

from __future__ import annotations

import pytest
from accelerate import Accelerator
from studies.proofs import marginal

from expunge.engine import loop
from expunge.engine.context import RunView
from expunge.methods.selectors.low_influence import LowInfluence


@pytest.mark.slow
def test_rows_of_wrong_labels_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"UNITS": 64, "OTHERS": 100, "WRONG": 10, "COPIED": 10}.items():
        monkeypatch.setattr(marginal, name, value)
    monkeypatch.setitem(marginal.TRAINED, "epochs", 200)
    unit = marginal.CLAIMS[marginal.METHOD][0].unit(100, 0)
    assert [len(unit.rows[n]) for n in ("forget", "wrong", "copied", "retain")] == [20, 10, 10, 100 + 10 * marginal.COPIES]
    assert unit.lead("wrong") > 0.3
    assert abs(unit.lead("copied")) < 0.05
    view = RunView(loop.new_state(unit.models[0], unit.modality, Accelerator()), {"forget": unit.rows["forget"]})
    kept = LowInfluence(drop=0.5).pick(view.sets, view)["forget"].ids
    assert len(set(kept) & set(unit.rows["wrong"].ids)) >= 9
    assert unit.retrained[marginal.GAP] == 0
    assert unit.original[marginal.GAP] == pytest.approx(unit.measure(unit.models[0])[marginal.GAP])

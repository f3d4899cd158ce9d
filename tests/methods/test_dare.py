"""DaRE forests: forgetting is never having seen the rows, store and model alike; accuracy beside a published forest; what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier

import grids
from expunge.core.errors import UserError
from expunge.engine import checkpoint, loop
from expunge.engine.weights import weights_of
from expunge.modalities.table.columns import table_rows
from expunge.workflows.build_plan import plan

SMALL = {"trees": 4, "depth": 5, "thresholds": 4}
RECORDS = grids.iris(3)  # 50 rows
GONE, REST = RECORDS[5:50:9], [r for i, r in enumerate(RECORDS) if i not in range(5, 50, 9)]


def same(a: Any, b: Any) -> bool:
    """Whether two stores are equal, tensors and ids included."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return bool(a.ids == b.ids if hasattr(a, "ids") else a == b)


@pytest.mark.parametrize("topd", [0, 2])
def test_forgetting_is_never_having_seen_the_rows(topd: int) -> None:
    settings = {**SMALL, "topd": topd}
    left = grids.fitted("dare", "forest", RECORDS, **settings)
    for row in GONE:  # one after the other
        left = grids.forgotten("dare", left, [row], **settings)
    model, modality = grids.begun("forest", RECORDS)
    never = loop.run(plan("dare", settings), model, modality, {"retain": modality.rows("retain", REST[::-1])})
    assert left.store is not None
    assert never.store is not None
    assert same(dict(left.store), dict(never.store)), "all statistics, and whatever the order of the file"
    ours, theirs = weights_of(left.model), weights_of(never.model)
    assert all(torch.equal(ours[n], theirs[n]) for n in theirs)


def test_other_seeds_give_other_forests() -> None:
    first, second = (weights_of(grids.fitted("dare", "forest", RECORDS, seed=s, **SMALL).model) for s in (0, 1))
    assert not torch.equal(first["threshold"], second["threshold"])


def test_a_forest_is_about_as_accurate_as_a_published_one() -> None:
    """On breast cancer, within three rows of a hundred of scikit-learn's forest of as many trees without bootstrap."""
    order = np.random.default_rng(0).permutation(len(grids.CANCER_X))
    train, test = order[:250], order[250:]
    records = table_rows(grids.CANCER_X[train], grids.CANCER_Y[train])
    run = grids.fitted("dare", "forest", records, trees=12, depth=6, thresholds=8)
    x = torch.from_numpy(grids.CANCER_X[test].astype(np.float32))
    ours = float((run.model(x).argmax(1).numpy() == grids.CANCER_Y[test]).mean())
    theirs = RandomForestClassifier(12, max_depth=6, bootstrap=False, random_state=0).fit(grids.CANCER_X[train], grids.CANCER_Y[train])
    assert ours > theirs.score(grids.CANCER_X[test], grids.CANCER_Y[test]) - 0.03
    assert ours > 0.9


def test_probabilities_are_the_mean_of_the_shares_in_the_leaves() -> None:
    """One tree of one split over x = 0, 0, 1, 1 with classes 0, 1, 1, 1: shares (1/2, 1/2) and (0, 1), the 0 as 1e-6."""
    records = table_rows([[0.0], [0.0], [1.0], [1.0]], [0, 1, 1, 1])
    run = grids.fitted("dare", "forest", records, trees=1, depth=1)
    scores = run.model(torch.tensor([[0.0], [1.0]]))
    assert scores.exp().flatten().tolist() == pytest.approx([0.5, 0.5, 1e-6, 1.0])
    (output,) = run.modality.forward(run.model, [run.modality.rows("x", records)])
    assert output.loss.values.tolist() == pytest.approx([np.log(2), np.log(2), 1e-6, 1e-6], abs=1e-7)


def test_the_cost_of_a_deletion_is_counted() -> None:
    run = grids.forgotten("dare", grids.fitted("dare", "forest", RECORDS, **SMALL), GONE[:1], **SMALL)
    (cost,) = run.shown["trees"]
    assert cost["rows"] == 1
    assert SMALL["trees"] <= cost["updated"] <= SMALL["trees"] * (SMALL["depth"] + 1), "one path in each tree"
    assert cost["rows_read"] < len(RECORDS) * SMALL["trees"] * SMALL["depth"]


def test_the_store_promises_equality_and_keeps_nothing_of_a_row_that_left(tmp_path: Any) -> None:
    store = grids.forgotten("dare", grids.fitted("dare", "forest", RECORDS, **SMALL), GONE, **SMALL).store
    assert store is not None
    assert store["guarantee"]["level"] == "E0"
    assert any("other code" in v for v in store["guarantee"]["void"])
    assert len(store["x"]) == len(store["y"]) == len(store["rows"]) == len(REST)
    checkpoint.save(dict(store), tmp_path / "store")
    assert same(checkpoint.load(tmp_path / "store"), dict(store))


def test_what_cannot_be_forgotten_is_refused() -> None:
    run = grids.fitted("dare", "forest", RECORDS, **SMALL)
    with pytest.raises(UserError, match="none of the 1 rows to forget is in the store"):
        grids.forgotten("dare", run, [{**GONE[0], "x0": 99.0}], **SMALL)
    with pytest.raises(UserError, match="no row would be left in the store"):
        grids.forgotten("dare", run, RECORDS, **SMALL)
    assert run.store is not None
    run.store = {**run.store, "x": run.store["x"][:, :2]}
    with pytest.raises(UserError, match="rows of 2 inputs, and the model beside it reads 4"):
        grids.forgotten("dare", run, GONE, **SMALL)
    run.store = {n: v for n, v in run.store.items() if n != "trees"} | {"x": torch.zeros(50, 4)}
    with pytest.raises(UserError, match="the store has no entry 'trees', which this version reads"):
        grids.forgotten("dare", run, GONE, **SMALL)


def test_equal_rows_leave_together_and_that_is_said() -> None:
    run = grids.fitted("dare", "forest", [*RECORDS, GONE[0], GONE[0]], **SMALL)
    left = grids.forgotten("dare", run, GONE[:2], **SMALL)
    assert left.warnings == ["2 more rows of the store leave with the 2 rows to forget, because they are equal to them"]
    assert left.store is not None
    assert len(left.store["rows"]) == len(RECORDS) - 2


def test_another_type_of_numbers_is_refused() -> None:
    model, modality = grids.begun("forest", RECORDS)
    with pytest.raises(UserError, match="a forest compares numbers in float32"):
        loop.run(plan("dare", SMALL), model.bfloat16(), modality, {"retain": modality.rows("retain", RECORDS)})


def test_a_network_is_no_forest() -> None:
    with pytest.raises(UserError, match="this method needs a forest of decision trees"):
        grids.fitted("dare", "linear", RECORDS, **SMALL)

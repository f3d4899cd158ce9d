"""U-LiRA against retraining, which it must not tell from never having seen, and against no unlearning, where it is LiRA."""

from dataclasses import replace

import numpy as np
import pytest

import toys
from expunge.core.errors import UserError
from expunge.core.plan import Plan, Plans, Train
from expunge.engine.ensemble import subsets
from expunge.evaluation.attacks import lira, u_lira
from expunge.methods.terms import Ascent
from expunge.parallel.ensembles import margins, train

PORT = toys.modality(3)
ROWS = toys.noise(50, PORT, width=8)
PLAN = toys.fresh(epochs=60, batch_size=25)
NOTHING = Plan(Ascent(), train=Train(epochs=0))


def attack(method: Plan | Plans, shadows: int = 16) -> dict[str, float]:
    return u_lira.attack(toys.mlp(3, hidden=32, width=8), PORT, ROWS, PLAN, method, candidates=20, shadows=shadows)


def test_without_unlearning_it_is_lira() -> None:
    scores = attack(NOTHING)
    pool = train(PLAN, toys.mlp(3, hidden=32, width=8), PORT, ROWS, subsets(50, 16, paired=True))
    margin, members = margins(pool, PORT, ROWS).double().numpy(), pool.trained_on.numpy()
    ratio = lira.left_out(margin, members, ~members)
    known = lira.summary(ratio[members], ratio[~members])
    assert scores["accuracy"] == pytest.approx(known["balanced_accuracy"], abs=0.1)  # other subsets, and 20 rows against 50
    assert scores["accuracy"] > 0.8
    assert scores["auc"] > 0.9
    assert scores["item_accuracy_p95"] >= scores["accuracy"]
    pairs = [(a, b) for a in margin[members] for b in margin[~members]]
    assert scores["population_auc"] == pytest.approx(np.mean([(a > b) + 0.5 * (a == b) for a, b in pairs]), abs=0.1)
    assert scores["population_auc"] < scores["auc"], "one threshold for all rows tells less than the fit of each"


@pytest.mark.slow
def test_retraining_cannot_be_told_from_never_having_seen() -> None:
    scores = attack(PLAN)
    assert scores["accuracy"] == pytest.approx(0.5, abs=0.1)
    assert scores["auc"] == pytest.approx(0.5, abs=0.12)


@pytest.mark.slow
def test_too_much_unlearning_is_found_as_well_as_too_little() -> None:
    """After ascent the rows are less likely than unseen ones, and so give themselves away."""
    too_much = Plan(Ascent(), train=Train(epochs=15, lr=0.1, batch_size=10, schedule="constant"))
    assert attack(too_much)["accuracy"] > 0.65
    assert attack(replace(too_much, train=replace(too_much.train, lr=1e-9))) == pytest.approx(attack(NOTHING), abs=1e-6)


def test_accuracies_of_items_by_hand() -> None:
    ratio = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, np.nan], [1.0, 2.0]])
    unlearned = np.array([[1, 1], [1, 1], [0, 0], [0, 0]], bool)
    assert u_lira.item_accuracy(ratio, unlearned, ~unlearned) == pytest.approx([(1 + 0.5) / 2, (0.5 + 0) / 2])


@pytest.mark.parametrize(("candidates", "shadows"), [(20, 2), (1, 8), (50, 8)])
def test_what_is_refused(candidates: int, shadows: int) -> None:
    with pytest.raises(UserError, match="shadow models and"):
        u_lira.attack(toys.mlp(3), PORT, ROWS, PLAN, NOTHING, candidates=candidates, shadows=shadows)

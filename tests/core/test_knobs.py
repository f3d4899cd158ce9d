"""Hyperparameters: found, named, changed, refused in words."""

from __future__ import annotations

import pytest

from expunge.core.errors import UserError
from expunge.core.hyperparameters import hp, hyperparameters_of, override, part, snake
from expunge.core.parts import Objective
from expunge.core.plan import Plan, Train
from expunge.core.view import Step
from expunge.methods.edits.random_weights import Reinitialize
from expunge.methods.terms import NLL, Ascent


@part
class Sharp(Objective):
    rho: float = hp(0.1, "radius", gt=0)
    mode: str = "plain"

    def loss(self, step: Step) -> None:  # type: ignore[override]
        raise AssertionError


def two() -> tuple[Plan, Plan]:
    return Plan(Ascent() + 2.0 * NLL(), train=Train(lr=1.0), name="first"), Plan(Sharp() + Sharp(0.5), train=Train(lr=2.0))


def test_names() -> None:
    assert [snake(n) for n in ("SimNPO", "NLL", "IdkAP", "TaskVector", "CEU")] == ["sim_npo", "nll", "idk_ap", "task_vector", "ceu"]


def test_every_knob_has_its_own_qualified_name() -> None:
    names = [k.qualified for k in hyperparameters_of(two())]
    assert len(names) == len(set(names))
    assert {"first.lr", "stage2.lr", "sharp.rho", "sharp2.rho", "term.forget_weight", "term.retain_weight"} <= set(names)
    assert not any(n.endswith(".mode") for n in names), "a field without a meaning is no hyperparameter"


def test_a_training_setting_goes_to_every_stage_and_a_qualified_one_to_its_own() -> None:
    first, second = override(two(), {"lr": "0.5"})
    assert (first.train.lr, second.train.lr) == (0.5, 0.5)
    first, second = override(two(), {"first.lr": 0.25})
    assert (first.train.lr, second.train.lr) == (0.25, 2.0)


def test_term_weights_by_role() -> None:
    first, _ = override(two(), {"retain-weight": "3"})
    assert [t.weight for t in first.terms()] == [1.0, 3.0]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rhoo": 1}, "did you mean 'rho'"),
        ({"rho": 1}, "more than one part: say sharp.rho or sharp2.rho"),
        ({"sharp.rho": -1}, "greater than 0"),
        ({"lr": "fast"}, "valid number"),
        ({"optimizer": "lion"}, "'adam' or 'sgd'"),
    ],
)
def test_what_is_refused(given: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        override(two(), given)


def test_override_leaves_the_given_tree_alone() -> None:
    tree = two()
    override(tree, {"lr": 9.0})
    assert tree == two()


def test_several_values_have_commas_between_them() -> None:
    assert override(Plan(Ascent()), {"lr_milestones": "3,5"}).train.lr_milestones == (3, 5)
    with pytest.raises(UserError, match="hyperparameter 'lr_milestones'"):
        override(Plan(Ascent()), {"lr_milestones": "3,x"})


def test_what_does_not_train_has_no_training_knobs() -> None:
    assert {k.name for k in hyperparameters_of(Plan(Reinitialize()))} == {"seed", "trainable"}
    assert "lr" in {k.name for k in hyperparameters_of(Plan(Ascent()))}
    with pytest.raises(UserError, match="no hyperparameter 'lr'"):
        override(Plan(Reinitialize()), {"lr": 1.0})

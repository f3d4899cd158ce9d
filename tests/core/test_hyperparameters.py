"""Hyperparameters: their names, how `override` changes them, and the errors for unknown or invalid ones."""

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


def two_stages() -> tuple[Plan, Plan]:
    return Plan(Ascent() + 2.0 * NLL(), train=Train(lr=1.0), name="first"), Plan(Sharp() + Sharp(0.5), train=Train(lr=2.0))


def test_class_names_become_snake_case() -> None:
    assert [snake(n) for n in ("SimNPO", "NLL", "IdkAP", "TaskVector", "CEU")] == ["sim_npo", "nll", "idk_ap", "task_vector", "ceu"]


def test_qualified_names_are_unique() -> None:
    names = [k.qualified for k in hyperparameters_of(two_stages())]
    assert len(names) == len(set(names))
    assert {"first.lr", "stage2.lr", "sharp.rho", "sharp2.rho", "term.forget_weight", "term.retain_weight"} <= set(names)
    assert not any(n.endswith(".mode") for n in names), "a field without a meaning is no hyperparameter"


def test_a_plain_training_setting_changes_all_stages_and_a_qualified_one_its_own() -> None:
    first, second = override(two_stages(), {"lr": "0.5"})
    assert (first.train.lr, second.train.lr) == (0.5, 0.5)
    first, second = override(two_stages(), {"first.lr": 0.25})
    assert (first.train.lr, second.train.lr) == (0.25, 2.0)


def test_term_weights_are_named_by_role() -> None:
    first, _ = override(two_stages(), {"retain-weight": "3"})
    assert [t.weight for t in first.terms()] == [1.0, 3.0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rhoo": 1}, "did you mean 'rho'"),
        ({"rho": 1}, "more than one part: say sharp.rho or sharp2.rho"),
        ({"sharp.rho": -1}, "greater than 0"),
        ({"lr": "fast"}, "valid number"),
        ({"optimizer": "lion"}, "'adam', 'sgd' or 'adagrad'"),
    ],
)
def test_unknown_ambiguous_and_invalid_hyperparameters_are_refused(values: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        override(two_stages(), values)


def test_override_does_not_change_its_argument() -> None:
    tree = two_stages()
    override(tree, {"lr": 9.0})
    assert tree == two_stages()


def test_commas_separate_several_values() -> None:
    assert override(Plan(Ascent()), {"lr_milestones": "3,5"}).train.lr_milestones == (3, 5)
    with pytest.raises(UserError, match="hyperparameter 'lr_milestones'"):
        override(Plan(Ascent()), {"lr_milestones": "3,x"})
    with pytest.raises(UserError, match="'lr_milestones' = '0,3': input should be greater than 0"):
        override(Plan(Ascent()), {"lr_milestones": "0,3"})


def test_an_edit_has_no_training_hyperparameters() -> None:
    assert {k.name for k in hyperparameters_of(Plan(Reinitialize()))} == {"seed", "trainable"}
    assert "lr" in {k.name for k in hyperparameters_of(Plan(Ascent()))}
    with pytest.raises(UserError, match="no hyperparameter 'lr'"):
        override(Plan(Reinitialize()), {"lr": 1.0})

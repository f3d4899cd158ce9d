"""GradDiff against formulas on a table of logits, and the outcome."""

import pytest
import torch

import tables
import worlds
from expunge.core.errors import UserError
from expunge.engine import loop
from expunge.workflows import build_plan


@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_value_and_gradient_equal_the_formula_with_the_likelihood_term(weight: float) -> None:
    sets, table = tables.batch(), tables.scores(9).requires_grad_()
    forget, retain = (torch.cat(tables.logps(table, sets[n])) for n in ("forget", "retain"))
    expected = forget.sum() / 9 - weight * retain.sum() / 11
    value, grad = tables.ask(build_plan.plan("graddiff", {"retain_weight": weight})[0].action, sets, table.detach())
    assert value == pytest.approx(expected.item(), abs=1e-12)
    assert torch.allclose(grad, tables.slope(expected, table))


def test_forgets_while_the_retain_term_preserves_utility(text: worlds.World) -> None:
    after = {}
    for name in ("graddiff", "ga"):
        model = text.model()
        loop.run(build_plan.plan(name, {"lr": 1e-3, "epochs": 20}), model, text.modality, text.sets)
        after[name] = worlds.nll(model, text.modality, text.sets["forget"]), worlds.nll(model, text.modality, text.sets["retain"])
    assert after["graddiff"][0] > 3.0
    assert after["graddiff"][1] < 0.3 * after["ga"][1]


def test_an_unknown_retain_term_raises_an_error() -> None:
    with pytest.raises(UserError, match="retain_term"):
        build_plan.plan("graddiff", {"retain_term": "mse"})

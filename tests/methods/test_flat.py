"""FLAT against formulas on a table of logits, its gradient on answers of one label, and the outcome."""

import math

import pytest
import torch
from torch import Tensor

import tables
import worlds
from expunge.core.needs import Need
from expunge.core.rows import Rows, Sets
from expunge.engine import loop
from expunge.methods.objectives.flat import FLAT
from expunge.workflows import build_plan

NAMES = ("tv", "kl", "js", "pearson")


def pair_loss(name: str, p: Tensor, q: Tensor) -> Tensor:
    """The loss of a refusal of probability p and an answer to forget of probability q."""
    return {
        "tv": lambda: -p.tanh() / 2 + q.tanh() / 2,
        "kl": lambda: -p + (q - 1).exp(),
        "js": lambda: (1 + (-p).exp()).log() + q + (1 + (-q).exp()).log() - 2 * math.log(2),
        "pearson": lambda: -p + q + q * q / 4,
    }[name]()


def formula(name: str, table: Tensor, sets: Sets, mean_first: bool) -> Tensor:
    """The loss of a batch, written out."""
    p, q = (torch.stack([x.exp().mean() for x in tables.logps(table, sets[n])]) for n in ("substitute", "forget"))
    return pair_loss(name, p.mean(), q.mean()) if mean_first else pair_loss(name, p, q).mean()


@pytest.mark.parametrize("mean_first", [False, True])
@pytest.mark.parametrize("micro_batch_size", [0, 1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_value_and_gradient_equal_the_formula(name: str, micro_batch_size: int, mean_first: bool) -> None:
    sets, table = tables.batch(), tables.scores(9).requires_grad_()
    expected = formula(name, table, sets, mean_first)
    value, grad = tables.ask(FLAT(divergence=name, mean_first=mean_first), sets, table.detach(), micro_batch_size=micro_batch_size)
    assert value == pytest.approx(expected.item(), abs=1e-12)
    assert torch.allclose(grad, tables.slope(expected, table), atol=1e-14)


def test_the_two_orders_of_averaging_agree_on_one_row_only() -> None:
    sets, table = tables.batch(), tables.scores(9)
    one = {n: r.select([0]) for n, r in sets.items()}
    rowwise, batchwise = FLAT(divergence="pearson"), FLAT(divergence="pearson", mean_first=True)
    assert tables.ask(rowwise, one, table)[0] == pytest.approx(tables.ask(batchwise, one, table)[0], abs=1e-12)
    assert abs(tables.ask(rowwise, sets, table)[0] - tables.ask(batchwise, sets, table)[0]) > 1e-4
    assert Need.BATCH_MEANS in batchwise.needs
    assert not rowwise.needs


@pytest.mark.parametrize("name", NAMES)
def test_answers_of_one_label_equal_the_formula(name: str) -> None:
    """Both answers have one label of two classes, at probabilities 0.4 (refusal) and 0.8: dL/dlogit = dL/dP * P (1 - P)."""
    table = torch.tensor([[[math.log(0.8), math.log(0.2)]], [[math.log(0.4), math.log(0.6)]]], dtype=torch.float64)
    sets = {"forget": tables.rows("forget", [0], [[0]]), "substitute": tables.rows("substitute", [1], [[0]])}
    by_p, by_q = {
        "tv": (-(1 - math.tanh(0.4) ** 2) / 2, (1 - math.tanh(0.8) ** 2) / 2),
        "kl": (-1.0, math.exp(-0.2)),
        "js": (-1 / (1 + math.exp(0.4)), 1 / (1 + math.exp(-0.8))),
        "pearson": (-1.0, 1.4),
    }[name]
    value, grad = tables.ask(FLAT(divergence=name), sets, table)
    assert value == pytest.approx({"kl": 0.418731, "tv": 0.142044, "pearson": 0.56, "js": 0.297822}[name], abs=1e-6)
    assert float(grad[0, 0, 0]) == pytest.approx(by_q * 0.8 * 0.2, abs=1e-12)
    assert float(grad[1, 0, 0]) == pytest.approx(by_p * 0.4 * 0.6, abs=1e-12)


@torch.no_grad()
def mean_probability(world: worlds.World, model: torch.nn.Module, rows: Rows) -> float:
    """Mean over rows of the mean probability of the labels."""
    return float(world.modality.forward(model, [rows])[0].target_logp.map(torch.exp).mean().mean())


@pytest.mark.slow
def test_forgets_and_learns_refusals_with_bounded_damage(text: worlds.World) -> None:
    sets = {n: text.sets[n] for n in ("forget", "alternate_answers")}  # no retain set
    pool, model, ascended = sets["alternate_answers"]["answer_text"], text.model(), text.model()
    rows = text.modality.relabel(sets["forget"], [pool[i % len(pool)] for i in range(len(sets["forget"]))], "refused")
    refusal, known = mean_probability(text, model, rows), mean_probability(text, model, sets["forget"])
    loop.run(build_plan.plan("flat", {"lr": 1e-3, "epochs": 50}), model, text.modality, sets)
    loop.run(build_plan.plan("ga", {"lr": 1e-3, "epochs": 50}), ascended, text.modality, sets)
    assert known > 0.9
    assert mean_probability(text, model, sets["forget"]) < 0.1
    assert mean_probability(text, model, rows) > refusal + 0.1
    damage, ascent_damage = (worlds.nll(m, text.modality, text.sets["retain"]) for m in (model, ascended))
    assert math.exp(ascent_damage - damage) > 10

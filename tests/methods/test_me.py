"""Maximizing entropy: zero loss at the uniform distribution, the gradient, `include_prompt`, and the outcome."""

import math

import pytest
import torch

import tables
import worlds
from expunge.core.rows import Rows
from expunge.engine import loop
from expunge.methods.objectives.me import Uniform
from expunge.methods.terms import Whole
from expunge.workflows import build_plan


class OneSetView:
    """The view of a selector that reads one set."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def rows(self, name: str) -> Rows:
        assert name == self._rows.name
        return self._rows


@pytest.mark.parametrize("micro_batch_size", [0, 1])
def test_gradient_is_the_difference_from_uniform(micro_batch_size: int) -> None:
    sets, table = {"forget": tables.batch()["forget"]}, tables.scores(9)
    value, grad = tables.ask(Uniform("forget"), sets, table, micro_batch_size=micro_batch_size)
    expected, labels, total = torch.zeros_like(table), 9, 0.0
    for prompt, answer in zip(sets["forget"]["prompt"], sets["forget"]["answer"], strict=True):
        for t in range(len(answer)):
            p = table[prompt, t].softmax(-1)
            expected[prompt, t] = (p - 1 / 6) / labels
            total += float((1 / 6 * (1 / 6 / p).log()).sum()) / labels
    assert value == pytest.approx(total, rel=1e-12)
    assert torch.allclose(grad, expected, atol=1e-12)


def test_loss_is_zero_at_uniform_and_matches_a_hand_value_elsewhere() -> None:
    sets = {"forget": tables.rows("forget", [0], [[1]])}
    assert tables.ask(Uniform("forget"), sets, torch.full((1, 1, 8), 5.0, dtype=torch.float64))[0] == pytest.approx(0, abs=1e-12)
    table = torch.tensor([[[0.75, 0.25]]], dtype=torch.float64).log()  # KL((1/2, 1/2) || (3/4, 1/4)) = log(4/3)/2
    assert tables.ask(Uniform("forget"), sets, table)[0] == pytest.approx(math.log(4 / 3) / 2)


def test_epsilon_stands_inside_the_logarithm_as_in_the_authors_code() -> None:
    """KL(U || p) by torch, with 1e-12 added to p: a token of probability 1e-20 pulls hardly any more. The default adds nothing."""
    sets = {"forget": tables.rows("forget", [0], [[1]])}
    table = torch.tensor([[[0.0, -46.0, 3.0, -30.0]]], dtype=torch.float64).requires_grad_()
    for epsilon in (0.0, 1e-12):
        p, uniform = table[0, 0].softmax(-1), torch.full((4,), 0.25, dtype=torch.float64)
        expected = (uniform * (uniform.log() - (p + epsilon).log())).sum()
        value, grad = tables.ask(Uniform("forget", **({"epsilon": epsilon} if epsilon else {})), sets, table.detach())
        assert value == pytest.approx(float(expected.detach()), rel=1e-9)
        assert torch.allclose(grad, tables.slope(expected, table), atol=1e-9)


def test_whole_rows_have_a_label_at_every_position_except_the_first() -> None:
    rows = Rows("forget", ("a", "b"), {"prompt": [[1, 5, 6], [1]], "answer": [[7, 2], [8, 9]]})
    whole = Whole().pick({"forget": rows}, OneSetView(rows))["whole"]
    assert whole["prompt"] == [[1], [1]]
    assert whole["answer"] == [[5, 6, 7, 2], [8, 9]]
    bare = Rows("forget", ("a",), {"pixels": [0]})
    assert Whole().pick({"forget": bare}, OneSetView(bare))["whole"].columns == bare.columns


def test_prompt_positions_count_by_default(text: worlds.World) -> None:
    losses = {}
    for whole in (True, False):
        run = loop.run(build_plan.plan("me", {"include_prompt": whole, "epochs": 1}), text.model(), text.modality, text.sets)
        losses[whole] = run.log[0]["terms"]["0 uniform forget"] / 0.1
    with torch.no_grad():
        forget = text.sets["forget"]
        log_probs = text.modality.forward(text.model(), [forget])[0].log_probs.values
    assert losses[False] == pytest.approx(float((-math.log(512) - log_probs.mean(-1)).mean()), rel=1e-5)
    assert abs(losses[True] - losses[False]) > 1e-3


def test_forgets_and_preserves_retain_rows(text: worlds.World) -> None:
    model = text.model()
    loop.run(build_plan.plan("me", {"lr": 1e-3, "epochs": 30}), model, text.modality, text.sets)
    assert worlds.nll(model, text.modality, text.sets["forget"]) > 1.5
    assert worlds.nll(model, text.modality, text.sets["retain"]) < 0.2

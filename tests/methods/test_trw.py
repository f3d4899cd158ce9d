"""Tilted reweighting: targets by hand, what makes them special, the gradient, and where a forgotten class goes among four blobs."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tables
import toys
import worlds
from expunge.core.errors import UserError
from expunge.core.hyperparameters import part
from expunge.core.parts import Objective
from expunge.core.plan import Plan, Train
from expunge.core.rows import Rows
from expunge.core.view import Step
from expunge.engine import loop
from expunge.engine.context import RunView
from expunge.engine.gradient import evaluate
from expunge.methods.objectives.trw import Tilt, directions, similarity, tilted
from expunge.methods.terms import NLL
from expunge.workflows import build_plan

Q = torch.tensor([[0.5, 0.3, 0.2, 0.0]], dtype=torch.float64)  # of the classes that stay, and nothing for the one that goes
S = torch.tensor([[1.0, 0.0, -1.0, 0.0]], dtype=torch.float64)
LABEL = torch.tensor([3])


def aim(beta: float, q: Tensor = Q, s: Tensor = S) -> Tensor:
    """The target for a model that gives the label nine tenths."""
    seen = 0.1 * q
    seen[0, 3] = 0.9
    return tilted(seen.log(), LABEL, s, beta)[0]


def test_targets_by_hand() -> None:
    assert aim(math.log(2)).tolist() == pytest.approx([10 / 14, 3 / 14, 1 / 14, 0], abs=1e-12)
    assert aim(0.0).tolist() == pytest.approx([0.5, 0.3, 0.2, 0], abs=1e-12)
    assert aim(7.0, s=torch.full_like(S, 0.3)).tolist() == pytest.approx([0.5, 0.3, 0.2, 0], abs=1e-12)
    assert aim(10.0)[3] == 0
    assert float(aim(10.0).sum()) == pytest.approx(1, abs=1e-12)


def test_a_model_that_is_sure_of_the_label_has_targets_too() -> None:
    scores = torch.tensor([[2.0, 1.0, 0.0, 90.0]])
    found = tilted(scores.log_softmax(-1), LABEL, torch.zeros(1, 4), 0.0)
    assert found[0, :3].tolist() == pytest.approx(scores[0, :3].softmax(-1).tolist(), rel=1e-4)


def test_more_tilt_moves_the_mean_similarity_by_its_variance() -> None:
    mean = (aim(0.7) * S[0]).sum()
    variance = float((aim(0.7) * (S[0] - mean).square()).sum())
    slope = float(((aim(0.7 + 1e-5) - aim(0.7 - 1e-5)) * S[0]).sum() / 2e-5)
    assert slope == pytest.approx(variance, abs=1e-8)


def test_no_distribution_of_that_mean_is_nearer() -> None:
    """p + t d keeps sum and mean similarity for d = (1, -2, 1) on the three classes that stay."""
    best, q, along = aim(0.7)[:3], Q[0, :3], torch.tensor([1.0, -2.0, 1.0], dtype=torch.float64)

    def kl(p: Tensor) -> float:
        return float((p * (p / q).log()).sum())

    assert all(kl(best + t * along) > kl(best) for t in (-0.05, -0.001, 0.001, 0.05))


def test_similarity_by_hand() -> None:
    """Centred rows (1, 0), (0, 1), (-1, -1): cosines 0 and -1/sqrt 2 with the first."""
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]], dtype=torch.float64) + 5  # what all rows share does not matter
    units = directions(weight, 10)
    near = similarity(units, torch.tensor([0]), 0.5)[0]
    first, second = math.exp(0.0), math.exp(-math.sqrt(2))
    assert near.tolist() == pytest.approx([0, first / (first + second), second / (first + second)], abs=1e-9)
    assert directions(torch.randn(5, 40), 10).shape == (5, 4)  # rows have one direction fewer than there are classes
    along = directions(torch.tensor([[3.0, 0.1], [1.0, -0.1], [-4.0, 0.0]]), 1)  # in the leading direction alone
    assert similarity(along, torch.tensor([0]), 0.5)[0].tolist() == pytest.approx([0, 1 / (1 + math.exp(-4)), 1 / (1 + math.exp(4))])


def asked(scores: Tensor, reference: Tensor, rows: Rows) -> tuple[float, Tensor]:
    """Value and gradient by the table of the forget term, where the classes' directions are drawn."""
    units = directions(torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64), 3)
    model = tables.Table(scores)
    run = loop.new_state(
        model, tables.Port(), worlds.accelerator(), models={"reference": {"scores": reference}}, state={"/term0": {"units": units}}
    )
    value, grads = evaluate(run, Tilt(), {"forget": rows})
    return float(value), grads[0]


def test_gradient_by_the_scores_is_what_the_model_says_minus_the_target() -> None:
    now, reference, rows = tables.scores(seed=0), tables.scores(seed=1), tables.rows("forget", [2], [[4]])
    units = directions(torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64), 3)
    near = similarity(units, torch.tensor([4]), 0.1)
    target = tilted(reference[2, 0][None].log_softmax(-1), torch.tensor([4]), near, 10.0)[0]
    value, grad = asked(now, reference, rows)
    assert value == pytest.approx(-float((target * now[2, 0].log_softmax(-1)).sum()))
    assert torch.allclose(grad[2, 0], now[2, 0].softmax(-1) - target, atol=1e-12)
    assert int(grad.count_nonzero()) == 6
    there = now.clone()
    there[2, 0] = target.clamp_min(1e-300).log()
    assert float(asked(there, reference, rows)[1].abs().max()) < 1e-12


@part
class Uniform(Objective):
    """Cross-entropy to all classes but the label alike: the target that gives unlearning away."""

    reads = frozenset({"forget"})

    def loss(self, step: Step) -> Tensor:
        now = step.now(step.forget)
        return -step.mean(
            now.log_probs.map(lambda p: (p.sum(-1) - p.gather(-1, now.labels[:, None])[:, 0]) / (p.shape[-1] - 1)), step.forget
        )


class Blobs:
    """Four classes in the plane, the first two close to each other, and small perceptrons that know them or learn to forget one."""

    def __init__(self) -> None:
        g = torch.Generator().manual_seed(0)
        centres = torch.tensor([[2.0, 0.6], [2.0, -0.6], [-2.0, 2.0], [-2.0, -2.0]])
        points = centres.repeat_interleave(60, 0) + 0.35 * torch.randn(240, 2, generator=g)
        self.modality, self.untrained = toys.modality(4), toys.mlp(4, hidden=64)
        nn.init.zeros_(self.untrained[-1].weight)
        rows = toys.rows(points, [y for y in range(4) for _ in range(60)], self.modality, "full")
        self.sets = {
            "full": rows,
            "forget": rows.select(range(60)).rename("forget"),
            "retain": rows.select(range(60, 240)).rename("retain"),
        }

    def trained(self, term: Objective, begin: nn.Module, **how: Any) -> nn.Module:
        model = copy.deepcopy(begin)
        train = Train(optimizer="sgd", schedule="constant", **how)
        loop.run((Plan(term, train=train),), model, self.modality, self.sets)
        return model

    def known(self, name: str) -> nn.Module:
        """Trained on a set, for one epoch: the weights of near classes point the same way until margins grow."""
        return self.trained(NLL(name), self.untrained, epochs=1, lr=0.1, batch_size=32, anchor=name)

    def next_to(self, model: nn.Module) -> float:
        """Mean probability of the nearest class for what is to be forgotten."""
        with torch.no_grad():
            return float(self.modality.forward(model, [self.sets["forget"]])[0].log_probs.values.exp()[:, 1].mean())


def test_a_forgotten_class_goes_to_its_neighbour_as_after_retraining() -> None:
    blobs = Blobs()
    start, how = blobs.known("full"), {"epochs": 40, "lr": 0.05, "momentum": 0.9, "batch_size": 30}
    assert blobs.next_to(blobs.trained(NLL("retain"), blobs.untrained, epochs=12, lr=0.1, anchor="retain")) > 0.9
    assert blobs.next_to(blobs.trained(Tilt() + NLL("retain"), start, **how)) > 0.8
    assert blobs.next_to(blobs.trained(Uniform() + NLL("retain"), start, **how)) == pytest.approx(1 / 3, abs=0.08)


def test_one_class_alone_is_refused() -> None:
    modality = toys.modality(1)
    rows = modality.rows("forget", [{"image": torch.zeros(2, 2).numpy(), "label": 0}])
    run = loop.new_state(nn.Sequential(nn.Flatten(), nn.Linear(4, 1)), modality, worlds.accelerator())
    with pytest.raises(UserError, match="one class"):
        Tilt().begin(RunView(run, {"forget": rows}).at("term0", Tilt()))


def test_forgets_a_digit_and_keeps_the_others(digits: worlds.World) -> None:
    model = digits.model()
    loop.run(build_plan.plan("trw", {"optimizer": "adamw", "lr": 1e-3, "batch_size": 16}), model, digits.modality, digits.sets)
    with torch.no_grad():
        forget, retain = digits.modality.forward(model, [digits.sets["forget"], digits.sets["retain"]])
    assert float(forget.target_logp.values.exp().mean()) < 0.05
    assert float((retain.logits.values.argmax(-1) == retain.labels).float().mean()) > 0.8

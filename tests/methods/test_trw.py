"""Tilted reweighting: targets by hand, their optimality, the gradient, and the prediction for a forgotten class among four blobs."""

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

Q = torch.tensor([[0.5, 0.3, 0.2, 0.0]], dtype=torch.float64)  # probabilities of the remaining classes; 0 for the forgotten one
S = torch.tensor([[1.0, 0.0, -1.0, 0.0]], dtype=torch.float64)
LABEL = torch.tensor([3])


def target_for(beta: float, q: Tensor = Q, s: Tensor = S) -> Tensor:
    """The target for a model that gives the label a probability of 0.9."""
    probabilities = 0.1 * q
    probabilities[0, 3] = 0.9
    return tilted(probabilities.log(), LABEL, s, beta)[0]


def test_targets_match_hand_values() -> None:
    assert target_for(math.log(2)).tolist() == pytest.approx([10 / 14, 3 / 14, 1 / 14, 0], abs=1e-12)
    assert target_for(0.0).tolist() == pytest.approx([0.5, 0.3, 0.2, 0], abs=1e-12)
    assert target_for(7.0, s=torch.full_like(S, 0.3)).tolist() == pytest.approx([0.5, 0.3, 0.2, 0], abs=1e-12)
    assert target_for(10.0)[3] == 0
    assert float(target_for(10.0).sum()) == pytest.approx(1, abs=1e-12)


def test_targets_are_finite_for_a_model_certain_of_the_label() -> None:
    scores = torch.tensor([[2.0, 1.0, 0.0, 90.0]])
    target = tilted(scores.log_softmax(-1), LABEL, torch.zeros(1, 4), 0.0)
    assert target[0, :3].tolist() == pytest.approx(scores[0, :3].softmax(-1).tolist(), rel=1e-4)


def test_mean_similarity_grows_with_beta_at_the_rate_of_its_variance() -> None:
    mean = (target_for(0.7) * S[0]).sum()
    variance = float((target_for(0.7) * (S[0] - mean).square()).sum())
    slope = float(((target_for(0.7 + 1e-5) - target_for(0.7 - 1e-5)) * S[0]).sum() / 2e-5)
    assert slope == pytest.approx(variance, abs=1e-8)


def test_target_is_the_nearest_distribution_of_its_mean_similarity() -> None:
    """p + t d preserves sum and mean similarity for d = (1, -2, 1) on the three remaining classes."""
    best, q, d = target_for(0.7)[:3], Q[0, :3], torch.tensor([1.0, -2.0, 1.0], dtype=torch.float64)

    def kl(p: Tensor) -> float:
        return float((p * (p / q).log()).sum())

    assert all(kl(best + t * d) > kl(best) for t in (-0.05, -0.001, 0.001, 0.05))


def test_similarity_matches_hand_values() -> None:
    """Centered rows (1, 0), (0, 1), (-1, -1): cosines 0 and -1/sqrt 2 with the first."""
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]], dtype=torch.float64) + 5  # a common offset does not matter
    units = directions(weight, 10)
    similarities = similarity(units, torch.tensor([0]), 0.5)[0]
    first, second = math.exp(0.0), math.exp(-math.sqrt(2))
    assert similarities.tolist() == pytest.approx([0, first / (first + second), second / (first + second)], abs=1e-9)
    assert directions(torch.randn(5, 40), 10).shape == (5, 4)  # centered rows span one direction fewer than classes
    leading = directions(torch.tensor([[3.0, 0.1], [1.0, -0.1], [-4.0, 0.0]]), 1)  # only the leading direction
    assert similarity(leading, torch.tensor([0]), 0.5)[0].tolist() == pytest.approx([0, 1 / (1 + math.exp(-4)), 1 / (1 + math.exp(4))])


def value_and_gradient(scores: Tensor, reference: Tensor, rows: Rows) -> tuple[float, Tensor]:
    """Value and gradient of the forget term on a table of scores, with random class directions."""
    units = directions(torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64), 3)
    model = tables.Table(scores)
    run = loop.new_state(
        model, tables.TableModality(), worlds.accelerator(), models={"reference": {"scores": reference}}, state={"/term0": {"units": units}}
    )
    value, grads = evaluate(run, Tilt(), {"forget": rows})
    return float(value), grads[0]


def test_gradient_by_the_scores_is_the_prediction_minus_the_target() -> None:
    scores, reference, rows = tables.scores(seed=0), tables.scores(seed=1), tables.rows("forget", [2], [[4]])
    units = directions(torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64), 3)
    similarities = similarity(units, torch.tensor([4]), 0.1)
    target = tilted(reference[2, 0][None].log_softmax(-1), torch.tensor([4]), similarities, 10.0)[0]
    value, grad = value_and_gradient(scores, reference, rows)
    assert value == pytest.approx(-float((target * scores[2, 0].log_softmax(-1)).sum()))
    assert torch.allclose(grad[2, 0], scores[2, 0].softmax(-1) - target, atol=1e-12)
    assert int(grad.count_nonzero()) == 6
    at_target = scores.clone()
    at_target[2, 0] = target.clamp_min(1e-300).log()
    assert float(value_and_gradient(at_target, reference, rows)[1].abs().max()) < 1e-12


@part
class Uniform(Objective):
    """Cross-entropy to the uniform distribution over all classes except the label. This target reveals the unlearning."""

    reads = frozenset({"forget"})

    def loss(self, step: Step) -> Tensor:
        output = step.now(step.forget)
        return -step.mean(
            output.log_probs.map(lambda p: (p.sum(-1) - p.gather(-1, output.labels[:, None])[:, 0]) / (p.shape[-1] - 1)), step.forget
        )


class Blobs:
    """Four classes in the plane, the first two close to each other, and small perceptrons that learn them or forget one."""

    def __init__(self) -> None:
        g = torch.Generator().manual_seed(0)
        centers = torch.tensor([[2.0, 0.6], [2.0, -0.6], [-2.0, 2.0], [-2.0, -2.0]])
        points = centers.repeat_interleave(60, 0) + 0.35 * torch.randn(240, 2, generator=g)
        self.modality, self.untrained = toys.modality(4), toys.mlp(4, hidden=64)
        nn.init.zeros_(self.untrained[-1].weight)
        rows = toys.rows(points, [y for y in range(4) for _ in range(60)], self.modality, "full")
        self.sets = {
            "full": rows,
            "forget": rows.select(range(60)).rename("forget"),
            "retain": rows.select(range(60, 240)).rename("retain"),
        }

    def trained(self, objective: Objective, start: nn.Module, **training: Any) -> nn.Module:
        model = copy.deepcopy(start)
        train = Train(optimizer="sgd", schedule="constant", **training)
        loop.run((Plan(objective, train=train),), model, self.modality, self.sets)
        return model

    def model_of(self, name: str) -> nn.Module:
        """A model trained on a set for one epoch. Weights of near classes have similar directions until margins grow."""
        return self.trained(NLL(name), self.untrained, epochs=1, lr=0.1, batch_size=32, anchor=name)

    def neighbor_probability(self, model: nn.Module) -> float:
        """Mean probability of the nearest class on the forget rows."""
        with torch.no_grad():
            return float(self.modality.forward(model, [self.sets["forget"]])[0].log_probs.values.exp()[:, 1].mean())


def test_a_forgotten_class_is_predicted_as_its_neighbor_as_after_retraining() -> None:
    blobs = Blobs()
    start, training = blobs.model_of("full"), {"epochs": 40, "lr": 0.05, "momentum": 0.9, "batch_size": 30}
    assert blobs.neighbor_probability(blobs.trained(NLL("retain"), blobs.untrained, epochs=12, lr=0.1, anchor="retain")) > 0.9
    assert blobs.neighbor_probability(blobs.trained(Tilt() + NLL("retain"), start, **training)) > 0.8
    assert blobs.neighbor_probability(blobs.trained(Uniform() + NLL("retain"), start, **training)) == pytest.approx(1 / 3, abs=0.08)


def test_a_model_with_one_class_is_rejected() -> None:
    modality = toys.modality(1)
    rows = modality.rows("forget", [{"image": torch.zeros(2, 2).numpy(), "label": 0}])
    run = loop.new_state(nn.Sequential(nn.Flatten(), nn.Linear(4, 1)), modality, worlds.accelerator())
    with pytest.raises(UserError, match="one class"):
        Tilt().begin(RunView(run, {"forget": rows}).at("term0", Tilt()))


def test_forgets_a_digit_and_preserves_the_others(digits: worlds.World) -> None:
    model = digits.model()
    loop.run(build_plan.plan("trw", {"optimizer": "adamw", "lr": 1e-3, "batch_size": 16}), model, digits.modality, digits.sets)
    with torch.no_grad():
        forget, retain = digits.modality.forward(model, [digits.sets["forget"], digits.sets["retain"]])
    assert float(forget.target_logp.values.exp().mean()) < 0.05
    assert float((retain.logits.values.argmax(-1) == retain.labels).float().mean()) > 0.8

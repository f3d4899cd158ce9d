"""Tilted reweighting (TRW): teach the forget rows the distribution that a retrained model would give them.

A retrained model mistakes a forgotten class for the classes nearest to it. Uniform, random or single-class targets do not match that, and
so they reveal the unlearning. Here the target is the model's own distribution without the class, tilted toward its neighbors. The last
layer's weights show which classes are neighbors. That is a guess: in a small model that was trained until its margins are wide, the weights
of near classes lie far apart. `beta 0` leaves the tilt out.

Equation: L = -mean sum_j p*(j|x) log p(j|x) + NLL(retain); p*(c|x) = 0, p*(j|x) ~ q(j|x) exp(beta s_j), q the reference, c the label;
  s = softmax over j != c of cos(w_c, w_j) / tau, w the rows of the last layer's weight in their leading principal directions
Source: Ebrahimpour-Boroojeny, Wang and Sundaram 2025, arXiv 2506.20893 (ICML 2026; there TREW); `beta 0` is RWFT of its first version
Needs: forget, retain; a model that ends in a linear layer; the reference's distribution of the forget rows
Cost: one forward and backward of forget and retain rows, and one reference forward of the forget rows a step
Differs: written from the paper without its code; tau, the number of directions and the training settings are inferred; a language model's
  classes are its tokens, at each label
Status: not shown
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from expunge.core.capabilities import Categorical
from expunge.core.errors import UserError
from expunge.core.hyperparameters import hp, part
from expunge.core.needs import Need
from expunge.core.parts import Objective
from expunge.core.plan import Plan, Train
from expunge.core.view import State, Step, View
from expunge.engine.adapters import base_of
from expunge.methods.terms import NLL


def directions(weight: Tensor, components: int) -> Tensor:
    """One unit vector per class: the centered rows of a weight in their leading principal directions.

    Args:
        weight: Weight of the last layer, (classes, width).
        components: Number of principal directions, at most classes - 1.

    Returns:
        Unit vectors, (classes, components).
    """
    centered = weight - weight.mean(0)
    axes = torch.linalg.eigh(centered.T @ centered).eigenvectors[:, -min(components, len(weight) - 1) :]
    return normalize(centered @ axes, dim=-1)


def similarity(units: Tensor, labels: Tensor, tau: float) -> Tensor:
    """Similarity of each class to the label's class.

    Args:
        units: Unit vectors of the classes, as from `directions`, (classes, components).
        labels: Classes, (labels,).
        tau: Temperature of the softmax.

    Returns:
        Similarities from 0 to 1, (labels, classes): 0 at the label itself; they sum to 1 for each label.
    """
    scores = units[labels] @ units.T / tau
    return scores.masked_fill(one_hot(labels, len(units)).bool(), -torch.inf).softmax(-1)


def tilted(logq: Tensor, labels: Tensor, similarities: Tensor, beta: float) -> Tensor:
    """The target: the distribution q without the label's probability, tilted toward similar classes.

    It is the nearest to q, in KL(target || q), of all distributions without the label that have its mean similarity.

    Args:
        logq: Log-probabilities of q, (labels, classes).
        labels: Classes that lose their probability, (labels,).
        similarities: Similarity of each class to the label's, (labels, classes).
        beta: Strength of the tilt.

    Returns:
        Probabilities, (labels, classes).
    """
    return (logq + beta * similarities).masked_fill(one_hot(labels, logq.shape[-1]).bool(), -torch.inf).softmax(-1)


@part
class Tilt(Objective):
    """Cross-entropy to the reference's distribution without the label, tilted toward the label's neighbors."""

    beta: float = hp(10.0, "strength of the tilt: at most a factor exp(beta) between two classes; 0: plain rescaling", ge=0)
    tau: float = hp(0.1, "temperature of the similarity between classes", gt=0)
    components: int = hp(10, "principal directions of the last layer in which classes are compared", ge=1)
    reads = frozenset({"forget"})
    requires = frozenset({Categorical})
    needs = frozenset({Need.REFERENCE})

    def begin(self, view: View) -> State:
        head = base_of(view.model).get_submodule(view.modality.head(view.model))
        weight = head.weight.detach()
        if len(weight) < 2:
            raise UserError("a model with one class has no other class for the forget rows: use a model with at least two classes")
        return {"units": directions(weight.to(torch.promote_types(weight.dtype, torch.float32)), self.components)}

    def loss(self, step: Step) -> Tensor:
        output, logq = step.now(step.forget), step.reference(step.forget).log_probs.values
        similarities = similarity(step.state["units"].to(logq), output.labels, self.tau)
        target = tilted(logq, output.labels, similarities, self.beta)
        return -step.mean(output.log_probs.map(lambda logp: (target * logp).sum(-1)), step.forget)


def plan() -> Plan:
    train = Train(epochs=10, lr=1e-2, batch_size=128, optimizer="sgd", momentum=0.9, weight_decay=5e-4, schedule="constant")
    return Plan(Tilt() + NLL("retain"), train=train)

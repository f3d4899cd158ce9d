"""Tilted reweighting (TRW): teach the rows to forget the distribution that a retrained model would give them.

A retrained model takes a forgotten class for the classes nearest to it. Uniform, random or single-class targets do not, and that gives the
unlearning away; here the model's own distribution loses the class and leans towards its neighbours. Which those are is read off the last
layer's weights, and that is a guess: a small model that was trained until its margins are wide sets near classes apart there. `beta 0`
does without it.

Equation: L = -mean sum_j p*(j|x) log p(j|x) + NLL(retain); p*(c|x) = 0, p*(j|x) ~ q(j|x) exp(beta s_j), q the reference, c the label;
  s = softmax over j != c of cos(w_c, w_j) / tau, w the rows of the last layer's weight in their leading principal directions
Source: Ebrahimpour-Boroojeny, Wang and Sundaram 2025, arXiv 2506.20893 (ICML 2026; there TREW); `beta 0` is RWFT of its first version
Needs: forget, retain; a model that ends in a linear layer; the reference's distribution of the forget rows
Cost: one forward and backward of forget and retain rows, and one reference forward of the forget rows a step
Differs: written from the paper without its code; tau, the number of directions and the training settings are inferred; a language model's
  classes are its words, at each label
Status: faithful
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
    """A unit vector a class, (classes, components): rows of a weight (classes, width), centred, in their leading principal directions."""
    centred = weight - weight.mean(0)
    axes = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -min(components, len(weight) - 1) :]
    return normalize(centred @ axes, dim=-1)


def similarity(units: Tensor, labels: Tensor, tau: float) -> Tensor:
    """How near each other class is to the label's, (labels, classes): from 0 to 1, of sum 1, 0 at the label itself. units: `directions`."""
    near = units[labels] @ units.T / tau
    return near.masked_fill(one_hot(labels, len(units)).bool(), -torch.inf).softmax(-1)


def tilted(logq: Tensor, labels: Tensor, near: Tensor, beta: float) -> Tensor:
    """The distribution nearest to q that has no mass on the label and this much on classes near it. All (labels, classes)."""
    return (logq + beta * near).masked_fill(one_hot(labels, logq.shape[-1]).bool(), -torch.inf).softmax(-1)


@part
class Tilt(Objective):
    """Cross-entropy to the reference's distribution without the label, tilted towards the label's neighbours."""

    beta: float = hp(10.0, "strength of the tilt: at most a factor exp(beta) between two classes; 0: plain rescaling", ge=0)
    tau: float = hp(0.1, "temperature of the similarity of classes", gt=0)
    components: int = hp(10, "principal directions of the last layer in which classes are compared", ge=1)
    reads = frozenset({"forget"})
    requires = frozenset({Categorical})
    needs = frozenset({Need.REFERENCE})

    def begin(self, view: View) -> State:
        head = base_of(view.model).get_submodule(view.modality.head(view.model))
        weight = head.weight.detach()
        if len(weight) < 2:
            raise UserError("a model with one class has no other class to lean to")
        return {"units": directions(weight.to(torch.promote_types(weight.dtype, torch.float32)), self.components)}

    def loss(self, step: Step) -> Tensor:
        now, logq = step.now(step.forget), step.reference(step.forget).log_probs.values
        near = similarity(step.state["units"].to(logq), now.labels, self.tau)
        aim = tilted(logq, now.labels, near, self.beta)
        return -step.mean(now.log_probs.map(lambda logp: (aim * logp).sum(-1)), step.forget)


def plan() -> Plan:
    train = Train(epochs=10, lr=1e-2, batch_size=128, optimizer="sgd", momentum=0.9, weight_decay=5e-4, schedule="constant")
    return Plan(Tilt() + NLL("retain"), train=train)

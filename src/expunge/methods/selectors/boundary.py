"""Boundary unlearning: move the decision boundary over the class to forget, with nothing but the rows to forget.

Shrink gives each row to the class that lies next to it. Expand moves all of them into a class that does not exist, and then drops it.

Equation: shrink: L = NLL at x of the label argmax f_0(x_adv), x_adv = x + bound sign(grad_x NLL(f_0(x), y)) within [0, 1], rounded to
  1/255, f_0 the model before; expand: L = -log p(K|x) with one more output K, whose row of the last layer begins as a new layer's
Source: Chen et al. 2023, arXiv 2303.11570
Needs: forget; shrink: images with values from 0 to 1; expand: a model that ends in a linear layer
Cost: one forward and backward of the forget rows a step; shrink: once, two forwards and a backward by the input of the forget rows
Differs: adversarial labels are found once, as f_0 does not change, where the authors' code finds the same ones in each epoch
Status: faithful
"""

from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from expunge.core.capabilities import Categorical, DifferentiableInputs
from expunge.core.errors import UserError
from expunge.core.hyperparameters import hp, part
from expunge.core.parts import Edit, Objective, Selector
from expunge.core.plan import Plan, Train
from expunge.core.rows import Rows, Sets
from expunge.core.view import Step, View
from expunge.engine.adapters import base_of, is_adapted
from expunge.engine.weights import put, weights_of
from expunge.methods.terms import NLL

TRAIN = Train(epochs=10, lr=1e-5, batch_size=64, optimizer="sgd", momentum=0.9, schedule="constant")


@part
class Cross(Selector):
    """Give each row to forget the label that its image has after one step up the loss."""

    bound: float = hp(0.1, "how far each value of an image moves, of 1", gt=0, le=1)
    reads = frozenset({"forget"})
    gives = frozenset({"forget"})
    requires = frozenset({Categorical, DifferentiableInputs})

    def pick(self, sets: Sets, view: View) -> Sets:
        labels = [y for some in view.batches("forget", 128) for y in self._labels(some, view)]
        found = view.modality.relabel(view.forget, labels, "forget")
        if view.modality.answer_texts(found) == view.modality.answer_texts(view.forget):
            raise UserError(f"no image to forget has another label within {self.bound} of it: give a larger bound")
        return {**sets, "forget": found}

    def _labels(self, rows: Rows, view: View) -> list[int]:
        modality = view.modality
        x = modality.inputs(rows)
        if float(x.min()) < 0 or float(x.max()) > 1:
            raise UserError("this method moves images with values from 0 to 1, and these have others: give them before normalisation")
        up = view.input_grad(x, lambda moved: modality.moved(rows, moved), lambda answer: -answer.target_logp.values.sum()).sign()
        across = ((x + self.bound * up).clamp(0, 1) * 255).round() / 255
        return view.now(modality.moved(rows, across)).logits.values.argmax(-1).tolist()


class Wider(nn.Module):
    """A last layer with one more output."""

    def __init__(self, head: nn.Module, generator: torch.Generator) -> None:
        super().__init__()
        weight = head.weight
        self.head, self.extra = head, nn.Linear(weight.shape[1], 1, bias=head.bias is not None, device=weight.device, dtype=weight.dtype)
        for p in self.extra.parameters():  # what a linear layer of this width begins with, by the run's seed
            p.data.copy_((2 * torch.rand(p.shape, generator=generator) - 1) / weight.shape[1] ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.head(x), self.extra(x)], -1)


@part
class Last(Objective):
    """Negative log-probability of the last class, whatever the label."""

    reads = frozenset({"forget"})
    requires = frozenset({Categorical})

    def loss(self, step: Step) -> Tensor:
        return -step.mean(step.now(step.forget).log_probs.map(lambda log: log[:, -1]), step.forget)


@part
class Expand(Edit):
    """Train a copy with one more class towards that class, and take its weights without it."""

    inner: Plan = Plan(Last(), train=TRAIN, name="tune")
    reads = frozenset({"forget"})

    def apply(self, view: View) -> None:
        path, base = view.modality.head(view.model), base_of(view.model)
        head = base.get_submodule(path)
        base.set_submodule(path, Wider(head, view.rng()))
        try:
            tuned = view.run(self.inner, {"forget": view.forget}).model
        finally:
            base.set_submodule(path, head)
        tuned = tuned.merge_and_unload() if is_adapted(tuned) and not is_adapted(view.model) else tuned
        base_of(tuned).set_submodule(path, base_of(tuned).get_submodule(path).head)
        put(view.model, weights_of(tuned))


def plan(direction: Annotated[Literal["shrink", "expand"], "towards the nearest class, or into a class of their own"] = "shrink") -> Plan:
    return Plan(NLL("forget"), train=TRAIN, selectors=(Cross(),)) if direction == "shrink" else Plan(Expand())

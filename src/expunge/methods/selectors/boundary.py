"""Boundary unlearning: move the decision boundary over the class to forget, with nothing but the forget rows.

Shrink gives each row to its neighboring class. Expand moves all rows into a class that does not exist, and then drops this class.

Equation: shrink: L = NLL at x of the label argmax f_0(x_adv), x_adv = x + bound sign(grad_x NLL(f_0(x), y)) within [0, 1], rounded to
  1/255, f_0 the model before; expand: L = -log p(K|x) with one more output K, whose row of the last layer starts like that of a new layer
Source: Chen et al. 2023, arXiv 2303.11570
Needs: forget; shrink: images with values from 0 to 1; expand: a model that ends in a linear layer
Cost: one forward and backward of the forget rows a step; shrink: once, two forwards and a backward by the input of the forget rows
Differs: adversarial labels are computed once, because f_0 does not change, while the authors' code computes the same labels in each epoch
Status: not shown
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
from expunge.engine.adapters import base_of, is_adapted, merged
from expunge.engine.weights import put, weights_of
from expunge.methods.terms import NLL

TRAIN = Train(epochs=10, lr=1e-5, batch_size=64, optimizer="sgd", momentum=0.9, schedule="constant")


@part
class Cross(Selector):
    """Relabel each forget row with the model's prediction for its image after one step up the loss."""

    bound: float = hp(0.1, "how far each pixel value moves, in units of the range 0 to 1", gt=0, le=1)
    reads = frozenset({"forget"})
    gives = frozenset({"forget"})
    requires = frozenset({Categorical, DifferentiableInputs})

    def pick(self, sets: Sets, view: View) -> Sets:
        labels = [label for batch in view.batches("forget", 128) for label in self._adversarial_labels(batch, view)]
        relabeled = view.modality.relabel(view.forget, labels, "forget")
        if view.modality.answer_texts(relabeled) == view.modality.answer_texts(view.forget):
            raise UserError(f"no image to forget has another label within {self.bound} of it: give a larger bound")
        return {**sets, "forget": relabeled}

    def _adversarial_labels(self, rows: Rows, view: View) -> list[int]:
        modality = view.modality
        images = modality.inputs(rows)
        if float(images.min()) < 0 or float(images.max()) > 1:
            raise UserError(
                "this method moves images with values from 0 to 1, and these have other values: give images before normalization"
            )
        uphill = view.input_grad(images, lambda x: modality.moved(rows, x), lambda output: -output.target_logp.values.sum()).sign()
        adversarial = ((images + self.bound * uphill).clamp(0, 1) * 255).round() / 255
        return view.now(modality.moved(rows, adversarial)).logits.values.argmax(-1).tolist()


class Wider(nn.Module):
    """A last layer with one more output."""

    def __init__(self, head: nn.Module, generator: torch.Generator) -> None:
        super().__init__()
        weight = head.weight
        self.head, self.extra = head, nn.Linear(weight.shape[1], 1, bias=head.bias is not None, device=weight.device, dtype=weight.dtype)
        for p in self.extra.parameters():  # the default initialization of a linear layer of this width, by the run's seed
            p.data.copy_((2 * torch.rand(p.shape, generator=generator) - 1) / weight.shape[1] ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.head(x), self.extra(x)], -1)


@part
class Last(Objective):
    """Negative log-probability of the last class, independent of the label."""

    reads = frozenset({"forget"})
    requires = frozenset({Categorical})

    def loss(self, step: Step) -> Tensor:
        return -step.mean(step.now(step.forget).log_probs.map(lambda log_probs: log_probs[:, -1]), step.forget)


@part
class Expand(Edit):
    """Train a copy with one more class towards that class, then take the copy's weights without the class."""

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
        tuned = tuned if is_adapted(view.model) else merged(tuned)
        base_of(tuned).set_submodule(path, base_of(tuned).get_submodule(path).head)
        put(view.model, weights_of(tuned))


def plan(
    direction: Annotated[
        Literal["shrink", "expand"], "shrink: move rows into the nearest class; expand: move them into a class of their own"
    ] = "shrink",
) -> Plan:
    return Plan(NLL("forget"), train=TRAIN, selectors=(Cross(),)) if direction == "shrink" else Plan(Expand())

"""MinNorm-OG: shrink the part of the weights that no output on the retain rows depends on.

A model that fits all its data has zero loss gradient on every row, so loss gradients do not tell what to forget. The gradient of the output
shows what a retain row needs. All other directions of the weights are free to shrink, and knowledge that only the forgotten rows held
shrinks with them.

Equation: after a step of training on a batch of retain rows: theta <- theta - s (theta - P theta), P the projection on the span of the
  gradients of the outputs (of each row its largest logit) on some rows of the batch; s <- gamma s; the last epochs only train
  (`form exact`: once, s = 1, all rows, all logits: in a linear model the minimum-norm solution for the retain rows;
  `form neurons`: the last layer with the fewest units that gives the same outputs on the retain rows)
Source: Block, Mokhtari and Shakkottai 2025, arXiv 2505.22601
Needs: retain alone; `neurons`: classifiers that end in a linear layer
Cost: a forward and backward of the batch, and a backward of each of `samples` rows, a step; these gradients in memory, and their SVD
Differs: no weight decay, which is a second kind of shrinking; training comes before shrinking, as in the paper's appendix; a row with
  several labels has the mean of their largest logits as its output; the batch size is inferred; the basis comes from an SVD, because
  gradients may repeat; `exact` and `neurons` change nothing where the retain rows need all weights or units; unused units keep their own
  weights, without effect
Status: shown
"""

from collections.abc import Callable, Iterable
from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from expunge.core.capabilities import Categorical
from expunge.core.errors import UserError
from expunge.core.hyperparameters import hp, part
from expunge.core.modality import ModelOutput
from expunge.core.needs import Need
from expunge.core.parts import Edit, GradCall, Grads, Update
from expunge.core.plan import Plan, Train
from expunge.core.rows import Rows
from expunge.core.view import State, Step, View
from expunge.engine.adapters import base_of
from expunge.functional.minimum_norm import fewest, span, within
from expunge.methods.terms import NLL

Output = Callable[[ModelOutput], Tensor]  # one number for each row, (rows,)


def top(output: ModelOutput) -> Tensor:
    """The largest logit of each row, averaged over the row's labels, (rows,)."""
    return output.logits.map(lambda z: z.max(-1).values).mean()


def score(class_index: int) -> Output:
    """The logit of one class."""
    return lambda output: output.logits.map(lambda z: z[:, class_index]).mean()


def gradients(view: View, rows: Rows, outputs: Iterable[Output]) -> Tensor:
    """Gradients of each output on each row with respect to all trainable weights, (outputs x rows, weights)."""
    batches = [torch.cat([g.flatten(1) for g in batch], 1) for output in outputs for batch in view.example_grads(rows, output)]
    return torch.cat(batches)


def shrink(view: View, held: Tensor, strength: float) -> None:
    """Shrink the component of the weights that is orthogonal to some gradients.

    Args:
        view: the view whose trainable weights shrink in place.
        held: the gradients, (n, weights).
        strength: share of the orthogonal component that is removed, from 0 to 1.
    """
    theta = parameters_to_vector([p.detach() for p in view.params]).to(held.dtype)
    change = strength * (within(theta, span(held)) - theta)
    with torch.no_grad():
        for p, c in zip(view.params, change.split([p.numel() for p in view.params]), strict=True):
            p.add_(c.view_as(p))


@part
class MinNorm(Update):
    """After a step, shrink the component of the weights that is orthogonal to the output gradients of some retain rows."""

    strength: float = hp(0.1, "share of the orthogonal component that the first shrinking removes", gt=0, le=1)
    gamma: float = hp(0.9, "strength of a shrinking over the strength of the previous one", gt=0, le=1)
    descent: int = hp(2, "number of last epochs without shrinking", ge=0)
    every: int = hp(1, "epochs from one with shrinking to the next", ge=1)
    samples: int = hp(50, "rows of a batch whose outputs a shrinking preserves, to first order", ge=1)
    reads = frozenset({"retain"})
    needs = frozenset({Need.EXAMPLE_GRADS})

    def begin(self, view: View) -> State:
        return {"strength": torch.tensor(self.strength, dtype=torch.float64)}

    def wrap(self, grads: Grads, step: Step) -> GradCall:
        return grads.call

    def after(self, step: Step) -> State:
        epoch = step.epoch + 1
        if epoch > step.epochs - self.descent or epoch % self.every:
            return step.state
        drawn = torch.randperm(len(step.retain), generator=step.rng())[: self.samples].tolist()
        strength = step.state["strength"]
        shrink(step, gradients(step, step.retain.select(drawn), [top]), float(strength))
        return {"strength": strength * self.gamma}


@part
class Exact(Edit):
    """Remove once the whole component of the weights that is orthogonal to the gradients of all outputs on all retain rows."""

    reads = frozenset({"retain"})
    requires = frozenset({Categorical})
    needs = frozenset({Need.EXAMPLE_GRADS})

    def apply(self, view: View) -> None:
        classes = view.now(view.retain.select([0])).logits.values.shape[-1]
        shrink(view, gradients(view, view.retain, map(score, range(classes))), 1.0)


@part
class Neurons(Edit):
    """Reduce the last layer to the fewest units with which its outputs on the retain rows stay the same."""

    reads = frozenset({"retain"})
    requires = frozenset({Categorical})
    needs = frozenset({Need.EXAMPLE_GRADS})

    def apply(self, view: View) -> None:
        head = base_of(view.model).get_submodule(view.modality.head(view.model))
        index = next((i for i, p in enumerate(view.params) if p is head.weight), None)
        if index is None:
            raise UserError("the last layer of this model does not move, and this form changes nothing else: let the last layer train")
        logits = torch.cat([view.now(rows).logits.values for rows in view.batches("retain", 64)])
        if len(logits) != len(view.retain):
            raise UserError("units are counted for classifiers, and these rows have several labels each: use another form")
        # the gradient of one output of a linear layer by its weights is the layer's input
        features = torch.cat([batch[index][:, 0] for batch in view.example_grads(view.retain, score(0))])
        head.weight.copy_(fewest(features, logits if head.bias is None else logits - head.bias).T)


def plan(
    form: Annotated[
        Literal["gradients", "exact", "neurons"],
        "gradients: step by step; exact: at once, exact for linear models; neurons: by units of the last layer",
    ] = "gradients",
) -> Plan:
    if form != "gradients":
        return Plan(Exact() if form == "exact" else Neurons())
    return Plan(NLL("retain"), train=Train(epochs=10, lr=1e-3, batch_size=128, anchor="retain"), updates=(MinNorm(),))

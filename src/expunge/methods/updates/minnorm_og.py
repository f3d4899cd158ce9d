"""MinNorm-OG: shrink what no output on the rows to retain depends on.

A model that fits all its data has no loss gradient left on any row, so gradients of the loss know nothing of what to forget. What a row to
retain needs is in the gradient of the output; the other weights are free to shrink, and what only forgotten rows held goes with them.

Equation: after a step of training on a batch of retain rows: theta <- theta - s (theta - P theta), P the projection on the span of the
  gradients of the outputs (of each row its largest score) on some rows of the batch; s <- gamma s; the last epochs only train
  (`form exact`: once, s = 1, all rows, all scores: in a linear model the minimum-norm solution for the retain rows;
  `form neurons`: the last layer that says the same of the retain rows with the fewest units)
Source: Block, Mokhtari and Shakkottai 2025, arXiv 2505.22601
Needs: retain alone; `neurons`: classifiers that end in a linear layer
Cost: a forward and backward of the batch, and a backward of each of `samples` rows, a step; these gradients in memory, and their SVD
Differs: no weight decay, which is a shrinking of its own; training comes before shrinking, as in the paper's appendix; where a row has
  several labels its output is the mean of their largest scores; batch size inferred; a basis by SVD, since gradients may repeat;
  `exact` and `neurons` change nothing where the retain rows hold all weights or units; unused units keep their own weights, without effect
Status: reproduced
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

Output = Callable[[ModelOutput], Tensor]  # a number a row, (rows,)


def top(answer: ModelOutput) -> Tensor:
    """The score of what each row is taken for, (rows,); of several labels the mean."""
    return answer.logits.map(lambda z: z.max(-1).values).mean()


def score(of: int) -> Output:
    """The score of one class."""
    return lambda answer: answer.logits.map(lambda z: z[:, of]).mean()


def gradients(view: View, rows: Rows, outputs: Iterable[Output]) -> Tensor:
    """Gradients of outputs by all weights that move, one after the other, (rows x outputs, weights)."""
    found = [torch.cat([g.flatten(1) for g in batch], 1) for output in outputs for batch in view.example_grads(rows, output)]
    return torch.cat(found)


def shrink(view: View, held: Tensor, strength: float) -> None:
    """Take away a share of the part of the weights that is orthogonal to some gradients, (n, weights)."""
    theta = parameters_to_vector([p.detach() for p in view.params]).to(held.dtype)
    change = strength * (within(theta, span(held)) - theta)
    with torch.no_grad():
        for p, c in zip(view.params, change.split([p.numel() for p in view.params]), strict=True):
            p.add_(c.view_as(p))


@part
class MinNorm(Update):
    """After a step, shrink what is orthogonal to the output gradients of some retain rows."""

    strength: float = hp(0.1, "share that the first shrinking takes of what it may take", gt=0, le=1)
    gamma: float = hp(0.9, "strength of a shrinking over that of the one before", gt=0, le=1)
    descent: int = hp(2, "last epochs without shrinking", ge=0)
    every: int = hp(1, "epochs from one with shrinking to the next", ge=1)
    samples: int = hp(50, "rows of a batch whose outputs a shrinking spares, to first order", ge=1)
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
    """Take away, once and all of it, what is orthogonal to the gradients of all outputs on all retain rows."""

    reads = frozenset({"retain"})
    requires = frozenset({Categorical})
    needs = frozenset({Need.EXAMPLE_GRADS})

    def apply(self, view: View) -> None:
        classes = view.now(view.retain.select([0])).logits.values.shape[-1]
        shrink(view, gradients(view, view.retain, map(score, range(classes))), 1.0)


@part
class Neurons(Edit):
    """Give the last layer the fewest units with which it says the same of the retain rows."""

    reads = frozenset({"retain"})
    requires = frozenset({Categorical})
    needs = frozenset({Need.EXAMPLE_GRADS})

    def apply(self, view: View) -> None:
        head = base_of(view.model).get_submodule(view.modality.head(view.model))
        place = next((i for i, p in enumerate(view.params) if p is head.weight), None)
        if place is None:
            raise UserError("the last layer of this model does not move, and nothing else can be left out")
        said = torch.cat([view.now(rows).logits.values for rows in view.batches("retain", 64)])
        if len(said) != len(view.retain):
            raise UserError("units are counted for classifiers, and these rows have several labels each")
        features = torch.cat([batch[place][:, 0] for batch in view.example_grads(view.retain, score(0))])  # a linear layer's gradient
        head.weight.copy_(fewest(features, said if head.bias is None else said - head.bias).T)


def plan(
    form: Annotated[
        Literal["gradients", "exact", "neurons"], "step by step; or at once, exact for linear models; or by units"
    ] = "gradients",
) -> Plan:
    if form != "gradients":
        return Plan(Exact() if form == "exact" else Neurons())
    return Plan(NLL("retain"), train=Train(epochs=10, lr=1e-3, batch_size=128, anchor="retain"), updates=(MinNorm(),))

"""SalUn: train on random labels, and move only the weights that matter for the forget rows.

Weights that the forget loss hardly depends on stay bit for bit, so the model loses less of everything else. The mask works under any
objective.

Equation: theta <- theta + m * step; m = 1 at the `fraction` of all weights, ranked together, with the largest |grad NLL(forget)| at the
  start; the objective is that of random_labels, and for diffusion models (`form captions`) that of random_captions, with the gradient of
  the guided loss MSE(noise, (1+w) e(x_t,c) - w e(x_t,"")), w = 7.5
Source: Fan et al. 2024, arXiv 2310.12508
Needs: forget, retain, alternate answers (all classes, or refusals, where the request brings none; none with `form captions`); as an update
  any objective
Cost: once, a forward and backward of the forget rows; then the cost of the objective, and a bit a weight
Differs: the mask's gradient is the mean over all forget rows, while the authors' code adds up the means of its batches, so that the rows
  of a short last batch count more (`mask_batch_size 256` does the same); both take it at the untouched weights, as that code does since
  December 2023, when it stopped taking optimizer steps in between; the mask uses the true answers, even where training uses other answers;
  masked weights neither decay nor drift; a picture's gradient is that of some fixed draws of noise and time, while their code draws one
Status: not shown
"""

from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from expunge.core.capabilities import Denoises
from expunge.core.hyperparameters import hp, part
from expunge.core.parts import GradCall, Grads, Objective, Update
from expunge.core.plan import Plan
from expunge.core.view import State, Step, View
from expunge.methods.denoising import captioned, squared_error
from expunge.methods.gradients import Gradient
from expunge.methods.objectives import random_captions, random_labels
from expunge.methods.terms import Ascent, SetTerm
from expunge.methods.updates.wagle import largest


@part
class GuidedLoss(SetTerm):
    """The loss of denoising by a prediction with guidance: that for the caption, and w times what it adds to the one for no prompt."""

    over: str = "forget"
    w: float = 7.5
    requires = frozenset({Denoises})

    def loss(self, step: Step) -> Tensor:
        rows = step.rows(self.over)
        own: Any = step.now(captioned(step, rows, rows["caption"]))
        empty: Any = step.now(captioned(step, rows, [""]))
        guided = own.prediction.map(lambda predicted: (1 + self.w) * predicted - self.w * empty.prediction.values)
        return step.mean(squared_error(guided, own.target.values), rows)


@part
class Saliency(Update):
    """Move only the weights with the largest gradient on the forget rows, by a mask computed before the first step."""

    fraction: float = hp(0.5, "fraction of the weights that move; 1: the base run, 0: none", ge=0, le=1)
    mask_batch_size: int = hp(0, "rows of a batch whose mean gradients are added up for the mask; 0: the mean over all rows", ge=0)
    mask_guidance: float = hp(0.0, "diffusion models: w of the guided loss whose gradient the mask reads; 0: the loss of training", ge=0)
    reads = frozenset({"forget"})

    @property
    def requires(self) -> frozenset[Any]:
        return frozenset({Denoises} if self.mask_guidance else ())

    def begin(self, view: View) -> State:
        batches = view.batches("forget", self.mask_batch_size or len(view.forget))
        sums = [torch.zeros_like(p) for p in view.params]
        loss: Objective = GuidedLoss(w=self.mask_guidance) if self.mask_guidance else Ascent()
        for batch in batches:
            sums = [s + g for s, g in zip(sums, view.grad(loss, {"forget": batch}), strict=True)]
        salient = [g.abs() for g in sums]
        masks = largest(salient, int(self.fraction * sum(g.numel() for g in salient)))
        return {str(i): m for i, m in enumerate(masks)}

    def wrap(self, grads: Grads, step: Step) -> GradCall:
        def masked(*roles: str) -> Gradient:
            value, gradient = grads(*roles)
            return value, [g * m for g, m in zip(gradient, self._masks(step), strict=True)]

        return masked

    def holds(self, step: Step) -> list[Tensor]:
        return [~m for m in self._masks(step)]

    def _masks(self, step: Step) -> list[Tensor]:
        return [step.state[str(i)].to(p.device) for i, p in enumerate(step.params)]


def plan(
    form: Annotated[
        Literal["turns", "mixed", "amnesiac", "captions"],
        "how random labels are trained: in turns with the retain rows, mixed with them, or as in amnesiac unlearning; captions: random "
        "captions of a diffusion model",
    ] = "turns",
) -> Plan:
    if form == "captions":
        return replace(random_captions.plan(), updates=(Saliency(mask_batch_size=8, mask_guidance=7.5),))
    return replace(random_labels.plan(form), updates=(Saliency(),))

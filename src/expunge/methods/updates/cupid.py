"""CUPID: forget a class, not the shortcut that a biased training set tied to it.

Where nearly all images of a class share a background, plain gradient ascent unlearns the background: the model forgets images with the
background late, and images without it may even gain. CUPID takes the few sharpest forget rows as the causal rows, which stand for the
images without the background. It projects the forget gradient on the causal gradient, sends that component to the weights that matter to
the causal rows, and sends the remainder to all other weights. It needs no retain rows and no labels of the bias.

Equation: s_i = L(theta + eta g_i / |g_i|; x_i) - L(theta; x_i), the rows of largest s are causal; m marks the weights of largest 1/2
  theta^2 H_jj, H over the causal rows; theta <- theta + alpha (<g_w, g_c> / |g_c|^2 g_c m + (g_f - <g_f, g_c> / |g_c|^2 g_c)(1 - m)), g_f
  and g_c the mean gradients over forget and causal rows, g_w the mean over forget rows weighted by s_i / mean(s)
Source: "Easy to Learn, Yet Hard to Forget: Towards Robust Unlearning Under Bias", AAAI 2026, arXiv 2602.21773
Needs: forget; weights in float32
Cost: once a backward and a forward of each forget row and a backward of each causal row; then three backwards a step (two with `weighting
  equal`), and a bit a weight
Differs: written from a description of the paper, which has no public code: eta, learning rate, batch size, epochs, the estimate of H (the
  diagonal of the empirical Fisher information) and the use of s as a weight are inferred; the causal gradient of a step is the mean over as
  many causal rows as the batch has, drawn with replacement, while the description takes the mean over all of them, which moves 9 to 14 % of
  a step; a new LoRA adapter starts with no weight that matters more than another, so its mask is arbitrary
Status: case invalid
"""

from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from expunge.core.capabilities import Categorical
from expunge.core.hyperparameters import hp, part
from expunge.core.needs import Need
from expunge.core.parts import GradCall, Grads, Selector, Stop, Update
from expunge.core.plan import Plan, Train
from expunge.core.rows import Sets
from expunge.core.view import State, Step, View
from expunge.methods.gradients import Gradient, dot, moved, on_role, unit
from expunge.methods.terms import NLL
from expunge.methods.updates.gradient_projection import apart
from expunge.methods.updates.wagle import largest

HELPERS = ("causal", "sharp")  # roles whose gradients shape the forget gradient and are not added to the sum


@part
class Sharp(Selector):
    """Add the column `sharpness` to the forget rows, and give the sharpest rows as the set `causal`."""

    causal: float = hp(0.05, "share of the forget rows, the sharpest ones, that stand for the rows without the bias", gt=0, le=1)
    eta: float = hp(0.05, "distance, over all weights, over which the rise of a row's loss is measured", gt=0)
    reads = frozenset({"forget"})
    requires = frozenset({Categorical})
    gives = frozenset({"forget", "causal"})

    def pick(self, sets: Sets, view: View) -> Sets:
        rows = view.forget
        sharpness = [self._sharpness(view, i) for i in range(len(rows))]
        sharpest = torch.tensor(sharpness).topk(max(1, round(self.causal * len(rows)))).indices.tolist()
        rows = rows.add(sharpness=sharpness)
        return {**sets, "forget": rows, "causal": rows.select(sharpest).rename("causal")}

    def _sharpness(self, view: View, i: int) -> float:
        """The rise of one row's loss in its steepest direction; 0 where the gradient is zero."""
        row = view.forget.select([i])
        direction = unit(view.grad(NLL("forget"), {"forget": row}))
        before = view.now(row).target_logp.values.mean()
        with moved(view.params, (self.eta * d for d in direction)):
            return float(before - view.now(row).target_logp.values.mean())


@part
class Weigh(Selector):
    """Give the rows of each batch a second time, as the set `sharp`, weighted by sharpness over the batch's mean sharpness."""

    when: ClassVar[Literal["start", "epoch", "step"]] = "step"
    reads = frozenset({"forget"})
    gives = frozenset({"sharp"})

    def pick(self, sets: Sets, view: View) -> Sets:
        rows = view.forget
        sharpness = torch.tensor(rows["sharpness"]).clamp_min(0)
        mean = sharpness.mean()
        weights = sharpness / mean if mean > 0 else torch.ones(len(rows))
        if rows.weight:
            weights = weights * torch.tensor(rows.weight)
        return {**sets, "sharp": replace(rows.rename("sharp"), weight=tuple(weights.tolist()))}


@part
class Route(Update):
    """Split the forget gradient along the causal gradient, and send each part to its own weights."""

    pathway: float = hp(0.5, "share of the weights, the most salient for the causal rows, that receive the causal part", ge=0, le=1)
    curvature: Literal["fisher", "hutchinson"] = hp(
        "fisher", "estimate of the Hessian's diagonal: squared gradients, or Hutchinson's random probes"
    )
    probes: int = hp(16, "random sign vectors that the Hessian is multiplied by (for hutchinson)", ge=1)
    reads = frozenset({"causal"})

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({Need.FISHER}) if self.curvature == "fisher" else frozenset()

    def roles(self) -> frozenset[str]:
        return frozenset({"forget", "causal"})

    def begin(self, view: View) -> State:
        saliency = [p.detach().square() * h for p, h in zip(view.params, self._diagonal(view), strict=True)]
        masks = largest(saliency, round(self.pathway * sum(q.numel() for q in saliency)))
        return {str(i): m for i, m in enumerate(masks)}

    def _diagonal(self, view: View) -> list[Tensor]:
        """The diagonal of the Hessian of the causal rows' loss, clamped at zero from below."""
        if self.curvature == "fisher":
            return view.fisher(view.rows("causal"), draws=None)
        rng, diagonal = view.rng(), [torch.zeros_like(p) for p in view.params]
        for _ in range(self.probes):
            signs = [(2 * torch.randint(2, p.shape, generator=rng) - 1).to(p) for p in view.params]
            products = view.grad(NLL("causal"), {"causal": view.rows("causal")}, vector=signs)
            diagonal = [d + s * h / self.probes for d, s, h in zip(diagonal, signs, products, strict=True)]
        return [d.clamp_min(0) for d in diagonal]

    def wrap(self, grads: Grads, step: Step) -> GradCall:
        masks = [step.state[str(i)].to(p.device) for i, p in enumerate(grads.params)]

        def routed() -> Gradient:
            value, forget = grads("forget")
            causal = grads("causal")[1]
            weighted = grads("sharp")[1] if "sharp" in grads.roles else forget
            share = dot(weighted, causal) / dot(causal, causal).clamp_min(1e-30)
            remainder = apart(forget, causal, "always")
            return value, [torch.where(m, share * c, r) for m, c, r in zip(masks, causal, remainder, strict=True)]

        call = on_role(grads, "forget", routed)

        def without_helpers(*roles: str) -> Gradient:
            summed = [r for r in roles if r not in HELPERS]
            return call(*summed) if summed else (torch.zeros(()), [torch.zeros_like(p) for p in grads.params])

        return without_helpers


@part
class CupidStop(Stop):
    """Stop once the model's accuracy on the forget rows is low enough."""

    accuracy: float = hp(0.0, "accuracy on the forget labels at or below which the run stops", ge=0, le=1)
    reads = frozenset({"forget"})
    requires = frozenset({Categorical})

    def stop(self, view: View) -> str | None:
        outputs = [view.now(rows) for rows in view.batches("forget", 64)]
        accuracy = torch.cat([o.logits.values.argmax(-1) == o.labels for o in outputs]).float().mean()
        return f"{float(accuracy):.1%} of the forget labels are still the model's first choice" if accuracy <= self.accuracy else None


def plan(
    weighting: Annotated[Literal["rows", "equal"], "whether sharper rows count more in the causal part"] = "rows",
) -> Plan:
    train = Train(epochs=20, lr=1e-3, batch_size=128, optimizer="sgd", schedule="constant")
    terms, selectors = -1.0 * NLL("forget") + -1.0 * NLL("causal"), (Sharp(),)
    if weighting == "rows":
        terms, selectors = terms + -1.0 * NLL("sharp"), (*selectors, Weigh())
    return Plan(terms, train=train, updates=(Route(),), selectors=selectors, stop_rules=(CupidStop(),))

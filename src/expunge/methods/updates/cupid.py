"""CUPID: forget a class, not the shortcut that a biased training set tied to it.

Where nearly all images of a class share a background, plain ascent unlearns the background: what has it is forgotten late, and what lacks
it may even gain. The few sharpest rows stand for what lacks it; what the forget gradient has in common with theirs goes to the weights that
matter to them, and the rest goes to the others. No retain rows, no labels of the bias.

Equation: s_i = L(theta + eta g_i / |g_i|; x_i) - L(theta; x_i), the rows of largest s are causal; m marks the weights of largest
  1/2 theta^2 H_jj, H over the causal rows; theta <- theta + alpha (<g_w, g_c> / |g_c|^2 g_c m + (g_f - <g_f, g_c> / |g_c|^2 g_c)(1 - m)),
  g_f and g_c the mean gradients over forget and causal rows, g_w that over forget rows weighted by s_i / mean(s)
Source: "Easy to Learn, Yet Hard to Forget: Towards Robust Unlearning Under Bias", AAAI 2026, arXiv 2602.21773
Needs: forget; weights in float32
Cost: once a backward and a forward of each forget row and a backward of each causal row; then three backwards a step (two with
  `weighting equal`), and a bit a weight
Differs: written from a description of the paper, which has no public code: eta, learning rate, batch, epochs, the estimate of H (the
  diagonal of the empirical Fisher information) and the use of s as a weight are inferred; under a new LoRA adapter no weight matters more
  than another at the start, so that the mask is arbitrary
Status: faithful; the rows without the bias are the sharp ones, but on biased digits with small networks accuracy with and without it lay
  as far apart as after plain ascent to the same mean accuracy
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

HELPERS = ("causal", "sharp")  # roles whose gradients shape that of forget, and are no part of the sum


@part
class Sharp(Selector):
    """Give every forget row its sharpness, and the sharpest as the set `causal`."""

    causal: float = hp(0.05, "share of the forget rows, the sharpest, that stand for those without the bias", gt=0, le=1)
    eta: float = hp(0.05, "distance, over all weights, over which a row's loss is seen to rise", gt=0)
    reads = frozenset({"forget"})
    requires = frozenset({Categorical})
    gives = frozenset({"forget", "causal"})

    def pick(self, sets: Sets, view: View) -> Sets:
        rows = view.forget
        found = [self._rise(view, i) for i in range(len(rows))]
        top = torch.tensor(found).topk(max(1, round(self.causal * len(rows)))).indices.tolist()
        rows = rows.add(sharpness=found)
        return {**sets, "forget": rows, "causal": rows.select(top).rename("causal")}

    def _rise(self, view: View, i: int) -> float:
        """How much the loss of one row rises in its steepest direction; 0 where it has none."""
        one = view.forget.select([i])
        direction = unit(view.grad(NLL("forget"), {"forget": one}))
        before = view.now(one).target_logp.values.mean()
        with moved(view.params, (self.eta * d for d in direction)):
            return float(before - view.now(one).target_logp.values.mean())


@part
class Weigh(Selector):
    """Give the rows of each batch a second time, as `sharp`, with their sharpness over its mean in the batch as weights."""

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
    """Split the forget gradient along the causal one, and send each part to its own weights."""

    pathway: float = hp(0.5, "share of the weights, those that matter most to the causal rows, that take the causal part", ge=0, le=1)
    curvature: Literal["fisher", "hutchinson"] = hp("fisher", "estimate of the diagonal of the Hessian: squared gradients, or probes")
    probes: int = hp(16, "random signs that the Hessian is multiplied by, for hutchinson", ge=1)
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
        """Diagonal of the Hessian of the causal rows' loss, never negative."""
        if self.curvature == "fisher":
            return view.fisher(view.rows("causal"), draws=None)
        rng, found = view.rng(), [torch.zeros_like(p) for p in view.params]
        for _ in range(self.probes):
            signs = [(2 * torch.randint(2, p.shape, generator=rng) - 1).to(p) for p in view.params]
            bent = view.grad(NLL("causal"), {"causal": view.rows("causal")}, vector=signs)
            found = [f + s * h / self.probes for f, s, h in zip(found, signs, bent, strict=True)]
        return [f.clamp_min(0) for f in found]

    def wrap(self, grads: Grads, step: Step) -> GradCall:
        masks = [step.state[str(i)].to(p.device) for i, p in enumerate(grads.params)]

        def routed() -> Gradient:
            value, whole = grads("forget")
            aim = grads("causal")[1]
            weighed = grads("sharp")[1] if "sharp" in grads.roles else whole
            share = dot(weighed, aim) / dot(aim, aim).clamp_min(1e-30)
            return value, [torch.where(m, share * c, rest) for m, c, rest in zip(masks, aim, apart(whole, aim, "always"), strict=True)]

        call = on_role(grads, "forget", routed)

        def without_helpers(*roles: str) -> Gradient:
            asked = [r for r in roles if r not in HELPERS]
            return call(*asked) if asked else (torch.zeros(()), [torch.zeros_like(p) for p in grads.params])

        return without_helpers


@part
class CupidStop(Stop):
    """Enough once the model's first choice is hardly ever the label of a row to forget."""

    accuracy: float = hp(0.0, "share of the forget labels, at most, that the model still gets right when it stops", ge=0, le=1)
    reads = frozenset({"forget"})
    requires = frozenset({Categorical})

    def stop(self, view: View) -> str | None:
        answers = [view.now(rows) for rows in view.batches("forget", 64)]
        right = torch.cat([a.logits.values.argmax(-1) == a.labels for a in answers]).float().mean()
        return f"{float(right):.1%} of the forget labels are still the model's first choice" if right <= self.accuracy else None


def plan(
    weighting: Annotated[Literal["rows", "equal"], "whether sharper rows count for more in the causal part"] = "rows",
) -> Plan:
    train = Train(epochs=20, lr=1e-3, batch_size=128, optimizer="sgd", schedule="constant")
    terms, selectors = -1.0 * NLL("forget") + -1.0 * NLL("causal"), (Sharp(),)
    if weighting == "rows":
        terms, selectors = terms + -1.0 * NLL("sharp"), (*selectors, Weigh())
    return Plan(terms, train=train, updates=(Route(),), selectors=selectors, stop_rules=(CupidStop(),))

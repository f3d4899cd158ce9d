"""ResAlign: erase so that the concept stays away when the model is fine-tuned on harmless data later.

Each step simulates some fine-tunings and follows the gradient of the harm that the fine-tuned models would do, back through the
fine-tuning.

Equation: min (1 - lam) L_h(theta) + lam L_h(theta_F) + w L_r(theta); theta_F = argmin_u L_F(u) + |u - theta|^2 / 2, so that the gradient
  is (1 - lam) grad L_h + w grad L_r + (I + H)^-1 lam grad L_h(theta_F), H the Hessian of L_F at theta_F; v = (I + H)^-1 a by K steps v <-
  v - s (H v + v) + a, times s. L_h minus the loss of training on forget rows, L_r MSE(e(x_t,c), e0(x_t,c)) on retain rows, L_F the loss of
  training
Source: Towards resilient safety-driven unlearning for diffusion models against downstream fine-tuning (NeurIPS 2025), arXiv 2507.16302;
  code: AntigoneRandy/ResAlign
Needs: forget and retain (pictures with captions); the reference; second derivatives; as an update any objective with both roles
Cost: for each of 3 scenarios a copy of the model, 5 to 30 training steps, a forward and backward of forget rows, and up to 6 times K - 1
  double backwards of one batch; and a step of the objective
Differs: fine-tuning is on retain rows, with learning rates, steps and optimizers that are drawn from those of the published pool, without
  its DreamBooth and full-parameter scenarios; both terms of the harm share their noise; adapters begin with a factor of zeros; Adam is an
  ordinary one in each simulated run. The simulated runs have no proximal term, as in the code
Status: faithful
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from expunge.core.capabilities import Denoises, Redraws, require
from expunge.core.hyperparameters import Count, hp, part
from expunge.core.parts import GradCall, Grads, Update
from expunge.core.plan import Plan, Train
from expunge.core.view import Step, View
from expunge.engine.gradient import global_norm
from expunge.methods.denoising import AsBefore
from expunge.methods.gradients import Gradient
from expunge.methods.terms import NLL, Ascent

Vector = list[Tensor]
RATES = (1e-4,) * 7 + (1e-5,) * 6 + (1e-6,) * 2
ATTENTION = r"(unet|transformer)\..*attn[12]\.(to_q|to_k|to_v|to_out\.0)"
TRAINED = r"attn[12]\.to_(q|k|v|out)"
ATTEMPTS = 6


class Solved(NamedTuple):
    """The end of an iteration: s times the last v, and whether each step of it got shorter."""

    value: Vector
    contracts: bool


def richardson(product: Callable[[Vector], Vector], a: Vector, steps: int, size: float) -> Solved:
    """Solve (I + H) v = a by v <- v - s (H v + v) + s a, which begins at 0.

    Args:
        product: a function from v to H v.
        a: the right side.
        steps: K; the first one gives s a.
        size: s; the limit does not depend on it.

    Returns:
        The last v, and whether every map from v to v - s (H v + v) was a contraction, as a mean over tensors.
    """
    v = [torch.zeros_like(x) for x in a]
    contracts = True
    for k in range(steps):
        if k:
            mapped = [x - size * (h + x) for x, h in zip(v, product(v), strict=True)]
            ratios = [float(m.norm() / x.norm()) for m, x in zip(mapped, v, strict=True) if float(x.norm()) > 0]
            contracts = contracts and sum(ratios) / max(1, len(ratios)) <= 1
        else:
            mapped = v
        new = [m + x for m, x in zip(mapped, a, strict=True)]
        change = float(global_norm([n - x for n, x in zip(new, v, strict=True)]))
        v = new
        if change < 1e-10:
            break
    return Solved([size * x for x in v], contracts)


def ramp(begin: float, end: float, done: int, total: int) -> float:
    """A weight that stays as it begins for half of the steps, and then follows a sigmoid. done: steps so far, the present one included."""
    share = (done - total / 2) / max(1.0, total / 2)
    return begin if share < 0 else begin + (end - begin) / (1 + math.exp(-10 * (share - 0.5)))


@part
class Resilience(Update):
    """Adds to the gradient what simulated fine-tunings would bring back."""

    lam: float = hp(0.8, "weight of the harm after fine-tuning against that before: at the end", ge=0, le=1)
    lam_start: float = hp(0.8, "the same in the first half of the steps", ge=0, le=1)
    w: float = hp(2.0, "weight of the retain term: at the end", ge=0)
    w_start: float = hp(1.6, "the same in the first half of the steps", ge=0)
    scenarios: int = hp(3, "simulated fine-tunings in each step", ge=1)
    tuning_lrs: tuple[Annotated[float, Field(ge=0)], ...] = hp(RATES, "learning rates that scenarios are drawn from", min_length=1)
    tuning_steps: tuple[Count, ...] = hp((5, 10, 20, 30), "numbers of steps that scenarios are drawn from", min_length=1)
    adam_share: float = hp(1 / 3, "share of scenarios with Adam; the others take plain gradient steps", ge=0, le=1)
    tuning_batch_size: int = hp(1, "rows of a batch of a simulated fine-tuning", ge=1)
    iterations: int = hp(5, "K, steps of the Richardson iteration", ge=1)
    largest: float = hp(0.2, "norm of a scenario's whole gradient above which the iteration is tried again, and then left out", gt=0)
    meta_rate: float = hp(0.3, "factor of the whole gradient", gt=0)
    reads = frozenset({"forget", "retain"})
    requires = frozenset({Denoises})

    def roles(self) -> frozenset[str]:
        return frozenset({"forget", "retain"})

    def wrap(self, grads: Grads, step: Step) -> GradCall:
        lam, w = (ramp(begin, end, step.done + 1, step.total) for begin, end in ((self.lam_start, self.lam), (self.w_start, self.w)))

        def call(*roles: str) -> Gradient:
            if not self.roles() <= {*roles}:
                return grads(*roles)
            harm, keep = grads("forget"), grads("retain")
            value = (1 - lam) * harm[0] + w * keep[0]
            direct = [(1 - lam) * h + w * k for h, k in zip(harm[1], keep[1], strict=True)]
            pulls = [self._pull(step, direct, lam, i) for i in range(self.scenarios)] if lam else [direct]
            mean = [sum(g[1:], g[0]) / len(pulls) for g in zip(*pulls, strict=True)]
            return value, [self.meta_rate * g for g in mean]

        return call

    def _pull(self, step: Step, direct: Vector, lam: float, number: int) -> Vector:
        """The gradient for one scenario: the direct one, plus that through the fine-tuning."""
        rng = torch.Generator().manual_seed(int(torch.randint(2**62, (1,), generator=step.rng())) + number)
        lr, steps = (values[int(torch.randint(len(values), (1,), generator=rng))] for values in (self.tuning_lrs, self.tuning_steps))
        optimizer: Literal["adam", "sgd"] = "adam" if float(torch.rand(1, generator=rng)) < self.adam_share else "sgd"
        tuning = Plan(
            NLL("retain"),
            train=Train(
                epochs=0,
                steps=int(steps),
                lr=float(lr),
                batch_size=self.tuning_batch_size,
                optimizer=optimizer,
                schedule="constant",
                anchor="retain",
            ),
            trainable=_moving(step),
        )
        pool = step.whole_set("retain")
        tuned = step.run(tuning, {"retain": pool}, key=f"{step.done}/{number}")
        for name, p in tuned.model.named_parameters():
            p.requires_grad_(name in _trained(step))
        a = [lam * g for g in tuned.grad(Ascent(), {"forget": step.rows("forget")})]
        size = 1.0
        for _ in range(ATTEMPTS):
            drawn = torch.randint(len(pool), (self.tuning_batch_size,), generator=rng).tolist()
            seed = int(torch.randint(2**62, (1,), generator=rng))
            rows = require(step.modality, Redraws).redraw(pool.select(drawn), seed)
            solved = richardson(lambda v, rows=rows: tuned.grad(NLL("retain"), {"retain": rows}, vector=v), a, self.iterations, size)  # type: ignore[misc]
            whole = [x + b for x, b in zip(solved.value, direct, strict=True)]
            if solved.contracts and float(global_norm(whole)) <= self.largest:
                return whole
            size /= 2
        return direct


def _trained(view: View) -> frozenset[str]:
    """Names of the parameters that train."""
    return frozenset(n for n, p in view.model.named_parameters() if p.requires_grad)


def _moving(view: View) -> str:
    """A pattern of exactly these parameters."""
    names = sorted(n.replace("base_model.model.", "", 1) for n in _trained(view))
    return rf"^({'|'.join(map(re.escape, names))})$"


def plan() -> Plan:
    train = Train(
        epochs=0,
        steps=160,
        lr=2e-4,
        batch_size=1,
        weight_decay=0.01,
        optimizer="adamw",
        schedule="constant",
        lora=4,
        lora_alpha=4.0,
        lora_targets=ATTENTION,
    )
    return Plan(Ascent() + AsBefore("retain"), train=train, updates=(Resilience(),), trainable=TRAINED)

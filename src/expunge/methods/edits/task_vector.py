"""Task vector negation: fine-tune a copy on the rows to forget, and step from the model the other way.

One run on the forget set and one subtraction; the step's length decides how much is forgotten and how much else is lost.

Equation: theta = theta_0 - scale (theta_ft - theta_0), over all floating-point weights and buffers
Source: Ilharco et al. 2023, arXiv 2212.04089; as a baseline with these settings: Shi et al. 2024, arXiv 2407.06460
Needs: forget
Cost: ten epochs of fine-tuning on the forget rows, on a copy of the model
Differs: nothing
Status: faithful
"""

from typing import Any

from expunge.core.hyperparameters import hp, part
from expunge.core.parts import Edit
from expunge.core.plan import Plan, Train
from expunge.core.view import View
from expunge.engine.adapters import is_adapted
from expunge.engine.weights import put, tensors_of
from expunge.methods.terms import NLL


@part
class Negate(Edit):
    """Subtract what an inner plan adds to the weights."""

    scale: float = hp(5.0, "how many task vectors are subtracted; 0: nothing changes", ge=0)
    inner: Plan = Plan(NLL("forget"), train=Train(epochs=10, lr=1e-5, batch_size=32, schedule="constant"), name="tune")
    reads = frozenset({"forget"})

    def apply(self, view: View) -> None:
        tuned: Any = view.run(self.inner, {"forget": view.forget}).model
        there = tensors_of(tuned.merge_and_unload() if is_adapted(tuned) else tuned)
        here = {n: t for n, t in tensors_of(view.model).items() if t.is_floating_point()}
        put(view.model, {n: t - self.scale * (there[n] - t) for n, t in here.items()})


def plan() -> Plan:
    return Plan(Negate())

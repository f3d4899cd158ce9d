"""Task vector negation: fine-tune a copy on the forget rows, and step from the original model in the opposite direction.

The method takes one run on the forget set and one subtraction. The length of the step trades forgetting against damage to everything else.

Equation: theta = theta_0 - scale (theta_ft - theta_0), over all floating-point weights and buffers
Source: Ilharco et al. 2023, arXiv 2212.04089; as a baseline with these settings: Shi et al. 2024, arXiv 2407.06460
Needs: forget
Cost: ten epochs of fine-tuning on the forget rows, on a copy of the model
Differs: nothing
Status: not shown
"""

from expunge.core.hyperparameters import hp, part
from expunge.core.parts import Edit
from expunge.core.plan import Plan, Train
from expunge.core.view import View
from expunge.engine.adapters import merged
from expunge.engine.weights import put, tensors_of
from expunge.methods.terms import NLL


@part
class Negate(Edit):
    """Subtracts the change that an inner plan makes to the weights."""

    scale: float = hp(5.0, "factor on the subtracted task vector; 0: nothing changes", ge=0)
    inner: Plan = Plan(NLL("forget"), train=Train(epochs=10, lr=1e-5, batch_size=32, schedule="constant"), name="tune")
    reads = frozenset({"forget"})

    def apply(self, view: View) -> None:
        tuned_tensors = tensors_of(merged(view.run(self.inner, {"forget": view.forget}).model))
        original = {name: tensor for name, tensor in tensors_of(view.model).items() if tensor.is_floating_point()}
        put(view.model, {name: tensor - self.scale * (tuned_tensors[name] - tensor) for name, tensor in original.items()})


def plan() -> Plan:
    return Plan(Negate())

"""Retraining: start again without the forget rows. The retrained model is the standard for every other method.

The weights are drawn anew, or taken from a model that never saw the rows (`base`), and trained on the retain rows alone.

Equation: theta_0 = fresh or base weights; L = NLL(retain)
Source: the definition of exact unlearning, as in Cao and Yang 2015 and Bourtoule et al. 2021, arXiv 1912.03817; settings as TOFU's
  fine-tuning, Maini et al. 2024, arXiv 2401.06121
Needs: retain
Cost: that of training; one forward and backward of the retain rows a step, an epoch is one pass over them
Differs: from fresh weights the default learning rate is 1e-3, because 1e-5 is too low to train them
Status: reproduced
"""

from typing import Annotated, Any

from expunge.core.errors import UserError
from expunge.core.hyperparameters import hp, part
from expunge.core.parts import Edit
from expunge.core.plan import Plan, Plans, Train
from expunge.core.view import View
from expunge.engine.adapters import base_of
from expunge.engine.weights import put, tensors_of
from expunge.methods.edits.random_weights import Reinitialize
from expunge.methods.terms import NLL


@part
class Load(Edit):
    """Copies the weights of another model of the same shape."""

    base: str = hp("", "folder or hub id of a model that never saw the rows")

    def apply(self, view: View) -> None:
        model = base_of(view.model)
        kind: Any = type(model)
        if not hasattr(kind, "from_pretrained"):
            raise UserError(f"a {kind.__name__} cannot be loaded from a folder: leave `base` out to start from fresh weights")
        try:
            base_tensors = tensors_of(kind.from_pretrained(self.base, use_safetensors=True))
        except (OSError, ValueError) as error:
            raise UserError(f"cannot load the base model from {self.base!r}: {str(error).strip().splitlines()[0]}") from None
        for name, tensor in tensors_of(model).items():
            if name not in base_tensors or base_tensors[name].shape != tensor.shape:
                raise UserError(f"the base model {self.base!r} has another shape than this model: {name!r} differs")
        put(model, {name: base_tensors[name] for name in tensors_of(model)})


def plan(base: Annotated[str, "folder or hub id of a model that never saw the rows; '': weights drawn anew"] = "") -> Plans:
    train = Train(epochs=5, lr=1e-5 if base else 1e-3, batch_size=32, warmup=1, weight_decay=0.01, anchor="retain")
    return Plan(Load(base) if base else Reinitialize(), name="blank"), Plan(NLL("retain"), train=train, name="train")

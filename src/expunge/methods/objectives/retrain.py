"""Retraining: start again without the forget rows. The retrained model is the standard for every other method.

The weights are taken from a model that never saw the rows (`base`) and trained on the retain rows alone. Where the model itself was
trained from fresh weights, these are drawn anew; an adapter starts anew on its own base.

Equation: theta_0 = fresh or base weights; L = NLL(retain)
Source: the definition of exact unlearning, as in Cao and Yang 2015 and Bourtoule et al. 2021, arXiv 1912.03817; settings as TOFU's
  fine-tuning, Maini et al. 2024, arXiv 2401.06121
Needs: retain
Cost: that of training; one forward and backward of the retain rows a step, an epoch is one pass over them
Differs: from fresh weights the default learning rate is 1e-3, because 1e-5 is too low to train them
Status: reproduced
"""

from typing import Annotated, Any

import torch

from expunge.core.errors import UserError
from expunge.core.hyperparameters import hp, part
from expunge.core.parts import Edit
from expunge.core.plan import Plan, Plans, Train
from expunge.core.view import View
from expunge.engine.adapters import base_of, is_adapted, restarted
from expunge.engine.origin import pretrained_from
from expunge.engine.weights import put, tensors_of
from expunge.methods.contrastive import WEIGHT, trained_with
from expunge.methods.edits.random_weights import Reinitialize


@part
class Restart(Edit):
    """Draws the weights anew of a model that was trained from fresh weights; an adapter starts anew on its base, which stays."""

    def apply(self, view: View) -> None:
        seed = int(torch.randint(2**31, (1,), generator=view.rng()))
        fresh = view.modality.fresh(view.model, seed)
        if is_adapted(view.model):
            put(view.model, restarted(view.model, fresh))
        elif source := pretrained_from(view.model):
            raise UserError(
                f"the model in {source} may have been pretrained before it saw the rows, and retraining must then start from the "
                "pretrained weights: give --base FOLDER_OR_HUB_ID, or --base fresh if it was trained from weights drawn anew"
            )
        else:
            put(view.model, fresh)


@part
class Load(Edit):
    """Copies the weights of another model of the same shape."""

    base: str = hp("", "folder or hub id of a model that never saw the rows")

    def apply(self, view: View) -> None:
        if is_adapted(view.model):
            raise UserError("an adapter starts anew on its own base, which never changed: leave `base` out")
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


def plan(
    base: Annotated[str, "folder or hub id of the model before it saw the rows, or fresh: weights drawn anew; '': as the model began"] = "",
    contrast: Annotated[float, WEIGHT] = 0.0,
) -> Plans:
    train = Train(epochs=5, lr=1e-3 if base in ("", "fresh") else 1e-5, batch_size=32, warmup=1, weight_decay=0.01, anchor="retain")
    start = {"": Restart(), "fresh": Reinitialize()}.get(base) or Load(base)
    return Plan(start, name="blank"), Plan(trained_with(contrast), train=train, name="train")

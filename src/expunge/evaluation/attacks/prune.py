"""Pruning: set the smallest weights to zero, and see whether what was forgotten comes back.
Small changes that hide knowledge are among the first weights to go when somebody makes a model smaller; nobody has to mean harm.

Threat model: none is needed: whoever deploys the model prunes it. A guard around the weights is taken off, adapters are merged.
Equation: w' = 0 where |w| is among the smallest `share` of its layer (scope layer) or of all layers (scope all), else w
Source: Han et al. 2015, arXiv 1506.02626 (magnitude pruning); Jia et al. 2023, arXiv 2304.04934 (pruning and unlearning)
Scores: those of the forget set, for each share
Needs: forget
Range and ideal: those of the scores; the ideal is the retrained model's, pruned as much; the original's row tells what pruning alone costs
Differs: no training after pruning. Pruned are the weights of linear layers and convolutions; embeddings, norms and biases stay
Status: not shown
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field
from torch import nn
from torch.nn.utils import prune

from expunge.core.hyperparameters import hp, part
from expunge.evaluation.attack import Attack, Scene
from expunge.evaluation.attacks.quantize import CONVOLUTIONS, TURNED


@part
class Prune(Attack):
    """Magnitude pruning."""

    share: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = hp((0.1, 0.3, 0.5), "share of the weights that is set to 0", min_length=1)
    scope: Literal["layer", "all"] = hp("layer", "the smallest weights of each layer, or of all layers together")

    def run(self, scene: Scene) -> None:
        for share in self.share:
            pruned_model = pruned(scene.bare(merged=True), share, self.scope)
            scene.look(scene.scores(pruned_model), f"{share:.0%} of the weights", share=share)


def pruned(model: nn.Module, share: float, scope: str = "layer") -> nn.Module:
    """The model without its smallest weights, in place. A weight that is tied to something else is pruned in its layer alone."""
    layers: list[Any] = [
        layer for layer in model.modules() if isinstance(layer, (nn.Linear, *CONVOLUTIONS)) or type(layer).__name__ == TURNED
    ]
    for layer in layers:
        layer.weight = nn.Parameter(layer.weight.detach().clone(), requires_grad=False)
    if scope == "all":
        prune.global_unstructured([(layer, "weight") for layer in layers], prune.L1Unstructured, amount=share)
    for layer in layers:
        if scope != "all":
            prune.l1_unstructured(layer, "weight", share)
        prune.remove(layer, "weight")
    return model


def plan() -> Prune:
    return Prune()

"""Fisher forgetting: add noise to each weight, more noise the less the retain rows depend on it.

Noise overwrites the weights that only the forget rows need. It hardly moves the weights that the retain rows need. The edit is one-shot,
without training.

Equation: theta <- mu + s eps, eps normal; mu = theta, s^2 = alpha min(1 / (F + 1e-8), 1e3), in the last layer min(., 1e2), averaged over
  the second dimension, times 10 in the last layer and in vectors; F = (1/N) sum_x sum_y p(y|x) (grad -log p(y|x))^2 over retain rows; where
  the rows to forget are one class that no retain row has, its row of the last layer has mu = 0 and s^2 = 10 1e-4
Source: Golatkar et al. 2020, arXiv 1911.04933; with these settings: Foster et al. 2024, arXiv 2308.07707
Needs: forget (its labels alone), retain; the Fisher information
Cost: one forward, and a backward for each class, of every retain row alone; one number a weight
Differs: the authors' factor 10 on the last layer is for requests of full classes only; here it holds for all (`head 1`: none); with `draws
  n` labels are drawn instead of trying all classes; for rows with several labels one draw is the default, and a token is a class. SalUn's
  code squares the mean gradient of 32 rows at once; here, as in the equation, each row's gradient is squared
Status: not shown
"""

import torch
from torch import Tensor

from expunge.core.capabilities import Categorical
from expunge.core.hyperparameters import hp, part
from expunge.core.needs import Need
from expunge.core.parts import Edit
from expunge.core.plan import Plan
from expunge.core.view import View
from expunge.engine.adapters import base_of


def variance(information: Tensor, last: bool, alpha: float, head: float = 10.0) -> Tensor:
    """Variance of a parameter's noise.

    Args:
        information: Diagonal of the parameter's Fisher information, in the parameter's shape.
        last: Whether the parameter belongs to the last layer.
        alpha: Scale of the variance.
        head: Factor on the variance in the last layer.

    Returns:
        The variance, in the parameter's shape.
    """
    noise = alpha * (1 / (information + 1e-8)).clamp_max(1e2 if last else 1e3)
    if noise.dim() > 1:
        noise = noise.mean(1, keepdim=True).expand_as(information)
    return noise * (head if last else 10.0 if noise.dim() == 1 else 1.0)


@part
class Scrub(Edit):
    """Adds noise whose variance is inverse to the Fisher information of the retain rows."""

    alpha: float = hp(1e-6, "scale of the noise variance; 0: no noise", ge=0)
    head: float = hp(10.0, "factor on the variance in the last layer", ge=0)
    draws: int = hp(0, "labels drawn per row for its Fisher information; 0: every class (one draw where a row has several labels)", ge=0)
    reads = frozenset({"forget", "retain"})
    requires = frozenset({Categorical})
    needs = frozenset({Need.FISHER})

    def apply(self, view: View) -> None:
        base, rng, forgotten_class = base_of(view.model), view.rng(), self._forgotten_class(view)
        last = {id(p) for p in base.get_submodule(view.modality.head(view.model)).parameters()}
        for p, information in zip(view.params, view.fisher(view.retain, self.draws), strict=True):
            mean, var = p.clone(), variance(information, id(p) in last, self.alpha, self.head).clone()
            if forgotten_class is not None and id(p) in last:
                mean[forgotten_class], var[forgotten_class] = 0.0, 1e-4 * self.head
            p.copy_(mean + var.sqrt() * torch.randn(p.shape, generator=rng).to(p))

    def _forgotten_class(self, view: View) -> int | None:
        """The class of all forget rows, if they have one class and no retain row has it."""
        forget, retain = ({int(y) for batch in view.batches(name, 128) for y in view.now(batch).labels} for name in ("forget", "retain"))
        return next(iter(forget)) if len(forget) == 1 and not forget & retain else None


def plan() -> Plan:
    return Plan(Scrub())

"""Random weights: the model as it was before any training. A control, not a method: it forgets everything, and must fail utility.

An audit that this model passes measures forgetting alone.

Equation: theta = a fresh draw of the model's own initialization, by the run's seed
Source: the randomization test of Adebayo et al. 2018, arXiv 1810.03292, applied to unlearning
Needs: nothing
Cost: none
Differs: nothing
Status: reproduced
"""

import torch

from expunge.core.hyperparameters import part
from expunge.core.parts import Edit
from expunge.core.plan import Plan
from expunge.core.view import View
from expunge.engine.weights import put


@part
class Reinitialize(Edit):
    """Draws all weights anew from the model's own initialization."""

    def apply(self, view: View) -> None:
        seed = int(torch.randint(2**31, (1,), generator=view.rng()))
        put(view.model, view.modality.fresh(view.model, seed))


def plan() -> Plan:
    return Plan(Reinitialize())

"""NegGrad+: every step combines descent on the retain rows with a little ascent on the forget rows.

An epoch is one pass over the retain rows. Their weight in every step keeps the ascent from running away.

Equation: L = alpha NLL(retain) - (1 - alpha) NLL(forget)
Source: Kurmanji et al. 2023 (as a baseline of SCRUB), arXiv 2302.09880
Needs: forget, retain
Cost: one forward and backward of as many forget as retain rows a step
Differs: forget rows are drawn for each batch, while the authors' code cycles through them; the optional pull of the weights toward their
  start is left out. There is no momentum, as in the authors' code; with `momentum 0.9` it forgets much more. `alpha 0.5` with twice the
  learning rate is the equal-weight form (Advanced NegGrad, arXiv 2311.02240)
Status: not shown
"""

from typing import Annotated

from expunge.core.errors import UserError
from expunge.core.plan import Plan, Train
from expunge.methods.terms import NLL, Ascent


def plan(alpha: Annotated[float, "weight of the retain rows, from 0 (ascent alone) to 1 (fine-tuning)"] = 0.95) -> Plan:
    if not 0 <= alpha <= 1:
        raise UserError(f"alpha is the weight of the retain loss and must be from 0 to 1, and not {alpha:g}")
    train = Train(epochs=10, lr=0.01, batch_size=128, optimizer="sgd", schedule="constant", anchor="retain")
    return Plan(alpha * NLL("retain") + (1 - alpha) * Ascent(), train=train)

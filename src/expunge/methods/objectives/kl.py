"""KL minimization: gradient ascent on the forget rows, while the model must match the reference on the retain rows.

The method is gradient difference in which the reference's distribution replaces the retain labels.

Equation: L = mean_forget log p(y_t | x, y_<t) + mean_retain KL(p_ref(. | x, y_<t) || p(. | x, y_<t))
Source: Maini et al. 2024 (TOFU), arXiv 2401.06121
Needs: forget, retain; the reference
Cost: one forward and backward of forget and retain rows a step, and one forward of the retain rows by the reference
Differs: the loss is averaged over answer labels; the authors' code averages over all positions, including prompt and padding
Status: faithful
"""

from expunge.core.plan import Plan
from expunge.methods.objectives import graddiff


def plan() -> Plan:
    return graddiff.plan("kl")

"""KL minimisation: ascent on the rows to forget, while the retain rows must be answered as the reference answers them.

Gradient difference with the reference's distribution in place of the retain labels.

Equation: L = mean_forget log p(y_t | x, y_<t) + mean_retain KL(p_ref(. | x, y_<t) || p(. | x, y_<t))
Source: Maini et al. 2024 (TOFU), arXiv 2401.06121
Needs: forget, retain; the reference
Cost: one forward and backward of forget and retain rows a step, and one forward of the retain rows by the reference
Differs: averaged over answer labels; the authors' code averages over all positions, prompt and padding among them
Status: faithful
"""

from expunge.core.plan import Plan
from expunge.methods.objectives import graddiff


def plan() -> Plan:
    return graddiff.plan("kl")

"""KL minimization: gradient ascent on the forget rows, while the model must match the reference on the retain rows.

The method is gradient difference in which the reference's distribution replaces the retain labels.

Equation: L = mean_forget log p(y_t | x, y_<t) + mean_t KL(p_ref(. | z_<t) || p(. | z_<t)), t: all positions of prompt and answer, z, of the
  retain rows
Source: Maini et al. 2024 (TOFU), arXiv 2401.06121
Needs: forget, retain; the reference
Cost: one forward and backward of forget and retain rows a step, and one forward of the retain rows by the reference
Differs: padding does not count, nor does the position after the last token, while the authors' code averages over them, too;
  `include_prompt false` counts the positions of answers alone
Status: shown
"""

from typing import Annotated

from expunge.core.plan import Plan
from expunge.methods.objectives import graddiff


def plan(include_prompt: Annotated[bool, "whether positions of the prompt count too"] = True) -> Plan:
    return graddiff.plan("kl", include_prompt)

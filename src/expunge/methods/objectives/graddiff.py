"""Gradient difference (GradDiff): ascent on the rows to forget, and ordinary training on rows to retain.

The retain term holds utility up; the forget term is as unbounded as gradient ascent alone.

Equation: L = mean_forget log p(y_t | x, y_<t) + R;  R = mean_retain -log p(y_t | x, y_<t), or (kl) mean_retain KL(p_ref || p)
Source: Liu et al. 2022, arXiv 2203.12817; as a TOFU baseline: Maini et al. 2024, arXiv 2401.06121
Needs: forget, retain; with kl the reference
Cost: one forward and backward of forget and retain rows a step; with kl one forward of the retain rows by the reference more
Differs: kl is averaged over answer labels; the TOFU code averages over all positions, prompt and padding among them
Status: reproduced
"""

from typing import Annotated, Literal

from expunge.core.plan import Plan, Train
from expunge.methods.terms import KL, NLL, Ascent


def plan(retain_term: Annotated[Literal["nll", "kl"], "what holds the retain rows: their likelihood, or the reference"] = "nll") -> Plan:
    hold = NLL("retain") if retain_term == "nll" else KL()
    return Plan(Ascent() + hold, train=Train(epochs=10, lr=1e-5, batch_size=32, warmup=1, weight_decay=0.01))

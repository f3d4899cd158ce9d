"""Gradient ascent (GA): maximize the loss on the rows to forget, and nothing else.

It forgets fast and does not stop: the loss is unbounded below, so utility falls with it.

Equation: L = mean over forget labels of log p(y_t | x, y_<t)
Source: Jang et al. 2022, arXiv 2210.01504; as a TOFU baseline: Maini et al. 2024, arXiv 2401.06121
Needs: forget
Cost: one forward and backward of the forget rows a step
Differs: nothing
Status: reproduced
"""

from expunge.core.plan import Plan, Train
from expunge.methods.terms import Ascent


def plan() -> Plan:
    return Plan(Ascent(), train=Train(epochs=10, lr=1e-5, batch_size=32, warmup=1, weight_decay=0.01))

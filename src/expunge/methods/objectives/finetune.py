"""Fine-tuning: continue training on the retain rows, and rely on the rest to fade.

This is the weakest baseline, since nothing pushes the rows to forget out. It shows how much of forgetting is plain drift. It also trains
models.

Equation: L = NLL(retain)
Source: as a baseline: Golatkar et al. 2020, arXiv 1911.04933
Needs: retain
Cost: one forward and backward of the retain rows a step; an epoch is one pass over them
Differs: nothing
Status: reproduced
"""

from typing import Annotated

from expunge.core.plan import Plan, Train
from expunge.methods.contrastive import WEIGHT, trained_with


def plan(contrast: Annotated[float, WEIGHT] = 0.0) -> Plan:
    return Plan(trained_with(contrast), train=Train(epochs=5, lr=1e-5, batch_size=32, warmup=1, weight_decay=0.01, anchor="retain"))

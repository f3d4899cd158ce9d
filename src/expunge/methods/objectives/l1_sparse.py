"""l1-sparse: fine-tune on the retain rows while an l1 penalty, which fades out, pulls all weights toward zero.

The penalty removes weights that only the forgotten rows needed, because no retain row counteracts it. In a sparser model plain
fine-tuning forgets more.

Equation: L = NLL(retain) + a_t |theta|_1;  a_t = alpha max(0, 1 - t / l1_epochs), t the epoch from 0, theta all weights that train
Source: Jia et al. 2023, arXiv 2304.04934; settings as in Fan et al. 2024 (SalUn), arXiv 2310.12508
Needs: retain
Cost: one forward and backward of the retain rows a step
Differs: the epochs with a penalty are counted from the start, so they do not depend on `epochs`; alpha has the paper's order of magnitude
Status: not shown
"""

import torch
from torch import Tensor

from expunge.core.hyperparameters import hp, part
from expunge.core.parts import Objective
from expunge.core.plan import Plan, Train
from expunge.core.view import Step
from expunge.methods.terms import NLL


@part
class L1(Objective):
    """Sum of the absolute values of all trainable weights. Its strength falls linearly to 0 over the first epochs."""

    alpha: float = hp(5e-4, "weight of the penalty in the first epoch; 0: plain fine-tuning", ge=0)
    l1_epochs: int = hp(10, "epochs until the penalty reaches 0", ge=1)
    reads = frozenset({"retain"})
    role = "sparsity"

    def loss(self, step: Step) -> Tensor:
        strength = self.alpha * max(0.0, 1 - step.epoch / self.l1_epochs)
        share = len(step.retain) / step.count(step.retain, "rows")  # of this micro-batch, so that the penalty counts once
        return strength * share * torch.stack([p.abs().sum() for p in step.params]).sum()


def plan() -> Plan:
    train = Train(
        epochs=10, lr=0.01, batch_size=256, optimizer="sgd", momentum=0.9, weight_decay=5e-4, schedule="constant", anchor="retain"
    )
    return Plan(NLL("retain") + L1(), train=train)

"""l1-sparse: fine-tune on the retain rows while an l1 penalty, which fades out, draws all weights to zero.

Weights that only the forgotten rows needed have nothing to hold them up. In a sparser model plain fine-tuning forgets more.

Equation: L = NLL(retain) + a_t |theta|_1;  a_t = alpha max(0, 1 - t / l1_epochs), t the epoch from 0, theta all weights that train
Source: Jia et al. 2023, arXiv 2304.04934; settings as in Fan et al. 2024 (SalUn), arXiv 2310.12508
Needs: retain
Cost: one forward and backward of the retain rows a step
Differs: the epochs with a penalty are counted from the start, so they do not follow `epochs`; alpha is the paper's order of magnitude
Status: faithful
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
    """The sum of the absolute values of all weights that train, with a weight that falls to 0 from epoch to epoch."""

    alpha: float = hp(5e-4, "weight of the penalty in the first epoch; 0: fine-tuning", ge=0)
    l1_epochs: int = hp(10, "epochs until the penalty is gone", ge=1)
    reads = frozenset({"retain"})
    role = "sparsity"

    def loss(self, step: Step) -> Tensor:
        strength = self.alpha * max(0.0, 1 - step.epoch / self.l1_epochs)
        share = len(step.retain) / step.count(step.retain, "rows")  # of the batch that is in this piece: the penalty counts once
        return strength * share * torch.stack([p.abs().sum() for p in step.params]).sum()


def plan() -> Plan:
    train = Train(
        epochs=10, lr=0.01, batch_size=256, optimizer="sgd", momentum=0.9, weight_decay=5e-4, schedule="constant", anchor="retain"
    )
    return Plan(NLL("retain") + L1(), train=train)

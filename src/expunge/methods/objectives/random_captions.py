"""Random captions: train the model to predict under a forget caption what it predicts under another one, and keep the retain rows.

What random labels are to a classifier: a new answer overwrites the old one, so the loss is bounded. It is the objective of SalUn for
diffusion models.

Equation: L = MSE(e(x_t,c), sg e(x_t,c~)) on forget rows + alpha MSE(e(x_t,c), what noise gives) on retain rows; c~ another caption, the
  same in all steps; e the prediction of the model being trained on both sides, at the same noise and time
Source: Fan et al. 2024 (ICLR), SalUn, arXiv 2310.12508; code: OPTML-Group/Unlearn-Saliency
Needs: forget and retain (pictures with captions)
Cost: a step has two forward passes and a backward of forget rows, and one of retain rows
Differs: without `pseudo` each distinct forget caption is given a distinct retain caption in turn, while the code takes the class after the
  one to forget; alpha weighs a mean over pixels, as in the code for Stable Diffusion, while that for CIFAR-10 sums over them
Status: faithful
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from expunge.core.capabilities import Denoises
from expunge.core.hyperparameters import hp, part
from expunge.core.parts import Selector, Sum
from expunge.core.plan import Plan, Train
from expunge.core.rows import Sets
from expunge.core.view import Step, View
from expunge.methods.concepts import pairs
from expunge.methods.denoising import DENOISER, captioned, squared_error
from expunge.methods.terms import NLL, SetTerm


@part
class PseudoCaptions(Selector):
    """Gives each forget row another caption beside its own, the same for all rows of a caption."""

    concept: str = hp("", "what to erase, in words that captions of the forget rows contain; '': these captions as a whole")
    pseudo: str = hp("", "what stands in place of the concept in the other caption; '': the other caption is that of a retain row")
    requires = frozenset({Denoises})
    gives = frozenset({"forget"})

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({"forget"} if self.pseudo else {"forget", "retain"})

    def pick(self, sets: Sets, view: View) -> Sets:
        rows = view.forget
        if self.pseudo:
            others = {**{c: c for c in rows["caption"]}, **dict(pairs(rows, self.concept, self.pseudo))}
        else:
            own = list(dict.fromkeys(rows["caption"]))
            pool = [c for c in dict.fromkeys(view.retain["caption"]) if c not in own] or [""]
            others = {c: pool[i % len(pool)] for i, c in enumerate(own)}
        return {**sets, "forget": rows.add(aside=[others[c] for c in rows["caption"]])}


@part
class OtherCaption(SetTerm):
    """Squared distance between predictions under a row's caption and under another one, the latter without a gradient."""

    over: str = "forget"
    requires = frozenset({Denoises})

    def loss(self, step: Step) -> Tensor:
        rows = step.rows(self.over)
        target: Any = step.look(captioned(step, rows, rows["aside"]))
        output: Any = step.now(captioned(step, rows, rows["caption"]))
        return step.mean(squared_error(output.prediction, target.prediction.values), rows)


def objective(alpha: float) -> Sum:
    """Random captions on the forget rows, and the loss of training on the retain rows with a weight."""
    return OtherCaption() + alpha * NLL("retain")


def plan() -> Plan:
    train = Train(epochs=5, lr=1e-5, batch_size=8, optimizer="adam", schedule="constant")
    return Plan(objective(0.5), train=train, selectors=(PseudoCaptions(),), trainable=DENOISER)

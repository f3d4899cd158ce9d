"""The world of drawn digits: LINA learns them with and without its convolution and its gates; the score is the loss of unseen digits.

The paper judges by FID of 50,000 pictures; here it is the loss of flow matching, the mean over the shares of masked tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

import torch
from torch import nn

from expunge.benchmarks import digits
from expunge.core.plan import Plan, Train
from expunge.engine import loop
from expunge.methods.terms import NLL
from expunge.modalities.diffusion.masked_building import start_model
from expunge.modalities.diffusion.models.lina import SETTINGS
from studies.proofs.claim import Arm, Claim, Scores
from studies.proofs.curve import Curve
from studies.proofs.effect import Gate

CLASSES, ROWS, UNSEEN = 4, 320, 120
SIZE = {"width": 32, "heads": 1, "condition_blocks": 1, "encoder_blocks": 1, "decoder_blocks": 2, "head_blocks": 1, "head_width": 32}
LOSS = "flow_loss"
WHOLE, BARE, UNGATED = "lina", "lina without convolution", "lina without gates"
CHANGES: dict[str, dict[str, Any]] = {WHOLE: {}, BARE: {"locality": False}, UNGATED: {"gates": False}}


class DrawnDigits:
    """One draw of the digits below four, and initial weights."""

    def __init__(self, draw: int, seed: int) -> None:
        every = [r for r in digits.load(seed=draw).train["full"] if r["label"] < CLASSES]
        self.rows, self.unseen, self.seed = every[:ROWS], every[ROWS : ROWS + UNSEEN], seed

    def built(self, name: str) -> tuple[nn.Module, Any]:
        return start_model({**SIZE, **CHANGES[name]}, SETTINGS, self.rows, seed=self.seed)

    @torch.no_grad()
    def measure(self, model: nn.Module, modality: Any) -> dict[str, float]:
        """The loss of unseen digits, and of unseen digits under the name of the next class."""
        rows = modality.rows("unseen", self.unseen)
        wrong = modality.recaption(rows, [str((r["label"] + 1) % CLASSES) for r in self.unseen])
        losses = [float(modality.forward(model, [some])[0].loss.values.mean()) for some in (rows, wrong)]
        return {LOSS: losses[0], "wrong_class": losses[1]}

    def learned(self, name: str, settings: Mapping[str, Any]) -> dict[str, float]:
        """The scores after training."""
        model, modality = self.built(name)
        train = Train(anchor="retain", warmup=1, max_grad_norm=1.0, weight_decay=0.02, batch_size=40, seed=self.seed, **settings)
        loop.run((Plan(NLL("retain"), train=train),), model, modality, {"retain": modality.rows("retain", self.rows)})
        return self.measure(model.eval(), modality)

    @cached_property
    def original(self) -> Scores:
        """Without training."""
        return self.measure(*self.built(WHOLE))

    @property
    def retrained(self) -> Scores:
        return self.original

    @property
    def random(self) -> Scores:
        return self.original

    def run(self, arm: Arm, settings: Mapping[str, Any], scores: frozenset[str]) -> Curve:
        """The scores at the end."""
        return [self.learned(arm.name, settings)]


@dataclass(frozen=True)
class Drawings:
    """Draws of the digits."""

    name: str = "digits that are drawn"
    model: str = "lina"

    def unit(self, draw: int, seed: int) -> DrawnDigits:
        return DrawnDigits(draw, seed)

    def gates(self, claim: Claim, units: Sequence[Any], rivals: Mapping[str, Sequence[float]]) -> list[Gate]:
        """The rivals must have learned, and must not be near what noise allows."""
        blank = fmean(unit.original[LOSS] for unit in units)
        worst, best = (f(fmean(values) for values in rivals.values()) for f in (max, min))
        return [
            Gate("every rival has at most 7/10 of the loss of untrained weights", worst / blank, worst <= 0.7 * blank),
            Gate("no rival is within what matters of a loss of 0", best, best > claim.matters),
        ]


SCHEDULE: dict[str, Any] = {"epochs": 20, "lr": 3e-3}  # equal for all
ARMS = {name: Arm(name, "retrain", SCHEDULE) for name in CHANGES}
CLAIMS: dict[str, tuple[Drawings, tuple[Claim, ...]]] = {
    "lina": (
        Drawings(),
        (
            Claim(
                "the convolution lowers the loss of unseen pictures",
                "arXiv 2601.22630, the ablation of locality (FID 13.1 without it and 9.1 with it, in the authors' logs)",
                LOSS,
                (BARE,),
                "lower",
                0.01,
            ),
            Claim(
                "the gates of keys and values lower it further",
                "arXiv 2601.22630, the ablation of the gate",
                LOSS,
                (UNGATED,),
                "lower",
                0.002,
            ),
        ),
    ),
}

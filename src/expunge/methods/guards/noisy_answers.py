"""Noisy answers: the confidence of every answer is blurred by noise that sticks to the question, so that asking again tells no more.

What a model says by itself stays as it is, since the noise turns each distribution flatter or steeper and never changes which token is
the most probable one. Membership attacks read confidences, and are to read noise. They do not have to: what is most probable is not
blurred, and other wordings of a question get noise of their own, which averages out; so the guard is here to be broken (see the attack
sticky_noise).

Equation: p'(y_t | x) = softmax(z_t exp(static + dynamic)), each N(0, sd^2): static by prompt and answer, dynamic also by what the model
  finds most probable
Source: the mechanism of Diffix, as attacked by Gadotti et al. 2019, arXiv 1804.06752
Needs: nothing of the rows
Cost: a forward pass, and a hash of each row
Differs: reconstructed: the paper blurs counts of a table, and a model's confidences take their place; the users that a question selects are
  here the tokens that the model finds most probable. The weights are unchanged, and nothing is unlearned
Status: faithful
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from expunge.core.capabilities import Generates, OneSequence, Prompted
from expunge.core.hyperparameters import hp, part
from expunge.core.modality import Modality, ModelOutput, Patch, Weights
from expunge.core.parts import Guard
from expunge.core.plan import Plan
from expunge.core.rows import Rows
from expunge.core.view import View
from expunge.engine import guarding
from expunge.functional.sticky_noise import normal, word_of


@part
class NoisyAnswers(Guard):
    """Blur confidences."""

    sd: float = hp(0.3, "standard deviation of each of the two layers of noise, of the logarithm of a temperature", ge=0)
    reads = frozenset[str]()
    requires = frozenset({Prompted, Generates, OneSequence})

    def wrap(self, modality: Modality, view: View) -> Modality:
        return NoisyGuard.fitted(modality, {"sd": self.sd}, {})


class NoisyGuard(guarding.StoredGuard):
    """A modality whose distributions have noise. Its setting is the `sd`; the salt is that of the guard."""

    method = "noisy_answers"

    def flags(self, model: nn.Module, rows: Rows) -> list[bool]:
        """None: what the model says by itself is its own."""
        return [False] * len(rows)

    def forward(
        self,
        model: nn.Module,
        groups: Sequence[Rows],
        hook_points: tuple[str, ...] = (),
        patch: Patch | None = None,
        weights: Weights | None = None,
    ) -> list[ModelOutput]:
        """Outputs with blurred logits; what hooks see is the model's own."""
        outputs: list[Any] = [*self.unguarded.forward(model, groups, hook_points, patch, weights)]
        return [own.with_scores(own.scores * self.factors(rows, own)[:, None]) for rows, own in zip(groups, outputs, strict=True)]

    def factors(self, rows: Rows, output: ModelOutput) -> Tensor:
        """What the logits at each label are multiplied by, (labels,): one number a row."""
        likely = output.logits.map(lambda logits: logits.argmax(-1)).split()
        numbers = []
        for prompt, answer, tokens in zip(rows["prompt"], rows["answer"], likely, strict=True):
            static = word_of(json.dumps([self.settings["salt"], list(prompt), list(answer)]))
            noise = normal("static", static) + normal("dynamic", static ^ word_of(json.dumps(tokens.tolist())))
            numbers.append(self.settings["sd"] * noise)
        factor = torch.tensor(numbers, dtype=torch.float32).exp().to(output.logits.values)
        return factor[output.logits.row.to(factor.device)]

    @property
    def holds(self) -> str:
        return "This guard holds the salt of its noise, with which the noise can be taken off again, and nothing of the rows."


def restore(modality: Modality, folder: Path) -> Modality:
    """The guard that was saved in a folder, around a modality."""
    return NoisyGuard.restored(modality, folder)


def plan() -> Plan:
    return Plan(NoisyAnswers())

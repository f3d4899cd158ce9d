"""Who's Harry Potter at the time of answering: tokens that a reinforced copy of the model raises are lowered while the model speaks.

The copy was fine-tuned once more on the rows to forget, so what it raises above the model belongs to them. No weight of the model changes,
and every answer costs two models. Whoever has the weights, or asks without the guard, gets the answers; the copy, which the folder of the
guard holds, says them more readily still.

Equation: p(y_t | y_<t, x) = softmax(z_0 - strength relu(z_r - z_0)); z_0, z_r: logits of the model and of the reinforced copy
Source: Shi et al. 2024 (MUSE), arXiv 2407.06460, after Eldan and Russinovich 2023, arXiv 2310.02238
Needs: forget; a copy of the weights
Cost: three epochs of fine-tuning on the rows to forget; two forwards for each token of every answer, and twice the memory
Differs: reconstructed: the settings of the reinforcement are those of the paper of 2023, as far as they are known; the benchmark takes a
  copy that was fine-tuned for longer (`epochs 10`, `lr 1e-5`). An adapter (`--lora`) is not kept apart
Status: shown
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from expunge.core.capabilities import Generates, Prompted, Samples
from expunge.core.errors import UserError
from expunge.core.hyperparameters import hp, part
from expunge.core.modality import Modality, ModelOutput, Patch, Weights
from expunge.core.parts import Guard
from expunge.core.plan import Plan, Train
from expunge.core.rows import Rows
from expunge.core.view import View
from expunge.engine import guarding
from expunge.engine.run_state import evaluating
from expunge.engine.weights import put, weights_of
from expunge.methods.objectives.whp import generic_logits
from expunge.methods.terms import NLL
from expunge.modalities.text.paired import PairedBeginnings


@part
class GenericDecoding(Guard):
    """Answer by the logits of the model without what a reinforced copy raises."""

    strength: float = hp(1.0, "how much a token is lowered that the reinforced copy raises; 0: answers are the model's own", ge=0)
    trial: int = hp(2, "prompts of each set that are answered at the end, for what they cost; 0: none", ge=0)
    train: Train = Train(epochs=3, lr=3e-6, batch_size=128)
    reads = frozenset({"forget"})
    requires = frozenset({Prompted, Generates})

    def wrap(self, modality: Modality, view: View) -> Modality:
        if self.train.lora:
            raise UserError("whp_decoding keeps a copy of all weights, so leave --lora out")
        if not len(view.forget):
            raise UserError("the set 'forget' is empty: this guard needs rows to forget")
        reinforced = view.run(Plan(NLL("forget"), train=self.train), {"forget": view.forget}, key="reinforced").model
        with evaluating(view.model):
            guard = GenericGuard.fitted(modality, {"strength": self.strength}, weights_of(reinforced))
            guarding.trial(guard, view, {"forget": view.forget}, self.trial)
        return guard


class GenericGuard(guarding.StoredGuard):
    """A modality that answers every prompt by two models. Its setting is the `strength`; its tensors are the reinforced weights."""

    method = "whp_decoding"

    def __init__(self, inner: Modality, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        super().__init__(inner, settings, tensors)
        self.copies = WeakKeyDictionary[nn.Module, nn.Module]()  # the reinforced copy of a model, which is made once

    def flags(self, model: nn.Module, rows: Rows) -> list[bool]:
        return [True] * len(rows)

    def reinforced(self, model: nn.Module) -> nn.Module:
        """The reinforced copy of a model, on its device."""
        known = self.copies.get(model)
        device = next(model.parameters()).device
        if known is None or next(known.parameters()).device != device:
            self.copies[model] = known = copy.deepcopy(model)
            put(known, self.stored_tensors)
            known.requires_grad_(False).eval()
        return known

    def combined(self, own: Tensor, reinforced: Tensor) -> Tensor:
        """Logits that count, of the same shape and precision as the model's own."""
        return generic_logits(own.float(), reinforced.float(), self.settings["strength"]).to(own)

    def answer_flagged(
        self, model: nn.Module, rows: Rows, limit: int, generator: torch.Generator | None, temperature: float, with_logp: bool
    ) -> Samples:
        inner: Any = self.unguarded
        with evaluating(model):
            return inner.generate_from(self._beginnings(model, rows), model, rows, limit, generator, temperature, with_logp)

    def stream(
        self, model: nn.Module, rows: Rows, limit: int, generator: torch.Generator | None = None, temperature: float = 1.0
    ) -> Iterator[str]:
        """The answer to one prompt, piece by piece: each token was chosen by both models."""
        inner: Any = self.unguarded
        yield from inner.stream_from(self._beginnings(model, rows.select([0])), model, rows, limit, generator, temperature)

    def forward(
        self,
        model: nn.Module,
        groups: Sequence[Rows],
        hook_points: tuple[str, ...] = (),
        patch: Patch | None = None,
        weights: Weights | None = None,
    ) -> list[ModelOutput]:
        """Outputs whose logits are the combined ones; what hooks see is the model's own."""
        outputs: list[Any] = [*self.unguarded.forward(model, groups, hook_points, patch, weights)]
        with torch.no_grad():
            others: list[Any] = [*self.unguarded.forward(self.reinforced(model), groups)]
        return [own.with_scores(self.combined(own.scores, other.scores)) for own, other in zip(outputs, others, strict=True)]

    def _beginnings(self, model: nn.Module, rows: Rows) -> PairedBeginnings:
        inner: Any = self.unguarded
        first, second = (inner.architecture.beginnings(m, rows, inner.pad) for m in (model, self.reinforced(model)))
        return PairedBeginnings(first, second, self.combined)

    @property
    def holds(self) -> str:
        return (
            "This guard holds a copy of the model that was trained once more on the rows to forget, and that says them more readily than "
            "the model: it is as confidential as they are. It holds no texts."
        )


def restore(modality: Modality, folder: Path) -> Modality:
    """The guard that was saved in a folder, around a modality."""
    return GenericGuard.restored(modality, folder)


def plan() -> Plan:
    return Plan(GenericDecoding())

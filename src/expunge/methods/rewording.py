"""Guards that put words around a flagged question and leave the answer to the model: what they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from expunge.core.capabilities import Displayable, Generates, Prompted, Samples, require
from expunge.core.errors import UserError
from expunge.core.modality import Modality, ModelOutput, Patch, Weights
from expunge.core.rows import Rows
from expunge.core.view import View
from expunge.engine.guarding import StoredGuard
from expunge.engine.run_state import evaluating
from expunge.methods.detectors import PromptClassifier

SHORTER = "let the guard use fewer words or examples, or take a model that reads longer texts"
ROOM = 32  # tokens that stay free for an answer, unless the model reads fewer than four times as many


class Rewording(StoredGuard):
    """A modality that asks flagged questions in other words, where answers are generated and where they are scored.

    It flags the prompts that its classifier flags; without the tensors of a classifier, all that ask something.
    """

    def __init__(self, inner: Modality, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        super().__init__(inner, settings, tensors)
        weights = self.tensors_of("classifier")
        self.classifier = PromptClassifier.of(weights, settings["layer"]) if weights else None

    def flags(self, model: nn.Module, rows: Rows) -> list[bool]:
        if self.classifier is None:
            return [bool(q.strip()) for q in require(self.unguarded, Displayable).questions(rows)]
        return (self.classifier.probabilities(model, self.unguarded, rows) > self.settings["threshold"]).tolist()

    def wordings(self, model: nn.Module, rows: Rows) -> list[list[str]]:
        """What may be asked instead of each question, in fewer and fewer words; all rows are flagged.

        The first one is asked wherever the model can read it and still answer.
        """
        raise NotImplementedError

    def reworded(self, model: nn.Module, rows: Rows) -> list[str]:
        """What is asked instead of each question where there is room for all words of the guard."""
        return [wordings[0] for wordings in self.wordings(model, rows)]

    def asked(self, model: nn.Module, rows: Rows) -> Rows:
        """Flagged rows with the words of the guard around their questions. What was given of an answer stays at the end of the prompt."""
        return rows.add(prompt=[prompt for _, prompt in self.fitted_prompts(model, rows)])

    def fitted_prompts(self, model: nn.Module, rows: Rows) -> list[tuple[int, list[int]]]:
        """The place of the wording in which each flagged row is asked, and the prompt as token ids.

        Raises:
            UserError: where the model cannot read the shortest one.
        """
        questions = require(self.unguarded, Displayable).questions(rows)
        placeholder = rows.add(answer_text=["?"] * len(rows))  # the answers stay as they are, so their texts must not be read again
        bare = require(self.unguarded, Prompted).reask(placeholder, questions, rows.name)["prompt"]
        fitted = list[tuple[int, list[int]]]()
        for i, (wordings, own) in enumerate(zip(self.wordings(model, rows), bare, strict=True)):
            prompt = list(rows["prompt"][i])
            if prompt[: len(own)] != list(own):  # a window of a long answer has no question
                fitted.append((0, prompt))
                continue
            given = prompt[len(own) :]
            place, other = self._fitting(placeholder.select([i]), wordings, len(given) + len(rows["answer"][i]))
            fitted.append((place, [*other, *given]))
        return fitted

    def _fitting(self, row: Rows, wordings: Sequence[str], answer: int) -> tuple[int, list[int]]:
        """The first wording that leaves room for an answer, or the last one that the model can read.

        Args:
            answer: tokens of the answer that is scored.
        """
        limit: int = getattr(self.unguarded, "limit", 0)
        room, readable, reason = max(answer, min(ROOM, limit // 4)), None, None
        for place, text in enumerate(wordings):
            try:
                (prompt,) = require(self.unguarded, Prompted).reask(row, [text], row.name)["prompt"]
            except UserError as error:
                reason = error
                continue
            readable = place, list(prompt)
            if not limit or len(prompt) + room <= limit:
                break
        if readable is None:
            raise UserError(f"with the words of the guard {reason}; or let the guard use fewer words or examples") from None
        return readable

    def answer_flagged(
        self, model: nn.Module, rows: Rows, limit: int, generator: torch.Generator | None, temperature: float, with_logp: bool
    ) -> Samples:
        with evaluating(model):
            asked = self.asked(model, rows)
        return require(self.unguarded, Generates).generate(model, asked, limit, generator, temperature, with_logp)

    def forward(
        self,
        model: nn.Module,
        groups: Sequence[Rows],
        hook_points: tuple[str, ...] = (),
        patch: Patch | None = None,
        weights: Weights | None = None,
    ) -> list[ModelOutput]:
        """Outputs of the same answers after the questions that the guard asks."""
        guarded = [self._guarded(model, rows) for rows in groups]
        return self.unguarded.forward(model, guarded, hook_points, patch, weights)

    def _guarded(self, model: nn.Module, rows: Rows) -> Rows:
        flagged = [i for i, flag in enumerate(self.flags(model, rows)) if flag]
        if not flagged:
            return rows
        prompts, asked = list(rows["prompt"]), self.asked(model, rows.select(flagged))
        for i, prompt in zip(flagged, asked["prompt"], strict=True):
            prompts[i] = prompt
        self._check_room(prompts, rows)
        return rows.add(prompt=prompts)

    def _check_room(self, prompts: Sequence[Sequence[int]], rows: Rows) -> None:
        inner: Any = self.unguarded
        longest = max(len(p) + len(a) for p, a in zip(prompts, rows["answer"], strict=True))
        if inner.limit and longest > inner.limit:
            raise UserError(
                f"with the words of the guard a prompt and its answer have {longest} tokens, and the model takes {inner.limit}: " + SHORTER
            )


def warn_of_cuts(guard: Rewording, view: View, rows: Rows) -> None:
    """Ask the longest question to forget once, and tell the user where the model cannot read all words of the guard.

    Raises:
        UserError: where it cannot read the fewest.
    """
    longest = max(range(len(rows)), key=lambda i: len(rows["prompt"][i]))
    ((place, _),) = guard.fitted_prompts(view.model, rows.select([longest]))
    if place:
        limit: Any = getattr(guard.unguarded, "limit", 0)
        view.warn(
            f"the model reads {limit} tokens, too few for all words of the guard and an answer, so the guard leaves out words or examples "
            "before long questions: it protects better with a model that reads longer texts"
        )


def format_of(modality: Any) -> tuple[str, str]:
    """What the prompt format of a modality writes before and after a question; of a chat template, a line break."""
    before, mark, after = modality.encoder.described.partition("{prompt}")
    return (before, after) if mark else ("", "\n")

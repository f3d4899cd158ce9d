"""Input filter: prompts that stand in the forget set are not answered. The weights stay as they are, and know what they knew.

A stopgap until the weights forget, and a control: it passes every test that only asks the listed questions, and must fail all others.

Equation: x is a hit iff some forget prompt f has |G(f) & G(x)| >= threshold |G(f)|, G: the word n-grams; p(.|hit) = uniform, or a refusal
Source: our own; as a baseline (input filtering): Thaker et al. 2024, arXiv 2403.03329
Needs: forget (prompts only)
Cost: one forward pass, and a comparison of two sets for each input and forget prompt
Differs: nothing
Status: reproduced

Prompts are kept as salted hashes of their n-grams, since a request to delete should not be stored in the clear. That hides them from a
reader, not from somebody who guesses whole prompts and tries them.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from expunge.core.capabilities import Displayable, Generates, Prompted, Samples, require
from expunge.core.errors import UserError
from expunge.core.hyperparameters import hp, part
from expunge.core.modality import Modality, ModelOutput, Patch, Weights
from expunge.core.parts import Guard
from expunge.core.plan import Plan
from expunge.core.rows import Packed, Rows
from expunge.core.view import View
from expunge.engine import guarding
from expunge.modalities.text.records import asked_turns


@part
class InputFilter(Guard):
    """Answer no prompt that stands in the forget set, nor an input that contains one."""

    threshold: float = hp(0.9, "share of a forget prompt's n-grams that makes an input a hit; 1: all of them", gt=0, le=1)
    ngram: int = hp(3, "words in an n-gram", ge=1)
    refusal: str = hp("I have no answer to that.", "what is said instead of an answer", min_length=1)
    reads = frozenset({"forget"})
    requires = frozenset({Prompted, Generates, Displayable})

    def wrap(self, modality: Modality, view: View) -> Modality:
        salt = bytes(torch.randint(256, (16,), generator=view.rng()).tolist()).hex()
        prompts = []
        for question in dict.fromkeys(require(modality, Displayable).questions(view.forget)):
            tokens = words(question)
            size = min(self.ngram, len(tokens))
            if not size:
                raise UserError("a row to forget has no prompt, and an input filter goes by prompts")
            prompts.append([size, sorted(hashed(tokens, size, salt))])
        return Filtered(modality, {"threshold": self.threshold, "salt": salt, "prompts": prompts, "refusal": self.refusal})


def words(text: str) -> list[str]:
    """What counts of a text: its words without case, punctuation and ways to write the same letter."""
    return re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())


def hashed(tokens: Sequence[str], size: int, salt: str) -> frozenset[str]:
    """Salted hashes of the word n-grams of one size."""
    grams = {" ".join(tokens[i : i + size]) for i in range(len(tokens) - size + 1)}
    return frozenset(hashlib.blake2b(g.encode(), key=bytes.fromhex(salt), digest_size=8).hexdigest() for g in grams)


class Filtered(guarding.StoredGuard):
    """A modality that does not answer some prompts: it says the refusal, and scores every answer to them as a guess.

    Args:
        settings: threshold, salt, prompts (n-gram size and hashes of each) and refusal.
    """

    method = "input_filter"
    hidden = frozenset({"prompts"})

    def __init__(self, inner: Modality, settings: Mapping[str, Any], tensors: Mapping[str, Tensor] = {}) -> None:
        super().__init__(inner, settings, tensors)
        self.prompts = [(int(size), frozenset(grams)) for size, grams in settings["prompts"]]

    def hits(self, rows: Rows, answers: bool = False) -> list[bool]:
        """Which rows contain a forget prompt, in any turn that is not the model's own. answers: look in their answers, too."""
        display = require(self.unguarded, Displayable)
        texts = [" ".join(asked_turns(c)) for c in rows["context"]] if "context" in rows.columns else display.questions(rows)
        if answers:
            texts = [f"{q} {a}" for q, a in zip(texts, display.answer_texts(rows), strict=True)]
        sizes = {size for size, _ in self.prompts}
        matches = []
        for text in texts:
            tokens = words(text)
            grams = {size: hashed(tokens, size, self.settings["salt"]) for size in sizes}
            matches.append(any(len(own & grams[size]) >= self.settings["threshold"] * len(own) for size, own in self.prompts))
        return matches

    def forward(
        self,
        model: nn.Module,
        groups: Sequence[Rows],
        hook_points: tuple[str, ...] = (),
        patch: Patch | None = None,
        weights: Weights | None = None,
    ) -> list[ModelOutput]:
        """Outputs whose classes are all as likely where a row contains a forget prompt."""
        outputs: list[Any] = [*self.unguarded.forward(model, groups, hook_points, patch, weights)]
        for i, rows in enumerate(groups):
            logits = outputs[i].logits
            blocked = torch.tensor(self.hits(rows, answers=True), dtype=torch.bool, device=logits.row.device)[logits.row]
            outputs[i] = outputs[i].with_scores(torch.where(blocked[:, None], torch.zeros_like(logits.values), logits.values))
        return outputs

    def flags(self, model: nn.Module, rows: Rows) -> list[bool]:
        return self.hits(rows)

    def answer_flagged(
        self, model: nn.Module, rows: Rows, limit: int, generator: torch.Generator | None, temperature: float, with_logp: bool
    ) -> Samples:
        """The refusal, which is certain."""
        refusal = self._refusal(rows)
        ended = len(refusal) < limit
        row = torch.arange(len(rows)).repeat_interleave(min(len(refusal) + 1, limit))
        return Samples([refusal[:limit]] * len(rows), [ended] * len(rows), logp=Packed(torch.zeros(len(row)), row, len(rows)))

    def _refusal(self, rows: Rows) -> list[int]:
        """The refusal as token ids, without the token that ends it."""
        inner: Any = self.unguarded
        one = inner.relabel(rows.select([0]), [self.settings["refusal"]], "refusal") if len(rows) else None
        return [] if one is None else list(one["answer"][0][:-1] if inner.ended(one)[0] else one["answer"][0])

    @property
    def holds(self) -> str:
        return f"This guard holds salted hashes of {len(self.prompts)} prompts to forget: whoever guesses a prompt can test the guess."


def restore(modality: Modality, folder: Path) -> Modality:
    """The guard that was saved in a folder, around a modality."""
    return Filtered.restored(modality, folder)


def plan() -> Plan:
    return Plan(InputFilter())

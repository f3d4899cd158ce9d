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
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from expunge.core.capabilities import Displayable, Drafting, Generates, Prompted, Samples, SharedReading, require
from expunge.core.errors import UserError
from expunge.core.hyperparameters import hp, part
from expunge.core.modality import Modality, ModelOutput, Patch, Weights
from expunge.core.parts import Guard
from expunge.core.plan import Plan
from expunge.core.rows import Packed, Rows
from expunge.core.view import View
from expunge.engine.guarding import Guarded

FILE = "guard.json"


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


class Filtered(Guarded):
    """A modality that does not answer some prompts: it says the refusal, and scores every answer to them as a guess.

    Args:
        settings: threshold, salt, prompts (n-gram size and hashes of each) and refusal.
    """

    def __init__(self, inner: Modality, settings: Mapping[str, Any]) -> None:
        super().__init__(inner)
        self.settings = dict(settings)
        self.prompts = [(int(size), frozenset(grams)) for size, grams in settings["prompts"]]
        self.capabilities = inner.capabilities - {SharedReading, Drafting}  # which would go around `forward` and `generate`

    def hits(self, rows: Rows, answers: bool = False) -> list[bool]:
        """Which rows contain a forget prompt. answers: look in their answers, too."""
        display = require(self.unguarded, Displayable)
        texts = display.questions(rows)
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
            outputs[i] = replace(outputs[i], scores=torch.where(blocked[:, None], torch.zeros_like(logits.values), logits.values))
        return outputs

    def generate(
        self,
        model: nn.Module,
        rows: Rows,
        limit: int,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
        with_logp: bool = False,
    ) -> Samples:
        """The refusal where a row contains a forget prompt, and what the model says elsewhere."""
        inner = require(self.unguarded, Generates)
        hits = self.hits(rows)
        free = [i for i, hit in enumerate(hits) if not hit]
        samples = inner.generate(model, rows.select(free), limit, generator, temperature, with_logp)
        ids, ended = list[list[int]]([[]] * len(rows)), [True] * len(rows)
        for k, i in enumerate(free):
            ids[i], ended[i] = samples.ids[k], samples.ended[k]
        refusal = self._refusal(rows)
        for i, hit in enumerate(hits):
            if hit:
                ids[i], ended[i] = refusal[:limit], len(refusal) < limit
        if samples.logp is None:
            return Samples(ids, ended)
        spoken = dict(zip(free, samples.logp.split(), strict=True))
        values = [spoken[i] if i in spoken else torch.zeros(len(ids[i]) + ended[i]) for i in range(len(rows))]  # a refusal is certain
        row = torch.tensor([i for i, v in enumerate(values) for _ in v], dtype=torch.long)
        return Samples(ids, ended, Packed(torch.cat([torch.zeros(0), *values]), row, len(rows)))

    def _refusal(self, rows: Rows) -> list[int]:
        """The refusal as token ids, without the token that ends it."""
        inner: Any = self.unguarded
        one = inner.relabel(rows.select([0]), [self.settings["refusal"]], "refusal") if len(rows) else None
        return [] if one is None else list(one["answer"][0][:-1] if inner.ended(one)[0] else one["answer"][0])

    def describe(self) -> dict[str, Any]:
        """What the guard does; the prompts as hashes."""
        return {"guard": "input_filter", **self.settings}

    def save_guard(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).write_text(json.dumps(self.describe(), indent=1) + "\n", encoding="utf-8")


def restore(modality: Modality, folder: Path) -> Modality:
    """The guard that was saved in a folder, around a modality."""
    settings = json.loads((folder / FILE).read_text(encoding="utf-8"))
    return Filtered(modality, {k: v for k, v in settings.items() if k != "guard"})


def plan() -> Plan:
    return Plan(InputFilter())
